"""Every epoch of a suite's runs for other programs: epochs.csv, and event files for TensorBoard. Imports no torch."""

import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bench.plan import Plan
from bench.store import EPOCHS, Store, csv_text, write_whole

EVENTS = "tensorboard/events.out.tfevents.epochs"  # TensorBoard reads what has `tfevents` in its name
FORMAT = "brain.Event:2"  # what an event file begins with


def write_csv(plan: Plan, store: Store) -> Path:
    """Write epochs.csv, a row an epoch of every run of the suite; return its path.

    A run that serves several cells stands under the first. A column that a run's epochs lack is empty.
    """
    titles = plan.titles
    columns = dict.fromkeys(["pair", "row", "seed", "run", "stage", "epoch"])
    rows = []
    for run in plan.runs.values():
        for epoch in store.epochs(run.id):
            pair, title = titles[run.id]
            row = {"pair": pair, "row": title, "seed": run.seed, "run": run.id, **epoch}
            columns |= dict.fromkeys(row)
            rows.append(row)
    path = store.suite_folder(plan.name) / "epochs.csv"
    write_whole(path, csv_text(columns, rows))
    return path


def write_events(plan: Plan, store: Store) -> None:
    """Write the event file of each run that has epochs newer than its event file, if the suite asks for them."""
    if not plan.suite.tensorboard:
        return
    for run_id in plan.runs:
        epochs = store.folder(run_id) / EPOCHS
        path = store.folder(run_id) / EVENTS
        if not epochs.exists():
            continue
        if not path.exists() or path.stat().st_mtime < epochs.stat().st_mtime:
            write_whole(path, events(store.epochs(run_id)))


def events(epochs: Iterable[Mapping[str, Any]]) -> bytes:
    """Return an event file: a scalar a number of each epoch, an initial stage's named after it.

    Times are seconds of training, so that TensorBoard's relative axis is right; the store knows no dates.
    """
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.record_writer import RecordWriter

    buffer = io.BytesIO()
    writer = RecordWriter(buffer)
    trained_s = 0.0
    writer.write(Event(wall_time=trained_s, file_version=FORMAT).SerializeToString())
    for epoch in epochs:
        trained_s += epoch.get("wall_s", 0.0)
        stage = "" if epoch["stage"] == "main" else f"{epoch['stage']}/"
        numbers = {name: value for name, value in epoch.items() if name not in ("stage", "epoch")}
        values = [Summary.Value(tag=f"{stage}{name}", simple_value=value) for name, value in numbers.items()]
        event = Event(wall_time=trained_s, step=epoch["epoch"], summary=Summary(value=values))
        writer.write(event.SerializeToString())
    return buffer.getvalue()
