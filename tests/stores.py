"""Plans and stores made by hand, for tests of what reads them: nothing here trains."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from bench.plan import Cell, Plan, build_plan
from bench.plan.model import Trial
from bench.plan.repeat import suite_files
from bench.store import Failure, Store
from bench.suite import load
from bench.tasks import task_of
from methods import catalog

METHODS = catalog()
HOSTILE = r"""50% & $x_1^2$ #~{}\ <b> [1] * | `a` "q" -> — é"""  # a label that no format prints as it is
SUITE = {
    "title": "A table",
    "data": {"name": "digits", "resize": 32, "train_per_class": 4},
    "pairs": [{"teacher": "resnet14", "student": "resnet8"}],
    "methods": ["kd"],
    "training": {"epochs": 1},
}


def write_suite(folder: Path, name: str = "table", text: str | None = None, **changes: object) -> Path:
    """Write a suite file that differs from `SUITE` in some keys (None leaves one out), or says just `text`."""
    document = {key: value for key, value in (SUITE | changes).items() if value is not None}
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False) if text is None else text, encoding="utf-8")
    return path


def plan_of(folder: Path, *overrides: str, **changes: object) -> Plan:
    """Return the plan of such a suite."""
    path = write_suite(folder, **changes)
    return build_plan(load(path, METHODS, overrides), path, METHODS)


def cell_of(plan: Plan, label: str, pair: str | None = None) -> Cell:
    """Return the cell of a row; of the first pair, if none is named."""
    return next(cell for cell in plan.cells if cell.label == label and pair in (None, cell.pair))


def finish(store: Store, cell: Cell, values: Sequence[float], plan: Plan | None = None) -> None:
    """Write a record for a cell's first runs, one for each value: that of its metrics, top-5 accuracy apart."""
    for run, value in zip(cell.runs, values, strict=False):
        store.begin(run, suite_files(plan, run) if plan else None)
        metrics = {name: 99.0 if name == "top5" else value for name in task_of(run).recorded}
        best = {name: 99.5 if name == "top5" else number + 1 for name, number in metrics.items()}
        store.finish(run.id, {"metrics": metrics, "best": {"epoch": 1, **best}, "threads": 2})


def fail(store: Store, cell: Cell, status: str, reason: str) -> None:
    """Write a failure for each of a cell's runs."""
    for run in cell.runs:
        store.begin(run)
        store.fail(run.id, Failure(status, reason))


def end(store: Store, trial: Trial, value: float | None) -> None:
    """Write a record of each of a trial's runs, or a failure if there is no value."""
    for run in trial.runs:
        store.begin(run)
        if value is None:
            store.fail(run.id, Failure("diverged", "the loss is not finite in epoch 1"))
        else:
            store.finish(run.id, {"metrics": {"top1": value, "top5": 99.0}, "best": None})


def finish_all(store: Store, plan: Plan, top1: Mapping[str, Sequence[float]]) -> None:
    """Write the records of every cell, by row."""
    for cell in plan.cells:
        finish(store, cell, top1[cell.label], plan)
