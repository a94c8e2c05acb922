"""The control of rows with an initial stage: the undistilled student with as many more epochs."""

import pytest

from bench.plan import build_plan
from bench.plan.repeat import suite_files
from bench.report.conditions import conditions
from bench.report.frame import results_frame
from bench.spec import RunSpec
from bench.store import Store
from bench.suite import load
from bench.types import RequestError
from tests.stores import METHODS, cell_of, finish, plan_of, write_suite

TRAINING = {"epochs": 10, "milestones": [6, 8], "initial_epochs": 4}
CONTROL = "none, +4 epochs"


def test_a_row_with_an_initial_stage_adds_the_student_with_as_many_more_epochs(tmp_path):
    plan = plan_of(tmp_path, methods=["kd", "ab", "ft"], training=TRAINING)
    assert [cell.label for cell in plan.cells] == ["teacher", "none", CONTROL, "KD", "AB", "FT"]
    schedule = cell_of(plan, CONTROL).runs[0].training
    assert (schedule.epochs, schedule.milestones, schedule.initial_epochs) == (14, (10, 12), 0)


def test_the_control_is_the_run_of_a_student_with_that_schedule(tmp_path):
    control = cell_of(plan_of(tmp_path, methods=["ab"], training=TRAINING), CONTROL)
    longer = plan_of(tmp_path, training={"epochs": 14, "milestones": [10, 12]}, teacher_training=TRAINING)
    assert control.runs == cell_of(longer, "none").runs


def test_steps_of_an_initial_stage_are_rounded_up_to_whole_epochs_of_the_control(tmp_path):
    training = {"epochs": 10, "milestones": [6], "batch_size": 16, "initial_steps": 4}  # 3 steps see 40 images
    plan = plan_of(tmp_path, methods=["ab"], training=training)
    schedule = cell_of(plan, "none, +2 epochs").runs[0].training
    assert (schedule.epochs, schedule.milestones, schedule.initial_steps) == (12, (8,), None)
    (run,) = cell_of(plan, "AB").runs
    assert (run.training.initial_epochs, run.training.initial_steps) == (0, 4)
    assert RunSpec.model_validate_json(run.model_dump_json(exclude_none=True)) == run


@pytest.mark.parametrize(
    "changes",
    [
        {"methods": ["kd"]},
        {"controls": False},
        {"training": TRAINING | {"initial_epochs": 0}},
        {"task": "mutual"},
    ],
    ids=str,
)
def test_there_is_no_control_without_an_initial_stage_or_where_the_suite_wants_none(changes, tmp_path):
    plan = plan_of(tmp_path, **({"methods": ["ab"], "training": TRAINING} | changes))
    assert [cell.label for cell in plan.cells if cell.is_control] == []


def test_a_control_is_searched_like_other_rows_and_keeps_its_further_epochs_in_every_rung(tmp_path):
    tuning = {"trials": 2, "dev_per_class": 1, "rungs": {"5": 2, "10": 1}}
    plan = plan_of(tmp_path, methods=["ab"], training=TRAINING, tuning=tuning)
    choice = cell_of(plan, f"{CONTROL} (tuned)").choice
    assert choice is not None
    assert {run.training.epochs for trial in choice.trials for run in trial.runs} == {7}  # 5, and 2 of 4


def test_a_control_has_no_published_number_and_does_not_hide_that_of_the_student(tmp_path):
    suite = {"data": "cifar100", "pairs": [{"teacher": "wrn_40_2", "student": "wrn_16_2"}], "methods": ["ab"]}
    plan = plan_of(tmp_path, **suite, training={}, published={"source": "a paper", "table": 1})
    published = {one.label: one.published for one in results_frame(plan, Store(tmp_path)).primary}
    assert published["none, +30 epochs"] is None
    assert published["none"] == 73.26


def test_the_suite_that_repeats_a_controls_run_asks_for_that_run(tmp_path):
    plan = plan_of(tmp_path, methods=["ab"], training=TRAINING)
    (run,) = cell_of(plan, CONTROL).runs
    (tmp_path / "again").mkdir()
    path = write_suite(tmp_path / "again", text=suite_files(plan, run)["suite.yaml"])
    assert cell_of(build_plan(load(path, METHODS), path, METHODS), "none").runs == (run,)


def test_the_caption_says_what_the_control_is(tmp_path):
    said = conditions(plan_of(tmp_path, methods=["ab", "kd", "ft"], training=TRAINING))
    assert f"{CONTROL}: the student without a teacher, trained for as many more epochs as the" in said
    assert "the initial stage of AB, FT has." in said


def test_a_control_is_compared_with_none_and_is_not_bold(tmp_path):
    plan, store = plan_of(tmp_path, methods=["ab", "ft"], training=TRAINING, seeds=3), Store(tmp_path / "results")
    values = {"none": [50, 52, 51], CONTROL: [70, 71, 73], "AB": [60, 61, 63], "FT": [61, 60, 64], "teacher": [80]}
    for label, of_row in values.items():
        finish(store, cell_of(plan, label), of_row)
    frame = results_frame(plan, store)
    assert CONTROL in next(iter(frame.models.values())).values
    assert {label for _, _, label in frame.best} == {"AB", "FT"}


def test_a_label_of_a_control_is_refused(tmp_path):
    with pytest.raises(RequestError, match="label of a row that tables have of themselves"):
        plan_of(tmp_path, methods=[{"method": "kd", "label": CONTROL}])
