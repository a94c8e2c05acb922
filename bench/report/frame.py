"""The results frame: one long table of a plan's cells and their results in the store. Imports no torch.

Tables, statistics, figures and the page read the frame; only the frame reads the records' metrics.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any, NamedTuple

from bench.plan import OPEN, Cell, Plan, statuses
from bench.report.paper import KD, row_named
from bench.report.published import published
from bench.spec import RunSpec
from bench.store import Store, number_in
from bench.suite import NONE, TEACHER
from bench.tasks import Metric, task_of
from bench.text import printable

if TYPE_CHECKING:
    import pandas as pd

Column = tuple[str, str]  # pair and metric
ABOVE, BELOW = "↑", "↓"
SEVERITY = ("failed", "diverged", "stale", "inapplicable", "running", "waiting")  # a cell has its runs' first


class Measurement(NamedTuple):  # made five times as fast as a frozen dataclass: there may be a hundred thousand
    """A row of the frame: one metric of one seed of a cell. Numbers are in percent; None where there is no record."""

    suite: str
    pair: str  # `<teacher>-><student>`
    teacher: str
    student: str
    label: str  # of the table's row
    method: str  # registered name(s), `teacher` or `none`
    parameters: str  # that differ from the method's defaults
    network: str  # the measured network of the run: `student` or `peer`
    seed: int
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
    """One metric of a cell, over its seeds. Numbers are in percent; None where there are too few seeds."""

    cell: Cell
    metric: str  # name in tables
    recorded: str  # name in records
    title: str  # name on axes
    in_tables: bool  # whether the tables that people read show it
    by_seed: Mapping[int, float]  # the values after the last epoch, of the finished seeds
    mean: float | None
    std: float | None  # with n - 1
    best_mean: float | None  # of the best epochs' values
    published: float | None  # the paper's number, if there is one
    status: str  # done, partial (fewer seeds than requested), or the worst of its runs'
    reason: str  # why it is not done, or ""
    is_open: bool  # whether a run of the cell can still be trained
    place: int = 0  # 1 for the best and 2 for the second of a column's finished methods; 0 if nothing is compared
    arrow: str = ""  # `↑` or `↓` for a finished method above or below a finished KD

    @property
    def pair(self) -> str:
        """Return the cell's pair."""
        return self.cell.pair

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


@dataclass(frozen=True)
class Frame:
    """The results of a plan, in its order of cells, then by metric and seed."""

    plan: Plan
    measurements: Sequence[Measurement]  # one per cell, metric and seed
    summaries: Sequence[Summary]  # one per cell and metric
    records: Mapping[str, Mapping[str, Any]]  # by run id, of the finished runs
    statuses: Mapping[str, tuple[str, str]]  # by run id: status and reason of every run of the plan
    aside: str = ""  # why the report is not in the folder of its suite; see `bench.report.folder`

    @cached_property
    def shown_runs(self) -> list[RunSpec]:
        """Return the plan's runs but for the stale ones, whose epochs are not shown either."""
        return [run for run in self.plan.runs.values() if self.statuses[run.id][0] != "stale"]

    @cached_property
    def _by_place(self) -> dict[tuple[str, str, str], Summary]:
        return {(one.pair, one.metric, one.label): one for one in self.summaries}

    def at(self, pair: str, metric: str, label: str) -> Summary:
        """Return the summary of one row in one column."""
        return self._by_place[pair, metric, label]

    @cached_property
    def tabled(self) -> list[Summary]:
        """Return the summaries that the tables show."""
        return [one for one in self.summaries if one.in_tables]

    @cached_property
    def columns(self) -> list[Column]:
        """Return the columns of the tables that people read."""
        return list(dict.fromkeys((one.pair, one.metric) for one in self.tabled))

    @cached_property
    def labels(self) -> list[str]:
        """Return the rows of the tables."""
        return list(dict.fromkeys(one.label for one in self.summaries))

    def has_published(self, column: Column) -> bool:
        """Return whether the paper prints any number of a column."""
        return any(self.at(*column, label).published is not None for label in self.labels)

    @cached_property
    def primary(self) -> list[Summary]:
        """Return one summary per cell: that of the metric that decides the best epoch."""
        return [one for one in self.summaries if one.metric == next(iter(one.cell.metrics))]

    def to_pandas(self) -> pd.DataFrame:
        """Return the measurements, a column per attribute."""
        import pandas as pd

        return pd.DataFrame(self.measurements, columns=Measurement._fields)


