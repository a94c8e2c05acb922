import csv
import itertools
import os
import sys
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from bench.report import epochs
from bench.report.frame import results_frame
from bench.store import EPOCHS, Store
from bench.types import RequestError
from tests.stores import cell_of, finish_all, plan_of

ROWS = [
    {"stage": "initial", "epoch": 1, "loss": 9.0, "wall_s": 1.0},
    {"stage": "main", "epoch": 1, "loss": 2.0, "wall_s": 2.0},
    {"stage": "main", "epoch": 2, "loss": 1.5, "top1": 40.5, "wall_s": 3.0},
]


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "results")


def event_files(store: Store) -> dict[str, Path]:
    """Return the event files by run."""
    return {path.parents[1].name: path for path in store.root.glob("runs/*/tensorboard/*")}


def read(path: Path) -> EventAccumulator:
    events = EventAccumulator(str(path.parent))
    events.Reload()
    return events


# epochs.csv


def test_every_epoch_of_every_run_is_a_row(tmp_path, store):
    plan = plan_of(tmp_path, seeds=2)
    for run in cell_of(plan, "KD").runs:
        store.write_epochs(run.id, ROWS)
    with epochs.write_csv(results_frame(plan, store)).open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [*epochs.COLUMNS, "loss", "wall_s", "top1"]
    assert [(row["seed"], row["stage"], row["epoch"], row["top1"]) for row in rows] == [
        (seed, *place) for seed in "12" for place in (("initial", "1", ""), ("main", "1", ""), ("main", "2", "40.5"))
    ]
    assert {(row["pair"], row["row"]) for row in rows} == {("resnet14->resnet8", "KD")}


def test_runs_of_one_seed_are_told_apart_where_seeds_are_crossed(tmp_path, store):
    plan = plan_of(tmp_path, seeds={"init": 2, "order": 2, "teacher": 2})
    for run in (*cell_of(plan, "KD").runs, *cell_of(plan, "teacher").runs):
        store.write_epochs(run.id, ROWS[-1:])
    with epochs.write_csv(results_frame(plan, store)).open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    seeds = [(row["seed"], row["order_seed"], row["teacher_seed"]) for row in rows if row["row"] == "KD"]
    assert sorted(seeds) == list(itertools.product("12", "12", "01"))
    assert {row["teacher_seed"] for row in rows if row["row"] == "teacher"} == {""}


def test_a_run_that_serves_two_pairs_is_told_once(tmp_path, store):
    plan = plan_of(tmp_path, pairs=[{"teacher": name, "student": "resnet8"} for name in ("resnet14", "resnet20")])
    store.write_epochs(cell_of(plan, "none").runs[0].id, ROWS)
    with epochs.write_csv(results_frame(plan, store)).open(encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == len(ROWS)


def test_a_suite_that_was_never_run_has_only_a_heading(tmp_path, store):
    path = epochs.write_csv(results_frame(plan_of(tmp_path), store))
    assert path.read_text() == "pair,row,seed,order_seed,teacher_seed,run,stage,epoch\n"


# event files


def test_tensorboard_reads_every_number_at_its_epoch(tmp_path, store):
    plan = plan_of(tmp_path, tensorboard=True)
    run = cell_of(plan, "KD").runs[0]
    store.write_epochs(run.id, ROWS)
    epochs.write_events(plan, store)
    events = read(event_files(store)[run.id])
    found = {
        tag: [(one.step, one.value, one.wall_time) for one in events.Scalars(tag)] for tag in events.Tags()["scalars"]
    }
    assert found == {
        "initial/loss": [(1, 9.0, 1.0)],
        "initial/wall_s": [(1, 1.0, 1.0)],
        "loss": [(1, 2.0, 3.0), (2, 1.5, 6.0)],
        "top1": [(2, 40.5, 6.0)],
        "wall_s": [(1, 2.0, 3.0), (2, 3.0, 6.0)],
    }


def test_event_files_follow_their_runs_and_are_left_alone_otherwise(tmp_path, store):
    plan = plan_of(tmp_path, tensorboard=True)
    run = cell_of(plan, "KD").runs[0]
    store.write_epochs(run.id, ROWS[:2])
    epochs.write_events(plan, store)
    path = event_files(store)[run.id]
    written = path.stat()
    epochs.write_events(plan, store)
    assert path.stat() == written
    store.write_epochs(run.id, ROWS)
    os.utime(store.folder(run.id) / EPOCHS, (written.st_mtime + 1, written.st_mtime + 1))
    epochs.write_events(plan, store)
    assert len(read(path).Scalars("loss")) == 2


def test_a_suite_that_does_not_ask_gets_no_event_files(tmp_path, store):
    plan = plan_of(tmp_path)
    finish_all(store, plan, {"teacher": [90.0], "none": [80.0], "KD": [85.0]})
    store.write_epochs(cell_of(plan, "KD").runs[0].id, ROWS)
    epochs.write_events(plan, store)
    assert event_files(store) == {}


def test_asking_for_event_files_changes_no_run(tmp_path):
    assert list(plan_of(tmp_path, tensorboard=True).runs) == list(plan_of(tmp_path).runs)


def test_a_missing_package_is_told_with_the_cure(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(RequestError, match=r"table.yaml:\d+: tensorboard: needs the package .* pip install"):
        plan_of(tmp_path, tensorboard=True)
