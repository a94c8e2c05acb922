"""Killed at any moment and started again, a suite ends with the same bits as one that nobody disturbed."""

import io
import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from bench.cli import main
from bench.store import CHECKPOINT, Store
from bench.store.claims import CLAIM
from bench.train.lane import Clock
from bench.train.learner import INITIAL, MAIN
from tests.few import short_or_whole
from tests.forks import Command, server
from tests.train.conftest import FIFTY, OFTEN, Bench, Silent, document, rows, weights

METHODS = ["ab", {"method": "crd", "n_negatives": 32, "kd": 1.0}, "ft", "vid"]


def suite(folder: Path, **changes: object) -> Path:
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(document(**{"methods": METHODS, **OFTEN, **changes})))
    return path


def start(path: Path, results: Path, name: str = "command") -> Command:
    return Command(path, "--results", results, streams=path.parent / name)


def epochs_written(results: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in results.glob("runs/*/epochs.jsonl"))


@pytest.mark.parametrize(("kills", "methods"), [(1, METHODS[:2]), pytest.param(8, METHODS, marks=pytest.mark.slow)])
def test_a_suite_killed_at_random_moments_equals_an_undisturbed_one(kills, methods, tmp_path):
    training = {"epochs": 3 + kills, "batch_size": 16, "milestones": [3], "initial_epochs": 2}
    undisturbed, killed = Bench(tmp_path, document(methods=methods, training=training, **OFTEN)), tmp_path / "killed"
    plan, whole, _ = undisturbed.run("undisturbed")
    path = undisturbed.path

    chance = random.Random(0)
    for kill in range(kills):
        process = start(path, killed)
        seen = epochs_written(killed)
        further = chance.randint(1, 4)
        while abs(epochs_written(killed) - seen) < further:  # a resume may shorten the files first
            assert process.poll() is None, f"ended before kill {kill}"
            time.sleep(0.02)
        time.sleep(chance.uniform(0, 0.2))
        process.send(signal.SIGKILL)
        process.wait()
    assert start(path, killed).wait() == 0
    store = Store(killed)
    for run_id in plan.runs:
        assert weights(store, run_id) == weights(whole, run_id)
        assert rows(store, run_id) == rows(whole, run_id)
        assert store.record(run_id)["metrics"] == whole.record(run_id)["metrics"]


def train_until_the_fifth_checkpoint(suite: Bench, whole: Store, end: Callable[[], None]) -> None:
    """Train a suite whose teachers are done until it has written its fifth checkpoint."""
    saved, write = [], Store.write

    def write_and_end(store: Store, run_id: str, name: str, content: bytes) -> None:
        write(store, run_id, name, content)
        saved.extend([run_id] * (name == CHECKPOINT))
        if len(saved) == 5:
            end()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Store, "write", write_and_end)
        suite.run("torn", teachers=whole)


def interrupt() -> None:
    raise KeyboardInterrupt


def die() -> None:
    os._exit(1)


def train_and_die(suite: Path, whole: Path) -> None:
    """Do so in a process of its own, which dies."""
    train_until_the_fifth_checkpoint(Bench(suite.parent, yaml.safe_load(suite.read_text())), Store(whole), die)


@pytest.mark.parametrize("end", [interrupt, pytest.param(die, marks=pytest.mark.slow)])
def test_a_lane_that_is_ahead_waits_for_the_others(bench, end):
    """As when a process ends between two lanes' checkpoints."""
    one_step = {"epochs": 3, "batch_size": 50, "milestones": [2]}  # an epoch, and so one checkpoint
    suite = bench(methods=["kd", "pkt"], training=one_step, **OFTEN)
    plan, whole, _ = suite.run("whole")
    if end is interrupt:
        with pytest.raises(KeyboardInterrupt):
            train_until_the_fifth_checkpoint(suite, whole, end)
    else:
        process = server().Process(target=train_and_die, args=(suite.path, whole.root))
        process.start()
        process.join()
        assert process.exitcode == 1
    store = Store(suite.folder / "torn")
    left = [store.folder(run.id) / CHECKPOINT for run in plan.runs.values() if run.seed]
    assert [len(torch.load(path, weights_only=True)["rows"]) for path in left] == [2, 2, 1]
    suite.run("torn")
    for run_id in plan.runs:
        assert weights(store, run_id) == weights(whole, run_id)
        assert rows(store, run_id) == rows(whole, run_id)


def test_a_checkpoint_of_other_code_is_set_aside_and_the_run_starts_anew_on_demand(bench, tiny):
    suite, whole = bench(methods=["kd"]), tiny.store()
    plan, store, _ = suite.run("broken", only=["teacher"], teachers=whole)
    run = next(run for run in plan.runs.values() if run.terms)
    store.begin(run)
    buffer = io.BytesIO()
    torch.save({"clock": [MAIN, 1], "rows": []}, buffer)
    store.write_checkpoint(run.id, buffer.getvalue())
    suite.run("broken")
    failure = store.failure(run.id)
    assert failure is not None
    assert "checkpoint.pt cannot be restored" in failure.reason
    assert "is now checkpoint.broken; --retry-failed trains the run from its start" in failure.reason
    store.forget_failure(run.id)
    suite.run("broken")
    assert weights(store, run.id) == weights(whole, run.id)


