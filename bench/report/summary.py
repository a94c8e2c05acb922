"""What one cell of a suite has in one metric: a summary over its seeds, and a measurement of each. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from bench.plan import Cell
from bench.spec import STUDENT, Seed
from bench.suite import NONE, TEACHER
from bench.suite.tuning import TUNED
from bench.tasks.objectives import Metric

Column = tuple[str, str]  # pair and metric
ABOVE, BELOW = "↑", "↓"


class Contest(NamedTuple):
    """The rows that are compared with each other: of one column and network, either the tuned ones or the others."""

    pair: str
    metric: str
    network: str = STUDENT
    is_tuned: bool = False

    def named(self, label: str) -> str:
        """Return the label of a reference row among these rows: a tuned reference for tuned rows."""
        return f"{label}{TUNED}" if self.is_tuned else label


class Measurement(NamedTuple):  # a frozen dataclass takes five times as long, and there may be a hundred thousand
    """A row of the frame: one metric of one seed of a cell.

    Numbers are in percent, or in the metric's unit; None where there is no record, or it lacks the metric.
    """

    suite: str
    pair: str  # `<teacher>-><student>`
    teacher: str
    student: str
    label: str  # of the table's row
    method: str  # registered name(s), `teacher` or `none`
    parameters: str  # that differ from the method's defaults
    network: str  # the measured network of the run: `student` or `peer`
    seed: int
    order_seed: int  # of batch order, augmentation and draws; equal to `seed` unless the suite crosses seeds
    teacher_seed: int | None  # of the run that trained the first teacher, if there is one
    evaluation: str  # "" if the row has only one
    metric: str  # name in tables
    recorded: str  # name in records
    value: float | None  # after the last epoch
    best: float | None  # at the best epoch, if there are epochs
    epoch: int | None  # the last one; 0 for runs that are only evaluated
    published: float | None  # the paper's number, if there is one
    status: str  # of the run: done, stale, running, waiting, diverged, failed or inapplicable
    reason: str  # why the run is not done, or ""
    run: str  # the run's id


@dataclass(frozen=True)
class Summary:
    """One metric of a cell, over its seeds. Numbers are in the metric's unit; None where there are too few seeds."""

    cell: Cell
    metric: str  # name in tables
    recorded: str  # name in records
    kind: Metric
    by_seed: Mapping[Seed, float]  # the values after the last epoch, of the finished seeds
    best_by_seed: Mapping[Seed, float]  # the best epochs' values, of the finished seeds that have epochs
    mean: float | None
    std: float | None  # with n - 1
    best_mean: float | None  # of the best epochs' values
    published: float | None  # the paper's number, if there is one
    status: str  # done, partial (fewer seeds than requested), or the worst of its runs'
    reason: str  # why it is not done, or ""
    is_open: bool  # whether a run of the cell can still be trained
    arrow: str = ""  # `ABOVE` or `BELOW` for a finished method that is better or worse than a finished KD

    @property
    def title(self) -> str:
        """Return the metric's name on axes."""
        return self.kind.title

    @property
    def in_tables(self) -> bool:
        """Return whether the tables that people read show the metric."""
        return self.kind.in_tables

    @property
    def pair(self) -> str:
        """Return the cell's pair."""
        return self.cell.pair

    @property
    def contest(self) -> Contest:
        """Return the rows that it is compared with: students with students, tuned rows with tuned rows."""
        return Contest(self.cell.pair, self.metric, self.cell.network, self.cell.choice is not None)

    @property
    def label(self) -> str:
        """Return the label of the cell's row."""
        return self.cell.label

    @property
    def n(self) -> int:
        """Return the number of finished seeds."""
        return len(self.by_seed)

    @property
    def difference(self) -> float | None:
        """Return the mean minus the published number."""
        return None if self.mean is None or self.published is None else self.mean - self.published

    @property
    def is_method(self) -> bool:
        """Return whether the row is that of a method, not of the teacher or the undistilled student."""
        return self.cell.method not in (TEACHER, NONE)

    @property
    def is_finished_method(self) -> bool:
        """Return whether the row is that of a method whose seeds are all finished, and has a number."""
        return self.is_method and self.status == "done" and self.mean is not None
