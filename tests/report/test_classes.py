"""classes.csv: the accuracy of each row on each class."""

from bench.report import classes
from bench.report.folder import CLASSES
from bench.report.frame import results_frame
from bench.store import Store
from tests.stores import cell_of, finish_all, plan_of


def test_each_class_has_its_mean_over_the_seeds_that_have_images_of_it(tmp_path):
    plan, store = plan_of(tmp_path, seeds=2), Store(tmp_path / "results")
    finish_all(store, plan, {"teacher": [90.0, 90.0], "none": [80.0, 80.0], "KD": [85.0, 85.0]})
    classes.write(results_frame(plan, store))
    path = store.suite_folder("table") / CLASSES
    assert not path.exists()
    for run, accuracies in zip(cell_of(plan, "KD").runs, [[70.0, None, 40.0], [80.0, None, None]], strict=True):
        store.amend(run.id, {"class_accuracy": {"student": accuracies}})
    classes.write(results_frame(plan, store))
    assert path.read_text().splitlines() == [
        "pair,label,evaluation,class,n,mean,std",
        "resnet14->resnet8,KD,,0,2,75.0,7.0711",
        "resnet14->resnet8,KD,,2,1,40.0,",
    ]
