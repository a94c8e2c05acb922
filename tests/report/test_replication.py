import shutil

import pytest

from bench.report.epochs import write_csv
from bench.report.frame import results_frame
from bench.report.replication import replication
from bench.report.write import write_tables
from bench.store import Store
from tests.stores import finish_all, plan_of

WITHIN = "rows are within 2.25 points of the published mean, the 95% margin for other seeds and all rows together"
PUBLISHED = {"teacher": [90.0], "none": [80.0, 81.0, 82.0], "KD": [84.0, 85.0, 86.0]}


@pytest.fixture
def compared(tmp_path):
    """Return what is said of a suite's numbers, given those of the published one and changes to the suite."""

    def say(values, **changes):
        for name, numbers, more in (("theirs", PUBLISHED, {}), ("ours", values, changes)):
            (tmp_path / name).mkdir()
            plan, store = plan_of(tmp_path / name, **{"seeds": 3} | more), Store(tmp_path / name / "results")
            finish_all(store, plan, numbers)
            for run in plan.runs.values():
                record = store.record(run.id)
                store.write_epochs(run.id, [{"stage": "main", "epoch": 1, "loss": 1.0, **record["metrics"]}])
            write_tables(plan, store)
            write_csv(results_frame(plan, store))
        published = tmp_path / "project" / "results" / "published"
        shutil.copytree(tmp_path / "theirs" / "results" / "table", published / "table")
        return replication(results_frame(plan, store), published)

    return say


def test_rows_outside_the_pooled_margin_are_named(compared):
    # the variance is 1 in each of two rows, with 8 degrees of freedom: t = 2.752, and t * sqrt(2 / 3) = 2.25
    said = compared(PUBLISHED | {"KD": [86.5, 87.5, 88.5], "none": [82.0, 83.0, 84.0]})
    assert said == f"Compared with results/published/table: 1 of 2 {WITHIN}; outside: KD +2.50"


def test_a_replication_names_no_row(compared):
    assert compared(PUBLISHED) == f"Compared with results/published/table: 2 of 2 {WITHIN}"


def test_runs_with_other_settings_are_not_compared(compared):
    assert compared(PUBLISHED, training={"epochs": 2}) == ""


def test_suites_without_published_results_are_not_compared(tmp_path):
    plan = plan_of(tmp_path)
    assert replication(results_frame(plan, Store(tmp_path / "results")), tmp_path) == ""
