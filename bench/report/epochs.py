"""Exports the epochs of a suite's runs: epochs.csv, and event files for TensorBoard. Only the latter import torch."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bench.plan import Plan
from bench.report.folder import EPOCHS as EPOCHS_CSV
from bench.report.frame import Frame
from bench.store import EPOCHS, Store, csv_text, write_whole

COLUMNS = ("pair", "row", "seed", "order_seed", "teacher_seed", "run", "stage", "epoch")  # that all runs have
EVENTS = "tensorboard/events.out.tfevents.epochs"  # TensorBoard reads what has `tfevents` in its name


def write_csv(frame: Frame) -> Path:
    """Write epochs.csv, one row per epoch and run of the suite that is not stale; return its path.

    A run that serves several cells is listed under the first. A number that a run does not record is empty.
    `order_seed` is that of batch order, augmentation and draws, `teacher_seed` that of the run's first teacher; runs
    with equal `seed` differ in them where a suite crosses seeds.
    """
    table = list(rows(frame))
    columns = dict.fromkeys(chain(COLUMNS, *table))
    path = frame.folder / EPOCHS_CSV
    write_whole(path, csv_text(columns, table))
    return path


def rows(frame: Frame) -> Iterator[dict[str, Any]]:
    """Yield the rows of epochs.csv."""
    plan, titles = frame.plan, frame.plan.titles
    for run in frame.shown_runs:
        pair, row = titles[run.id]
        teachers = plan.trained(run).teachers
        seeds = {
            "seed": run.seed,
            "order_seed": run.ordered_by,
            "teacher_seed": plan.runs[teachers[0]].seed if teachers else "",
        }
        for epoch in frame.store.epochs(run.id):
            yield {"pair": pair, "row": row, **seeds, "run": run.id, **epoch}


def write_events(plan: Plan, store: Store) -> None:
    """Write the event file of each run whose epochs are newer, if the suite asks for event files."""
    if not plan.suite.tensorboard:
        return
    for run_id in plan.runs:
        epochs, path = store.folder(run_id) / EPOCHS, store.folder(run_id) / EVENTS
        if epochs.exists() and (not path.exists() or path.stat().st_mtime < epochs.stat().st_mtime):
            write_whole(path, events(store.epochs(run_id)))


def events(epochs: Iterable[Mapping[str, Any]]) -> bytes:
    """Return an event file: one scalar per number of each epoch; an initial stage's are named `initial/NAME`.

    Times are seconds of training, so that TensorBoard's relative axis is right; the store holds no dates of epochs.
    """
    from torch.utils.tensorboard import SummaryWriter  # imports torch, which other reports do not need

    with TemporaryDirectory() as folder:
        trained_s = 0.0
        with SummaryWriter(folder) as writer:
            for epoch in epochs:
                trained_s += epoch.get("wall_s", 0.0)
                stage = "" if epoch["stage"] == "main" else f"{epoch['stage']}/"
                for name, value in epoch.items():
                    if name not in ("stage", "epoch"):
                        writer.add_scalar(f"{stage}{name}", value, epoch["epoch"], trained_s)
        (file,) = Path(folder).iterdir()
        return file.read_bytes()
