"""The table of variance components, from records made by hand."""

import csv

import pytest

from bench.report.folder import STATISTICS, VARIANCE
from bench.report.frame import results_frame
from bench.report.statistics_files import write
from bench.report.variance import spreads
from bench.store import Store
from tests.stores import cell_of, finish, plan_of

SEEDS = {"init": 3, "order": 3, "teacher": 2}


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "results")


@pytest.fixture
def crossed(tmp_path, store):
    """Return the frame of a suite in which KD varies with its order alone."""
    plan = plan_of(tmp_path, seeds=SEEDS, methods=["kd", "pkt"])
    finish(store, cell_of(plan, "teacher"), [90.0, 91.0])
    finish(store, cell_of(plan, "none"), [60.0 + number % 2 for number in range(9)])
    for label in ("KD", "PKT"):
        cell = cell_of(plan, label)
        finish(store, cell, [70.0 + 2 * run.ordered_by for run in cell.runs])
    return results_frame(plan, store)


def test_a_row_has_a_component_for_each_source_and_the_rest(crossed):
    kd = next(one for one in spreads(crossed) if one.label == "KD")
    assert (kd.metric, kd.n, kd.seeds) == ("top1", 18, SEEDS)
    assert kd.variances == pytest.approx({"init": 0, "order": 4, "teacher": 0, "residual": 0}, abs=1e-9)
    assert kd.deviation("order") == pytest.approx(2)
    assert kd.mean.value == pytest.approx(74)


def test_a_student_without_teacher_has_no_component_of_teachers_and_methods_have_one_row_together(crossed):
    found = {one.label: one for one in spreads(crossed) if one.metric == "top1"}
    assert list(found) == ["none", "KD", "PKT", "all methods"]
    assert "teacher" not in found["none"].variances
    assert found["all methods"].variances["order"] == pytest.approx(4)


def test_the_files_show_every_component_and_the_means_interval(crossed):
    write(crossed)
    folder = crossed.folder
    with (folder / VARIANCE).open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if (row["metric"], row["label"]) == ("top1", "KD")]
    assert {row["source"]: row["seeds"] for row in rows} == {
        **{key: str(count) for key, count in SEEDS.items()},
        "residual": "",
        "mean": "",
    }
    assert float(rows[-1]["low"]) < 74 < float(rows[-1]["high"])
    text = (folder / STATISTICS[1]).read_text(encoding="utf-8")
    assert "## Where the spread comes from" in text
    assert "| KD | 18 | 0.00 | 2.00 | 0.00 | 0.00 | 74.00 |" in text


def test_a_row_that_is_not_finished_has_no_components(tmp_path, store):
    plan = plan_of(tmp_path, seeds={"init": 3, "order": 3})
    finish(store, cell_of(plan, "KD"), [70.0] * 8)
    assert spreads(results_frame(plan, store)) == []
