"""A report writes nothing again that it would write as it is, and everything as soon as anything is different."""

import os
from pathlib import Path

import pytest

from bench.plan import Plan
from bench.report.current import inputs, is_current, mark_current
from bench.report.frame import results_frame
from bench.report.write import write_tables
from bench.store import Store
from bench.workflow import reported
from tests.stores import METHODS, cell_of, finish, finish_all, plan_of

DONE = {"teacher": [90.0, 91.0], "none": [80.0, 81.0], "KD": [85.0, 86.0]}


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "results")


@pytest.fixture
def plan(tmp_path, store):
    plan = plan_of(tmp_path, seeds=2)
    finish_all(store, plan, DONE)
    return plan


def tables(plan: Plan, store: Store) -> None:
    """Write what a report consists of here, the tables, and that it is up to date."""
    frame = write_tables(plan, store)
    mark_current(frame, inputs(frame))


def current(plan: Plan, store: Store) -> bool:
    return is_current(results_frame(plan, store), "page")


def stamps(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_a_second_report_writes_nothing_and_one_of_a_changed_record_writes_every_output(plan, store):
    folder = store.suite_folder("table")
    reported(plan, store, METHODS)
    first = stamps(folder)
    reported(plan, store, METHODS)
    assert stamps(folder) == first
    finish(store, cell_of(plan, "KD"), [86.0, 87.0], plan)
    reported(plan, store, METHODS)
    changed = stamps(folder)
    assert changed.keys() == first.keys()
    assert all(changed[path] > first[path] for path in first)


@pytest.mark.parametrize("style", ["page", "paper"])
def test_what_was_never_reported_is_not_up_to_date(plan, store, style):
    assert not is_current(results_frame(plan, store), style)


def test_figures_for_a_paper_are_written_where_there_are_none_yet(plan, store):
    tables(plan, store)
    assert current(plan, store)
    assert not is_current(results_frame(plan, store), "paper")


def test_epochs_of_a_run_that_is_not_finished_make_another_report(plan, store):
    run = cell_of(plan, "KD").runs[0]
    (store.folder(run.id) / "record.json").unlink()
    tables(plan, store)
    assert current(plan, store)
    store.write_epochs(run.id, [{"stage": "main", "epoch": 1, "loss": 1.0}])
    assert not current(plan, store)


@pytest.mark.parametrize("name", ["table.csv", "table.md"])
def test_a_file_that_somebody_has_changed_or_removed_is_written_again(plan, store, name):
    tables(plan, store)
    file = store.suite_folder("table") / name
    file.write_text("mine")
    assert not current(plan, store)
    file.unlink()
    assert not current(plan, store)


@pytest.mark.parametrize("name", ["table.csv", "cost.csv"])
def test_a_fifo_in_place_of_a_file_of_the_report_does_not_block(plan, store, name):
    tables(plan, store)
    (store.suite_folder("table") / name).unlink(missing_ok=True)
    os.mkfifo(store.suite_folder("table") / name)
    assert current(plan, store) == (name == "cost.csv")  # without costs, there was none before


def test_new_costs_and_another_suite_file_make_another_report(tmp_path, plan, store):
    tables(plan, store)
    (store.suite_folder("table") / "cost.csv").write_text("pair,label\n")
    assert not current(plan, store)
    tables(plan, store)
    assert not current(plan_of(tmp_path, seeds=2, title="Another title"), store)


def test_tables_that_are_written_while_runs_train_are_no_whole_report(plan, store):
    tables(plan, store)
    write_tables(plan, store)
    assert not current(plan, store)