@pytest.mark.usefixtures("few")
def test_a_kept_checkpoint_is_the_last_epochs(tmp_path, monkeypatch):
    path = suite(tmp_path, methods=["kd"])
    words = [str(path), "--results", str(tmp_path / "results"), "--keep-checkpoints", "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", ["run_suite.py", *words])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 0
    store = Store(tmp_path / "results")
    runs = [folder.name for folder in (tmp_path / "results" / "runs").iterdir() if folder.is_dir()]
    assert len(runs) == 3
    for run_id in runs:
        state = torch.load(store.folder(run_id) / CHECKPOINT, weights_only=True)
        assert state["rows"] == store.epochs(run_id)


@pytest.mark.slow  # in short: an interruption of the command line, in tests/cli/test_cli.py
def test_an_interrupt_ends_with_130_and_the_next_start_goes_on(tmp_path):
    path = suite(tmp_path, training={"epochs": 60, "batch_size": 16, "milestones": [40], "initial_epochs": 1})
    process = start(path, tmp_path / "results")
    while not list((tmp_path / "results").glob("runs/*/checkpoint.pt")):
        time.sleep(0.05)
        assert process.poll() is None
    process.send(signal.SIGINT)
    assert process.wait(timeout=30) == 130
    _, errors = process.said()
    assert "continues from the last checkpoints" in errors
    assert "Traceback" not in errors
    assert not list((tmp_path / "results").glob("runs/*/claim.json"))


def test_two_processes_on_one_suite_train_each_run_once(tmp_path):
    path = suite(tmp_path, methods=short_or_whole(["kd"], METHODS), seeds=2)
    pair = [start(path, tmp_path / "results", name) for name in ("one", "other")]
    assert [process.wait() for process in pair] == [0, 0]
    logs = [process.said()[1] for process in pair]
    trained = [line for log in logs for line in log.splitlines() if ": training " in line]
    cohorts = [line.split(": training ") for line in trained]
    rows = [(seed, row) for seed, members in cohorts for row in members.partition(": ")[2].split(", ")]
    assert len(rows) == len(set(rows)) == len(list((tmp_path / "results" / "runs").glob("*/record.json")))
    for record in (tmp_path / "results" / "runs").glob("*/epochs.jsonl"):
        epochs = [(row["stage"], row["epoch"]) for row in map(json.loads, record.read_text().splitlines())]
        assert len(epochs) == len(set(epochs))


def test_a_run_that_another_process_took_over_is_left_to_it_and_the_others_go_on(bench):
    """As when this machine was suspended for longer than a claim lives."""
    suite = bench(methods=["kd", "at"])
    plan, whole, _ = suite.run("whole")
    store, other = Store(suite.folder / "results"), Store(suite.folder / "elsewhere")
    taken = next(run.id for run in plan.runs.values() if run.terms)

    class Suspended(Silent):
        def epoch(self, lanes, clock, seconds, steps):
            super().epoch(lanes, clock, seconds, steps)
            if taken in self.epochs and not other.folder(taken).exists():
                other.claim(taken)
                shutil.copy(other.folder(taken) / CLAIM, store.folder(taken) / CLAIM)
            elif self.cohorts[-1] and taken not in self.cohorts[-1]:  # the other one has come to its end meanwhile
                shutil.copytree(whole.folder(taken), store.folder(taken), dirs_exist_ok=True)

    observer = Suspended()
    suite.run("results", observer=observer, poll_s=0.01, teachers=whole)
    other.release(taken)
    assert store.epochs(taken) == whole.epochs(taken)
    for run_id in plan.runs:
        assert weights(store, run_id) == weights(whole, run_id)


@pytest.fixture(scope="module")
def stepwise(tmp_path_factory):
    """Return a suite that saves a checkpoint after each step, and what comes of it when nobody interrupts it."""
    methods = ["ab", "ft", {"method": "crd", "n_negatives": 32}]
    suite = Bench(tmp_path_factory.mktemp("stepwise"), document(methods=methods, data=FIFTY, **OFTEN))
    plan, whole, _ = suite.run("whole")
    return suite, plan, whole


@pytest.mark.parametrize(
    "clock", [Clock(INITIAL, 1), pytest.param(Clock(MAIN, 2), marks=pytest.mark.slow)], ids=["initial", "main"]
)
def test_a_run_that_is_interrupted_within_an_epoch_goes_on_within_it(stepwise, clock):
    """Two lanes even from different steps, as when the process dies between their checkpoints."""
    suite, plan, whole = stepwise
    killed = f"killed-{clock.stage}"
    store = Store(suite.folder / killed)
    behind = next(run.id for run in plan.runs.values() if run.terms)
    old = suite.folder / "old.pt"

    class Killer(Silent):
        def step(self, lanes, step, steps):
            if lanes[0].clock == clock and behind in self.cohorts[-1]:
                if step == 3:  # what lies there is of step 2
                    shutil.copy(store.folder(behind) / CHECKPOINT, old)
                elif step == 4:
                    raise KeyboardInterrupt

    class Steps(Silent):
        def __init__(self):
            super().__init__()
            self.seen = []

        def step(self, lanes, step, steps):
            self.seen.append((len(lanes), step))

    with pytest.raises(KeyboardInterrupt):
        suite.run(killed, observer=Killer(), teachers=whole)
    old.replace(store.folder(behind) / CHECKPOINT)
    goes_on = Steps()
    suite.run(killed, observer=goes_on)
    together = 2 if clock.stage == INITIAL else 4
    assert goes_on.seen[:2] == [(1, 3), (together, 4)]
    for run_id in plan.runs:
        assert weights(store, run_id) == weights(whole, run_id)
        assert rows(store, run_id) == rows(whole, run_id)
