"""The one long table of a plan's results."""

import pytest

from bench.plan.agreement import compared_with
from bench.report.frame import results_frame
from bench.store import Store
from tests.stores import cell_of, fail, finish, finish_all, plan_of


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "results")


def test_every_cell_has_a_row_per_metric_and_seed_with_or_without_a_record(tmp_path, store):
    plan = plan_of(tmp_path, seeds=2, methods=[{"method": "kd", "temperature": 2.0}])
    kd = plan.cells[-1]
    finish(store, kd, [70.0])
    measured = [one for one in results_frame(plan, store).measurements if one.method == "kd"]
    rows = [one for one in measured if one.metric in ("top1", "top5")]
    assert [(one.metric, one.seed, one.value, one.best, one.status) for one in rows] == [
        ("top1", 1, 70.0, 71.0, "done"),
        ("top1", 2, None, None, "waiting"),
        ("top5", 1, 99.0, 99.5, "done"),
        ("top5", 2, None, None, "waiting"),
    ]
    assert len(measured) == 2 * 2
    first = rows[0]
    assert (first.suite, first.pair, first.parameters) == ("table", "resnet14->resnet8", "temperature=2")
    assert (first.teacher_seed, first.network, first.run) == (0, "student", kd.runs[0].id)


def test_a_summary_is_made_of_the_finished_seeds(tmp_path, store):
    plan = plan_of(tmp_path, seeds=3)
    finish(store, cell_of(plan, "KD"), [70.0, 72.0])
    one = results_frame(plan, store).at("resnet14->resnet8", "top1", "KD")
    assert (one.n, one.mean, one.best_mean, one.by_seed) == (2, 71.0, 72.0, {1: 70.0, 2: 72.0})
    assert one.std == pytest.approx(2**0.5)
    assert (one.status, one.reason, one.is_open) == ("partial", "seed 3 waiting", True)


def test_arrows_are_of_finished_methods_alone(tmp_path, store):
    plan = plan_of(tmp_path, methods=["kd", "at", "sp", "pkt"])
    finish_all(store, plan, {"teacher": [99.0], "none": [98.0], "KD": [71.0], "AT": [72.0], "SP": [70.0], "PKT": []})
    fail(store, cell_of(plan, "PKT"), "failed", "disk full")
    arrows = {one.label: one.arrow for one in results_frame(plan, store).primary}
    assert arrows == {"teacher": "", "none": "", "KD": "", "AT": "↑", "SP": "↓", "PKT": ""}


def test_columns_are_the_metrics_that_people_read_and_each_cell_has_one_primary_summary(tmp_path, store):
    frame = results_frame(plan_of(tmp_path), store)
    assert frame.columns == [("resnet14->resnet8", "top1")]
    assert frame.labels == ["teacher", "none", "KD"]
    assert [(one.label, one.metric) for one in frame.primary] == [(label, "top1") for label in frame.labels]
    assert {one.metric for one in frame.summaries} == {"top1", "top5"}


def test_as_a_data_frame_it_has_a_column_per_attribute(tmp_path, store):
    plan = plan_of(tmp_path)
    finish(store, cell_of(plan, "KD"), [70.0])
    table = results_frame(plan, store).to_pandas()
    assert len(table) == 3 * 2
    assert table.query("label == 'KD' and metric == 'top1'")["value"].tolist() == [70.0]
    assert table.query("label == 'none'")["value"].isna().all()


# what is computed from answers


def scored(store, plan, label, scores, to_teacher=None):
    """Add scores to the records of a row's runs, one mapping for each seed."""
    teacher = cell_of(plan, "teacher").runs[0].id
    for run, numbers in zip(cell_of(plan, label).runs, scores, strict=True):
        store.amend(run.id, {"scores": numbers, "to_teacher": {teacher: to_teacher or {}}})


def test_scores_are_in_the_frame_and_empty_where_a_record_has_none(tmp_path, store):
    plan = plan_of(tmp_path, seeds=2)
    finish_all(store, plan, {"teacher": [90.0, 90.0], "none": [80.0, 80.0], "KD": [85.0, 85.0]})
    scored(store, plan, "KD", [{"nll": 0.5}, {"nll": 0.7}], {"agreement": 75.0})
    frame = results_frame(plan, store)
    one = frame.at("resnet14->resnet8", "nll", "KD")
    assert (one.mean, one.n, one.best_mean, one.status) == (pytest.approx(0.6), 2, None, "done")
    assert frame.at("resnet14->resnet8", "agreement", "KD").by_seed == {1: 75.0, 2: 75.0}
    lacking = frame.at("resnet14->resnet8", "nll", "none")
    assert (lacking.mean, lacking.n, lacking.status) == (None, 0, "done")
    assert {one.metric for one in frame.answered} == {"nll", "agreement"}
    assert {one.metric for one in frame.summaries if one.label == "none"} == {"top1", "top5", "nll", "agreement"}
    assert frame.columns == [("resnet14->resnet8", "top1")]
    assert [one.metric for one in frame.listed if one.label == "KD"] == ["top1", "top5", "nll", "agreement"]
    assert [one.metric for one in frame.listed if one.label == "none"] == ["top1", "top5"]


def test_of_a_metric_that_is_better_when_lower_lower_than_kd_is_above_it(tmp_path, store):
    plan = plan_of(tmp_path, methods=["kd", "at"])
    finish_all(store, plan, {"teacher": [99.0], "none": [98.0], "KD": [71.0], "AT": [72.0]})
    scored(store, plan, "KD", [{"nll": 0.5, "class_min": 10.0}])
    scored(store, plan, "AT", [{"nll": 0.4, "class_min": 5.0}])
    frame = results_frame(plan, store)
    likelihood, worst = (frame.at("resnet14->resnet8", metric, "AT") for metric in ("nll", "class_min"))
    assert likelihood.arrow == "↑"
    assert worst.arrow == "↓"


def test_a_student_is_compared_with_the_teacher_of_its_pair_and_seed(tmp_path):
    plan = plan_of(tmp_path, seeds=2, teacher_seeds="paired")
    teachers = [run.id for run in cell_of(plan, "teacher").runs]
    for label in ("none", "KD"):
        assert [compared_with(plan)[run.id] for run in cell_of(plan, label).runs] == [[teacher] for teacher in teachers]
    assert not set(teachers) & compared_with(plan).keys()
