"""Cohorts that several processes take: each has work, no run is trained twice, and no cohort is split without need."""

import pytest

from bench.plan import Plan, cohorts, shares, widest
from tests.stores import cell_of, plan_of

FOUR = ["kd", "at", "sp", "pkt"]


def grouped(plan: Plan, jobs: int, without: str | None = None, max_lanes: int | None = None) -> list[list[str]]:
    """Return the rows of every share, as `row seed`; the runs of the row `without` are done."""
    labels = {run.id: cell.label for cell in reversed(plan.cells) for run in cell.runs}
    done = {run.id for run in cell_of(plan, without).runs} if without else set()
    left = [run for run in plan.runs.values() if run.id not in done]
    return [[f"{labels[run.id]} {run.seed}" for run in one.runs] for one in shares(left, jobs, max_lanes)]


def sizes(found: list[list[str]]) -> list[int]:
    return [len(one) for one in found]


@pytest.mark.parametrize("max_lanes", [None, 2])
def test_one_job_takes_the_cohorts_as_they_are(max_lanes, tmp_path):
    runs = list(plan_of(tmp_path, methods=FOUR, seeds=3).runs.values())
    assert shares(runs, 1, max_lanes) == cohorts(runs, max_lanes)


def test_as_many_cohorts_as_jobs_stay_whole(tmp_path):
    assert grouped(plan_of(tmp_path, seeds=2), 2, without="teacher") == [["none 1", "KD 1"], ["none 2", "KD 2"]]


def test_the_last_cohorts_are_split_where_they_are_fewer_than_the_jobs(tmp_path):
    plan = plan_of(tmp_path, methods=FOUR, seeds=3)
    assert sizes(grouped(plan, 2, without="teacher")) == [5, 5, 2, 3]


def test_of_the_last_cohort_that_waits_only_runs_with_a_teacher_are_split(tmp_path):
    assert sizes(grouped(plan_of(tmp_path, methods=FOUR, seeds=3), 2)) == [1, 5, 5, 1, 2, 2]


@pytest.mark.parametrize(("jobs", "found"), [(2, [2, 3]), (4, [1, 1, 1, 2]), (5, [1] * 5), (9, [1] * 5)])
def test_a_cohort_is_split_into_as_many_parts_as_jobs_and_lanes_allow(jobs, found, tmp_path):
    assert sizes(grouped(plan_of(tmp_path, methods=FOUR), jobs, without="teacher")) == found


def test_the_larger_of_two_cohorts_is_split_into_more_parts(tmp_path):
    plan = plan_of(tmp_path, methods=FOUR, seeds=2)
    one_run = cell_of(plan, "KD").runs[1]
    left = [run for run in plan.runs.values() if run.seed == 1 or run is one_run]
    assert [len(one.runs) for one in shares(left, 4)] == [1, 2, 2, 1]


def test_while_a_teacher_trains_runs_without_one_are_ready(tmp_path):
    found = grouped(plan_of(tmp_path, methods=FOUR), 3)
    assert found == [["teacher 0"], ["none 1"], ["KD 1"], ["AT 1"], ["SP 1", "PKT 1"]]


def test_teachers_of_one_cohort_train_side_by_side(tmp_path):
    pairs = [{"teacher": name, "student": "resnet8"} for name in ("resnet14", "resnet20")]
    assert grouped(plan_of(tmp_path, pairs=pairs), 2)[:2] == [["teacher 0"], ["teacher 0"]]


@pytest.mark.parametrize("jobs", range(1, 8))
def test_each_run_is_in_one_share(jobs, tmp_path):
    plan = plan_of(tmp_path, methods=FOUR, seeds=3)
    members = [run.id for one in shares(list(plan.runs.values()), jobs) for run in one.runs]
    assert sorted(members) == sorted(plan.runs)


def test_no_more_jobs_have_work_than_runs_can_train_at_the_same_time(tmp_path):
    plan = plan_of(tmp_path, methods=FOUR, seeds=2)
    assert widest(list(plan.runs.values())) == 8  # a method's runs wait for the teacher, and the two others do not


def test_nothing_to_train_is_no_share():
    assert shares([], 4) == []
    assert widest([]) == 0