def results_frame(plan: Plan, store: Store) -> Frame:
    """Return the current results of a plan in the store."""
    found = {
        run_id: (status, printable(reason))
        for run_id, (status, reason) in statuses(plan.runs.values(), plan, store).items()
    }
    records = {run_id: store.record(run_id) or {} for run_id, (status, _) in found.items() if status == "done"}
    printed = published(plan)
    measurements: list[Measurement] = []
    summaries: list[Summary] = []
    for cell in plan.cells:
        kinds = task_of(cell.runs[0]).metrics
        for (metric, recorded), kind in zip(cell.metrics.items(), kinds, strict=True):
            number = printed.get((cell.pair, cell.label, metric))
            rows = []
            for run in cell.runs:
                status, reason = found[run.id]
                record = records.get(run.id)
                teachers = plan.trained(run).teachers
                measurement = Measurement(
                    suite=plan.name,
                    pair=cell.pair,
                    teacher=cell.teacher,
                    student=cell.student,
                    label=cell.label,
                    method=cell.method,
                    parameters=cell.overrides,
                    network=cell.network,
                    seed=run.seed,
                    teacher_seed=plan.runs[teachers[0]].seed if teachers else None,
                    evaluation=cell.evaluation,
                    metric=metric,
                    recorded=recorded,
                    value=None if record is None else number_in(record, recorded, store.folder(run.id)),
                    best=None if record is None else number_in(record, recorded, store.folder(run.id), best=True),
                    epoch=None if record is None else record.get("epochs"),
                    published=number,
                    status=status,
                    reason=reason,
                    run=run.id,
                )
                rows.append(measurement)
            measurements += rows
            summaries.append(_summary(cell, kind, rows))
    return Frame(plan, measurements, _compared(summaries, row_named(plan.cells, KD)), records, found)


def _summary(cell: Cell, kind: Metric, rows: Sequence[Measurement]) -> Summary:
    by_seed = {row.seed: row.value for row in rows if row.value is not None}
    best = [row.best for row in rows if row.best is not None]
    status, reason = _status(rows)
    return Summary(
        cell=cell,
        metric=rows[0].metric,
        recorded=rows[0].recorded,
        title=kind.title,
        in_tables=kind.in_tables,
        by_seed=by_seed,
        mean=mean(by_seed.values()) if by_seed else None,
        std=stdev(by_seed.values()) if len(by_seed) > 1 else None,
        best_mean=mean(best) if best else None,
        published=rows[0].published,
        status=status,
        reason=reason,
        is_open=any(row.status in OPEN for row in rows),
    )


def _status(rows: Sequence[Measurement]) -> tuple[str, str]:
    """Return a cell's status and the reason of its worst run."""
    unfinished = [row for row in rows if row.value is None]
    if not unfinished:
        return "done", ""
    worst = min(unfinished, key=lambda row: SEVERITY.index(row.status))
    if len(unfinished) == len(rows):
        return worst.status, worst.reason
    reason = f": {worst.reason}" if worst.reason else ""
    return "partial", f"seed {worst.seed} {worst.status}{reason}"


def _compared(summaries: Sequence[Summary], kd: str | None) -> list[Summary]:
    """Return summaries with each finished method's place in its column and its arrow against KD.

    Students are compared with students, and teachers that train too with teachers.
    """
    means: dict[tuple[str, str, str], dict[str | None, float]] = {}  # of finished methods; by label
    for one in summaries:
        if one.mean is not None and one.status == "done" and one.is_method:
            means.setdefault((one.pair, one.metric, one.cell.network), {})[one.label] = one.mean
    compared = []
    for one in summaries:
        rivals = means.get((one.pair, one.metric, one.cell.network), {})
        if one.label in rivals:
            own = rivals[one.label]
            place = 1 + sum(other > own for other in rivals.values()) if len(rivals) > 1 else 0
            reference = rivals.get(kd, own)
            arrow = ABOVE if own > reference else BELOW if own < reference else ""
            one = replace(one, place=place, arrow=arrow)
        compared.append(one)
    return compared
