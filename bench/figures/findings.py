"""What a suite's figures are drawn from: its plan, and what the store holds of it."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from bench.figures.drawing import PLAIN, TAUGHT, Look, look
from bench.plan import Cell, Plan
from bench.report.frame import Frame, results_frame
from bench.spec import PEER, RunSpec, column
from bench.store import Store
from bench.suite import NONE, TEACHER

METRICS = {"top1": "top-1 accuracy", "miou": "mIoU", "pixel_accuracy": "pixel accuracy"}


@dataclass(frozen=True)
class Findings:
    """What a suite's figures are drawn from."""

    plan: Plan
    store: Store

    @cached_property
    def frame(self) -> Frame:
        """Return the results."""
        return results_frame(self.plan, self.store)

    @cached_property
    def looks(self) -> dict[str, Look]:
        """Return each row's look, by label."""
        methods = dict.fromkeys(cell.label for cell in self.plan.cells if cell.method not in (TEACHER, NONE))
        found = {NONE: PLAIN, TEACHER: TAUGHT}
        for number, label in enumerate(methods):
            found[label] = look(number)
        return found

    @cached_property
    def groups(self) -> dict[str, list[Cell]]:
        """Return the cells that stand side by side, in the table's order: a pair's, of one evaluation.

        Where teachers learn too, figures show the students: the undistilled one is no measure of a teacher.
        """
        found: dict[str, list[Cell]] = {}
        for cell in self.plan.cells:
            if any(name.startswith(column(PEER, "")) for name in cell.metrics.values()):
                continue
            found.setdefault(group_of(cell), []).append(cell)
        return found

    @cached_property
    def epochs(self) -> dict[str, pd.DataFrame]:
        """Return the main stage's epochs of each run that has begun, a row each by epoch."""
        run_ids: dict[str, None] = {}
        for cell in self.plan.cells:
            for run in cell.runs:
                run_ids[run.id] = None
                run_ids[self.plan.trained(run).id] = None
        found = {}
        for run_id in run_ids:
            rows = [row for row in self.store.epochs(run_id) if row.get("stage") == "main"]
            if rows:
                found[run_id] = pd.DataFrame(rows).set_index("epoch")
        return found

    def results(self, cell: Cell) -> dict[int, float]:
        """Return the last epoch's metric in percent of each seed that is done; nothing for a cell without a metric."""
        metric = metric_of(cell)
        return next((one.by_seed for one in self.frame.tabled if one.cell is cell and one.recorded == metric), {})

    def has_failed(self, run: RunSpec) -> bool:
        """Return whether a run came to nothing: it failed or diverged."""
        return self.store.failure(run.id) is not None

    def curve(self, cell: Cell, column: str | None) -> pd.DataFrame:
        """Return a column of the epochs' rows: a row an epoch that has it, a column a seed."""
        seeds = {run.seed: self.epochs[run.id] for run in cell.runs if run.id in self.epochs}
        columns = {seed: frame[column] for seed, frame in seeds.items() if column in frame}
        return pd.DataFrame(columns).dropna(how="all")


def row_of(method: str, cells: Iterable[Cell]) -> Cell:
    """Return a pair's cell of its teacher or of the undistilled student, which every plan has."""
    return next(cell for cell in cells if cell.method == method)


def group_of(cell: Cell) -> str:
    """Return a cell's pair and, where a row has several evaluations, which of them it is."""
    return f"{cell.pair} {cell.evaluation}".strip()


def metric_of(cell: Cell) -> str | None:
    """Return the records' name of the metric that a cell is drawn by: the first that tables show."""
    return next((name for name in cell.metrics.values() if name in METRICS), None)


def axis_of(cells: Iterable[Cell]) -> str:
    """Return what an axis is called that shows some cells' metric."""
    metrics = [metric_of(cell) for cell in cells]
    return METRICS[next(metric for metric in metrics if metric is not None)]
