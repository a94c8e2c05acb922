"""Estimates how long runs will train, from the epochs of finished runs and the costs of steps. Imports no torch."""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from bench.data import DATASETS
from bench.plan.model import Plan
from bench.spec import DataSpec, RunSpec
from bench.store import Store
from bench.store.files import incompatible, read_csv
from bench.suite import TEACHER
from bench.types import RequestError

COST = "cost.csv"  # in a suite's folder
COLUMNS = ("pair", "label", "stage", "data_ms", "teacher_ms", "step_ms", "setting")
MAX_READ = 2000  # finished runs of a store
TRAINING_STEP = 3  # forward passes that a training step takes: the backward pass costs about two


@dataclass
class Paces:
    """Seconds that an epoch takes, divided by the number of runs that train together.

    Attributes:
        by_kind: total of such seconds and of epochs, by the kind of run; see `kind_of`.
        by_run: seconds of an epoch, by run id, for runs of other kinds.
        source: what the numbers come from, and on which device, as text; "" if there are none.
        measured: the kinds of which epochs were measured since: these replace what was known before.
    """

    by_kind: dict[str, tuple[float, float]] = field(default_factory=dict)
    by_run: dict[str, float] = field(default_factory=dict)
    source: str = ""
    measured: set[str] = field(default_factory=set)

    def measure(self, runs: Sequence[RunSpec], seconds: float, epochs: float = 1.0) -> None:
        """Count epochs that runs have trained together and the seconds that these took."""
        for kind in {kind_of(run) for run in runs}:
            before = self.by_kind[kind] if kind in self.measured else (0.0, 0.0)
            self.by_kind[kind] = (before[0] + seconds / len(runs), before[1] + epochs)
            self.measured.add(kind)

    def of(self, run: RunSpec) -> float | None:
        """Return the seconds of one epoch of a run, or None if they are unknown."""
        seconds, epochs = self.by_kind.get(kind_of(run), (0.0, 0.0))
        return seconds / epochs if epochs else self.by_run.get(run.id)

    def left(self, epochs: Iterable[tuple[RunSpec, float]]) -> tuple[float, int]:
        """Return the seconds that runs take for a number of epochs each and how many runs have an unknown pace."""
        known = [(self.of(run), number) for run, number in epochs]
        return sum(pace * number for pace, number in known if pace), sum(pace is None for pace, _ in known)


def kind_of(run: RunSpec) -> str:
    """Return a text that is equal for runs whose epochs take about the same time: methods are not told apart."""
    schedule, peer = run.training, "" if run.peer is None else run.peer.network
    settings = (schedule.batch_size, schedule.precision, schedule.processes)
    data = run.data.model_copy(update={"held_out": None})  # trials take about as long as final runs
    return f"{run.task} {run.student.network} {peer} {settings} {data.key}"


def epochs_of(run: RunSpec) -> int:
    """Return the number of epochs of both stages of a run; 0 if it does not train."""
    return initial_epochs(run) + run.training.epochs if run.trains else 0


def initial_epochs(run: RunSpec) -> int:
    """Return the number of epochs of a run's initial stage; that of some steps over an image folder counts as one."""
    size = training_images(run.data)
    steps = run.training.initial_steps or 1 if size is None else math.ceil(size / run.training.batch_size)
    return run.training.initial_epochs_of(steps)


def paces(plan: Plan, store: Store, device: str) -> Paces:
    """Return what a store tells of the time that a plan's runs take.

    Args:
        plan: the plan.
        store: its finished runs count, no matter which suite they belong to.
        device: where the plan's runs will train; if no run has finished there, the device of most finished runs counts.
    """
    measured: dict[str, dict[str, tuple[float, float]]] = defaultdict(dict)
    numbers: dict[str, int] = defaultdict(int)
    wanted = {kind_of(run) for run in plan.runs.values() if run.trains}
    for spec, record in _finished(plan, store):
        if not (spec.trains and record.get("lanes") and record.get("wall_s")) or (kind := kind_of(spec)) not in wanted:
            continue
        where = record.get("device", "device")
        seconds, epochs = measured[where].get(kind, (0.0, 0.0))
        measured[where][kind] = (seconds + record["wall_s"] / record["lanes"], epochs + epochs_of(spec))
        numbers[where] += 1
    costs, setting = _costs(plan, store)
    if not measured:
        return Paces({}, costs, f"on {setting}, from {COST}" if costs else "")
    place = device if device in measured else max(numbers, key=lambda name: numbers[name])
    return Paces(measured[place], costs, f"on one {place}, from {numbers[place]} finished run(s)")


def _finished(plan: Plan, store: Store) -> Iterator[tuple[RunSpec, Mapping[str, Any]]]:
    """Yield finished runs and their records, the plan's own first."""
    own_first = sorted(store.run_ids(), key=lambda run_id: run_id not in plan.runs)
    for run_id in own_first[:MAX_READ]:
        with suppress(RequestError):  # what is damaged is named where it is used
            record = store.record(run_id)
            spec = store.spec(run_id) if record is not None else None
            if record is not None and spec is not None:
                yield spec, record


def _costs(plan: Plan, store: Store) -> tuple[dict[str, float], str]:
    """Return the seconds of an epoch that cost.csv tells, by run id, without evaluation; and where they were measured.

    A row's share of the teacher's pass and of loading is that of a cohort of all measured rows. A teacher's training
    step is taken for `TRAINING_STEP` of its forward passes.
    """
    path = store.suite_folder(plan.folder) / COST
    rows = [row for row in read_csv(path) if row.keys() >= {*COLUMNS} and row["stage"] == "main"]

    def number(row: Mapping[str, str], column: str) -> float:
        try:
            value = 0.0 if column == "teacher_ms" and not row[column] else float(row[column])
        except ValueError:
            value = math.nan
        if not 0 <= value < math.inf:
            raise incompatible(path, f"{column}: {row[column]!r} is not a finite number from 0")
        return value

    seconds: dict[str, float] = {}
    for cell in plan.cells:
        of_pair = [row for row in rows if row["pair"] == cell.pair]
        own = next((row for row in of_pair if row["label"] == cell.label), None)
        for run in map(plan.trained, cell.runs):
            size = training_images(run.data)
            if not of_pair or not run.trains or size is None:
                continue
            teacher_ms, data_ms = number(of_pair[0], "teacher_ms"), number(of_pair[0], "data_ms")
            if cell.method == TEACHER:
                step_ms = TRAINING_STEP * teacher_ms + data_ms
            elif own is not None:
                step_ms = number(own, "step_ms") + (teacher_ms + data_ms) / len(of_pair)
            else:
                continue
            seconds[run.id] = step_ms / 1000 * math.ceil(size / run.training.batch_size)
    return seconds, rows[0]["setting"].partition(";")[0] if rows else ""


def training_images(data: DataSpec) -> int | None:
    """Return about how many images a run trains on; None for an image folder, whose images are not counted."""
    if (named := DATASETS.get(data.name)) is None:
        return None

    def subset(per_class: int | None, fraction: float | None) -> int:
        return round(named.train * (fraction or 1.0)) if per_class is None else per_class * data.classes

    kept = subset(data.train_per_class, data.train_fraction)
    if (dev := data.held_out) is None:
        return kept
    of = subset(dev.of_per_class, dev.of_fraction) if dev.is_of_another_subset else kept
    held_out = dev.per_class * data.classes if dev.per_class is not None else round(of * (dev.fraction or 0.0))
    return min(kept, of - held_out) + max(0, kept - of)  # before and behind the dev images
