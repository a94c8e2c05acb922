"""Trackers receive the epochs of runs, and can do them no harm."""

import logging
import re
import sqlite3
from importlib.util import find_spec
from pathlib import Path

import pytest

from bench.launch.launcher import Launcher
from bench.launch.trackers import FOLDER, TRACKERS, Several, Tracking
from bench.store import Store
from tests.few import use_few_digits
from tests.train.conftest import Bench, Silent, document

TINY = {"pairs": [{"teacher": "resnet8", "student": "resnet8"}], "seeds": 2}


class Kept:
    """A tracker that keeps what it is told."""

    def __init__(self) -> None:
        self.steps: dict[str, list[int]] = {}
        self.numbers: dict[str, dict] = {}
        self.ended: dict[str, bool] = {}

    def __call__(self, folder, suite, name, settings):
        return KeptRun(self, name)


class KeptRun:
    def __init__(self, kept: Kept, name: str) -> None:
        self.kept, self.name = kept, name

    def log(self, numbers, step) -> None:
        self.kept.steps.setdefault(self.name, []).append(step)
        self.kept.numbers[self.name] = dict(numbers)

    def end(self, is_done) -> None:
        self.kept.ended[self.name] = is_done


class Broken(KeptRun):
    """A run of a tracker that fails in its second epoch, and again when it is ended."""

    def log(self, numbers, step) -> None:
        if step == 2:
            raise ConnectionError("no disk")
        super().log(numbers, step)

    def end(self, is_done) -> None:
        super().end(is_done)
        raise ConnectionError("still no disk")


@pytest.fixture(autouse=True)
def few_digits(monkeypatch):
    use_few_digits(monkeypatch)


def run(folder: Path, tracker, name: str = "kept", seeds: int = 2):
    """Train the undistilled student, followed by a tracker; return the store and the runs."""
    suite = Bench(folder, document(**TINY | {"seeds": seeds}))
    work = suite.work(only=["none"])
    Launcher(work).run(Several(Silent(), Tracking(name, tracker, work)))
    return Store(work.results), work.wanted


def test_a_tracker_receives_every_epoch_of_every_run(tmp_path):
    kept = Kept()
    store, runs = run(tmp_path, kept)
    names = {f"resnet8->resnet8 none seed {one.seed}": one for one in runs}
    assert kept.steps == {name: [1, 2] for name in names}
    assert kept.ended == dict.fromkeys(names, True)
    for name, one in names.items():
        assert kept.numbers[name]["top1"] == store.record(one.id)["metrics"]["top1"]
        assert not kept.numbers[name].keys() & {"stage", "epoch"}


def test_a_tracker_that_fails_stops_no_run_and_says_so_once(tmp_path, caplog):
    kept = Kept()
    with caplog.at_level(logging.WARNING):
        store, runs = run(tmp_path, lambda folder, suite, name, settings: Broken(kept, name))
    assert [store.state(one.id) for one in runs] == ["done", "done"]
    said = [one.getMessage() for one in caplog.records]
    assert said == ["warning: --track kept: ConnectionError: no disk. The runs train on, without it"]


def test_a_run_that_is_open_when_the_tracker_fails_is_ended_as_failed(tmp_path):
    kept = Kept()
    _, (one,) = run(tmp_path, lambda folder, suite, name, settings: Broken(kept, name), seeds=1)
    assert kept.ended == {f"resnet8->resnet8 none seed {one.seed}": False}


def failing(tracker):
    """Return a tracker that fails in the second epoch."""

    class Failing(tracker):
        def log(self, numbers, step) -> None:
            if step == 2:
                raise OSError("no space left")
            super().log(numbers, step)

    return Failing


def mlflow_runs(folder: Path) -> list:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=folder.resolve().as_uri())
    return client.search_runs([client.get_experiment_by_name("tiny").experiment_id])


def of_mlflow(folder: Path) -> list[list[float]]:
    from mlflow import MlflowClient

    runs = mlflow_runs(folder)
    client = MlflowClient(tracking_uri=folder.resolve().as_uri())
    assert {one.info.status for one in runs} == {"FINISHED"}
    return [[one.value for one in client.get_metric_history(run.info.run_id, "loss")] for run in runs]


def of_trackio(folder: Path) -> list[list[float]]:
    with sqlite3.connect(folder / "tiny.db") as database:
        rows = database.execute(
            "select run_name, json_extract(metrics, '$.loss') from metrics order by step"
        ).fetchall()
    return [[loss for name, loss in rows if name == one] for one in dict.fromkeys(name for name, _ in rows)]


def of_wandb(folder: Path) -> list[list[float]]:
    """Return the losses of each run's file: a log of protocol buffers, in which numbers are text."""
    contents = [path.read_bytes() for path in folder.glob("wandb/offline-run-*/*.wandb")]
    found = [re.findall(rb"\x04loss[^\d]{1,3}([\d.]+)", content) for content in contents]  # each is in a summary, too
    return [list(dict.fromkeys(map(float, losses))) for losses in found]


READ = {"mlflow": of_mlflow, "trackio": of_trackio, "wandb": of_wandb}


@pytest.mark.parametrize("name", TRACKERS)
def test_what_a_tracker_has_kept_is_what_the_store_has(name, tmp_path):
    if find_spec(name) is None:  # importing trackio here would fix its folder
        pytest.skip(f"needs the package {name}")
    store, runs = run(tmp_path, TRACKERS[name], name)
    expected = sorted([row["loss"] for row in store.epochs(one.id)] for one in runs)
    found = sorted(READ[name](store.root / FOLDER / name))
    assert found == [pytest.approx(losses) for losses in expected]


def test_a_run_that_mlflow_no_longer_receives_is_not_shown_as_running(tmp_path):
    pytest.importorskip("mlflow")
    store, _ = run(tmp_path, failing(TRACKERS["mlflow"]), "mlflow", seeds=1)
    assert [one.info.status for one in mlflow_runs(store.root / FOLDER / "mlflow")] == ["FAILED"]


def test_a_tracker_that_is_not_installed_is_refused_before_anything_trains(tmp_path, cli, monkeypatch):
    monkeypatch.setattr("bench.launch.trackers.find_spec", lambda name: None)
    suite = Bench(tmp_path, document(**TINY))
    status, _, err = cli("run", suite.path, "--track", "wandb", "--results", tmp_path / "results")
    assert (status, "--track wandb: needs the package wandb" in err) == (2, True)
    assert not (tmp_path / "results").exists()
