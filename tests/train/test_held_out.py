"""Runs that leave dev images out of training: what they record, and what they read."""

from bench.spec import DEV
from tests.few import short_or_whole
from tests.train.conftest import document

DATA = document()["data"] | {"train_per_class": short_or_whole(3, 5), "dev_per_class": 2}


def test_a_run_with_dev_images_records_metrics_of_both_kinds_of_images(bench):
    plan, store, _ = bench(data=DATA, methods=["kd"]).run()
    for run in plan.runs.values():
        record = store.record(run.id)
        assert list(record["metrics"]) == ["top1", "top5", f"{DEV}top1", f"{DEV}top5"]
        assert 0 <= record["metrics"]["dev_top1"] <= 100
        assert record["metrics"]["dev_top1"] % 5 == 0  # of 20 images
        assert record["best"].keys() >= {"top1", "dev_top1"}
        assert store.epochs(run.id)[-1]["dev_top1"] == record["metrics"]["dev_top1"]


def test_each_metric_on_dev_has_its_own_place_in_a_cell(bench):
    (*_, cell) = bench(data=DATA).plan().cells
    assert list(cell.metrics) == ["top1", "top5", "dev_top1", "dev_top5"]
    assert [metric.title for metric in cell.measured][2:] == ["top-1 accuracy on dev", "top-5 accuracy on dev"]
