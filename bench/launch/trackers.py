"""Passes epochs on to experiment trackers: Weights & Biases, MLflow or trackio, which write local files.

A tracker is a function that starts a run and returns it as a `Tracked`. One that fails gets no more epochs, and its
open runs are ended as failed. The runs themselves train on, and the store has everything.
"""

import contextlib
import contextvars
import io
import json
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

from bench.launch.work import Work
from bench.spec import RunSpec, canonical_document
from bench.store import Store
from bench.train.lane import Clock, Lane
from bench.train.loop import Observer
from bench.types import RequestError

logger = logging.getLogger(__name__)

FOLDER = "tracked"  # of the trackers, in the results
NOT_NUMBERS = ("stage", "epoch")  # of a row of epochs
MAX_VALUE = 6000  # characters of a value that MLflow takes


class Tracked(Protocol):
    """A run that a tracker shows."""

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """Add an epoch's numbers by name; steps count the epochs of all stages, from 1."""

    def end(self, is_done: bool) -> None:
        """End the run, as done or as failed."""


Tracker = Callable[[Path, str, str, Mapping[str, str]], Tracked]  # of folder, suite, the run's name, and its settings


class WandbRun:
    """A run of Weights & Biases, offline; `wandb sync` uploads it."""

    def __init__(self, folder: Path, suite: str, name: str, settings: Mapping[str, str]) -> None:
        import wandb

        own = wandb.Settings(silent=True, console="off", x_disable_stats=True)
        where = {"dir": str(folder), "mode": "offline", "reinit": "create_new"}  # several runs are open at a time
        self.run = wandb.init(project=suite, name=name, config=dict(settings), settings=own, **where)

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """See `Tracked`."""
        self.run.log(dict(numbers), step=step)

    def end(self, is_done: bool) -> None:
        """See `Tracked`."""
        self.run.finish(exit_code=0 if is_done else 1)


class MlflowRun:
    """A run of MLflow, in its file store."""

    def __init__(self, folder: Path, suite: str, name: str, settings: Mapping[str, str]) -> None:
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # later versions ask for it
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        from mlflow import MlflowClient

        self.client = MlflowClient(tracking_uri=folder.resolve().as_uri())
        known = self.client.get_experiment_by_name(suite)
        experiment = known.experiment_id if known else self.client.create_experiment(suite)
        self.id = self.client.create_run(experiment, run_name=name).info.run_id
        for key, value in settings.items():
            self.client.log_param(self.id, key, value[:MAX_VALUE])

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """See `Tracked`."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self.client.log_batch(self.id, [Metric(name, value, now, step) for name, value in numbers.items()])

    def end(self, is_done: bool) -> None:
        """See `Tracked`."""
        self.client.set_terminated(self.id, "FINISHED" if is_done else "FAILED")


class TrackioRun:
    """A run of trackio, in its local database."""

    def __init__(self, folder: Path, suite: str, name: str, settings: Mapping[str, str]) -> None:
        os.environ["TRACKIO_DIR"] = str(folder.resolve())  # read at the import
        import trackio

        options = {"embed": False, "auto_log_cpu": False, "auto_log_gpu": False}
        with contextlib.redirect_stdout(io.StringIO()):
            # it ends the run that it began before in the same context
            self.run = contextvars.Context().run(trackio.init, suite, name=name, config=dict(settings), **options)

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """See `Tracked`."""
        self.run.log(dict(numbers), step=step)

    def end(self, is_done: bool) -> None:
        """See `Tracked`."""
        with contextlib.redirect_stdout(io.StringIO()):
            self.run.finish()


TRACKERS: dict[str, Tracker] = {"mlflow": MlflowRun, "trackio": TrackioRun, "wandb": WandbRun}


def check_installed(name: str) -> None:
    """Raise a `RequestError` if a tracker's package is not installed."""
    if find_spec(name) is None:
        raise RequestError(
            f"--track {name}: needs the package {name}, which is not installed: pip install "
            "'distillation-bench[trackers]', or leave the option out"
        )


class Tracking(Observer):
    """An observer that passes the epochs of each run to a tracker, until that raises an exception.

    The runs that are open then are ended as failed, so that the tracker does not show them as running.
    """

    def __init__(self, name: str, tracker: Tracker, work: Work) -> None:
        """Observe the cohorts of a process.

        Args:
            name: of the tracker.
            tracker: starts a run.
            work: has the plan, and the folder of the results.
        """
        self.name, self.tracker, self.plan = name, tracker, work.plan
        self.store, self.folder = Store(work.results), work.results / FOLDER / name
        self.open: dict[str, Tracked] = {}  # by run id
        self.is_sound = True

    def epoch(self, lanes: Sequence[Lane], clock: Clock, seconds: float, steps: int) -> None:
        """Pass on an epoch's end: the last row of each run or, of one that has just begun or continues, all rows."""
        if not self.is_sound:
            return
        try:
            for lane in lanes:
                self._take(lane)
        except Exception as error:  # of a library or the disk: the runs have nothing to do with it
            self.is_sound = False
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            logger.warning("warning: --track %s: %s. The runs train on, without it", self.name, reason)
            for started in self.open.values():
                with contextlib.suppress(Exception):  # what failed may fail again
                    started.end(is_done=False)
            self.open.clear()

    def _take(self, lane: Lane) -> None:
        run_id, done = lane.spec.id, len(lane.rows)
        first = done if run_id in self.open else 1
        if run_id not in self.open:
            self.open[run_id] = self._started(lane)
        if lane.failure is None:
            for step in range(first, done + 1):
                row = lane.rows[step - 1]
                self.open[run_id].log({name: row[name] for name in row if name not in NOT_NUMBERS}, step)
        if lane.failure is not None or lane.done:
            self.open.pop(run_id).end(is_done=lane.failure is None)

    def _started(self, lane: Lane) -> Tracked:
        run = lane.spec
        pair, row = self.plan.titles[run.id]
        settings = {"pair": pair, "row": row, "seed": str(run.seed), "run": run.id}
        settings["spec"] = json.dumps(canonical_document(run))
        with self.store.locked(FOLDER):  # other processes may make the same files
            self.folder.mkdir(parents=True, exist_ok=True)
            return self.tracker(self.folder, self.plan.name, f"{pair} {row} seed {run.seed}", settings)


class Several(Observer):
    """Passes what it receives to several observers, in their order."""

    def __init__(self, *observers: Observer) -> None:
        self.observers = observers

    def pending(self, runs: Sequence[RunSpec], cohorts: int) -> None:
        """See `Observer`."""
        for one in self.observers:
            one.pending(runs, cohorts)

    def cohort(self, lanes: Sequence[Lane]) -> None:
        """See `Observer`."""
        for one in self.observers:
            one.cohort(lanes)

    def step(self, lanes: Sequence[Lane], step: int, steps: int) -> None:
        """See `Observer`."""
        for one in self.observers:
            one.step(lanes, step, steps)

    def epoch(self, lanes: Sequence[Lane], clock: Clock, seconds: float, steps: int) -> None:
        """See `Observer`."""
        for one in self.observers:
            one.epoch(lanes, clock, seconds, steps)


def tracked(work: Work, observer: Observer) -> Observer:
    """Return an observer, with the tracker that a work requests, if it requests one."""
    if not work.track:
        return observer
    return Several(observer, Tracking(work.track, TRACKERS[work.track], work))
