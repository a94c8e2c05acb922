"""The results frame: one long table of a plan's cells and their results in the store. Imports no torch.

Tables, statistics, figures and the page read the frame; only the frame reads the records' metrics.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any, NamedTuple

from bench.plan import OPEN, Cell, Plan, statuses
from bench.plan.compared import teacher_of, teachers_of
from bench.plan.status import Statuses
from bench.report.paper import KD, row_named
from bench.report.published import published
from bench.spec import STUDENT, RunSpec, Seed, column
from bench.store import ANSWERS, Store, number_in
from bench.store.answers import alike, compared, stored_answers
from bench.store.documents import FILES
from bench.suite import NONE, TEACHER
from bench.suite.tuning import TUNED
from bench.tasks import task_of
from bench.tasks.objectives import ANSWERED, Metric
from bench.text import printable

if TYPE_CHECKING:
    import pandas as pd

    from bench.report.crossed import CrossedModel
    from bench.report.inference import Model

Column = tuple[str, str]  # pair and metric
ABOVE, BELOW = "↑", "↓"
SEVERITY = ("failed", "diverged", "stale", "inapplicable", "running", "waiting")  # a cell has its runs' first


class Contest(NamedTuple):
    """Which rows of a column are compared: those of one network, and either the tuned ones or the others."""

    pair: str
    metric: str
    network: str = STUDENT
    is_tuned: bool = False

    def named(self, label: str) -> str:
        """Return the label that a reference has among these rows."""
        return f"{label}{TUNED}" if self.is_tuned else label


class Measurement(NamedTuple):  # made five times as fast as a frozen dataclass: there may be a hundred thousand
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
    """One metric of a cell, over its seeds. Numbers are in the kind's unit; None where there are too few seeds."""

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
    arrow: str = ""  # `↑` or `↓` for a finished method above or below a finished KD

    @property
    def title(self) -> str:
        """Return the metric's name on axes."""
        return self.kind.title

    @property
    def in_tables(self) -> bool:
        """Return whether the tables that people read show it."""
        return self.kind.in_tables

    @property
    def pair(self) -> str:
        """Return the cell's pair."""
        return self.cell.pair

    @property
    def contest(self) -> Contest:
        """Return which rows it is compared with: students with students, tuned rows with tuned rows."""
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
        """Return whether it is the number of a method of which all seeds are finished."""
        return self.is_method and self.status == "done" and self.mean is not None


@dataclass(frozen=True)
class Frame:
    """The results of a plan, in its order of cells, then by metric and seed."""

    plan: Plan
    summaries: Sequence[Summary]  # one per cell and metric
    records: Mapping[str, Mapping[str, Any]]  # by run id, of the finished runs
    statuses: Mapping[str, tuple[str, str]]  # by run id: status and reason of every run of the plan
    store: Store  # has the epochs of these runs
    aside: str = ""  # why the report is not in the folder of its suite; see `bench.report.folder`

    @cached_property
    def measurements(self) -> list[Measurement]:
        """Return one row per cell, metric and seed."""
        return [row for one in self.summaries for row in self._measured(one)]

    def _measured(self, one: Summary) -> Iterator[Measurement]:
        """Yield the rows of a summary, one per seed."""
        cell = one.cell
        for run in cell.runs:
            status, reason = ("waiting", cell.awaits) if cell.awaits else self.statuses[run.id]
            teachers = self.plan.trained(run).teachers
            yield Measurement(
                suite=self.plan.name,
                pair=cell.pair,
                teacher=cell.teacher,
                student=cell.student,
                label=cell.label,
                method=cell.method,
                parameters=cell.overrides,
                network=cell.network,
                seed=run.seed,
                order_seed=run.ordered_by,
                teacher_seed=self.plan.runs[teachers[0]].seed if teachers else None,
                evaluation=cell.evaluation,
                metric=one.metric,
                recorded=one.recorded,
                value=one.by_seed.get(self.plan.seed_of(run)),
                best=one.best_by_seed.get(self.plan.seed_of(run)),
                epoch=self.records.get(run.id, {}).get("epochs"),
                published=one.published,
                status=status,
                reason=reason,
                run=run.id,
            )

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

    def cells_of(self, contest: Contest) -> dict[str, Cell]:
        """Return the cells of the rows that the model of a contest compares, by label."""
        return {label: self.at(contest.pair, contest.metric, label).cell for label in self.models[contest].values}

    @cached_property
    def tabled(self) -> list[Summary]:
        """Return the summaries that the tables show."""
        return [one for one in self.summaries if one.in_tables]

    @cached_property
    def listed(self) -> list[Summary]:
        """Return the summaries without those of metrics from answers that a cell does not have."""
        return [one for one in self.summaries if one.by_seed or one.kind not in ANSWERED]

    @cached_property
    def answered(self) -> list[Summary]:
        """Return the summaries of what is computed from answers, of the metrics that some run has."""
        found = [one for one in self.summaries if one.kind in ANSWERED]
        known = {one.metric for one in found if one.by_seed}
        return [one for one in found if one.metric in known]

    @cached_property
    def columns(self) -> list[Column]:
        """Return the columns of the tables that people read."""
        return list(dict.fromkeys((one.pair, one.metric) for one in self.tabled))

    @cached_property
    def has_several_pairs(self) -> bool:
        """Return whether these tables show more than one pair."""
        return len({pair for pair, _ in self.columns}) > 1

    @cached_property
    def shown_metrics(self) -> set[str]:
        """Return the metrics of these tables."""
        return {metric for _, metric in self.columns}

    @cached_property
    def labels(self) -> list[str]:
        """Return the rows of the tables."""
        return list(dict.fromkeys(one.label for one in self.summaries))

    def has_published(self, column: Column) -> bool:
        """Return whether the paper prints any number of a column."""
        return any(self.at(*column, label).published is not None for label in self.labels)

    @cached_property
    def models(self) -> Mapping[Contest, Model | CrossedModel]:
        """Return the model of the rows that are compared with each other, by seed or by crossed seeds.

        None has the row `teacher`.
        """
        from bench.report.inference import fit  # takes a moment to import, and `status` does not need it

        values: dict[Contest, dict[str, Mapping[Any, float]]] = {}
        for one in self.summaries:
            if one.by_seed and one.cell.method != TEACHER:
                values.setdefault(one.contest, {})[one.label] = one.by_seed
        if not self.plan.suite.crossed:
            return {contest: fit(rows) for contest, rows in values.items()}
        from bench.report.crossed import CrossedModel  # takes two seconds to import

        return {contest: CrossedModel(rows) for contest, rows in values.items()}

    @cached_property
    def detectable(self) -> dict[str, list[float]]:
        """Return the smallest detectable differences from `none` and from KD, one per column that has one.

        By the label of that row: its tuned one where tuned rows are compared.
        """
        found: dict[str, list[float]] = {}
        for reference in filter(None, (NONE, row_named(self.plan.cells, KD))):
            for contest, model in self.models.items():
                base = contest.named(reference)
                is_shown = contest.network == STUDENT and (contest.pair, contest.metric) in self.columns
                if is_shown and base in model.values:
                    cells = self.cells_of(contest)
                    compared = [one for one in cells if one != contest.named(NONE) and not cells[one].is_control]
                    if (value := model.detectable(compared, base)) is not None:
                        found.setdefault(base, []).append(value)
        return found

    @cached_property
    def best(self) -> set[tuple[str, str, str]]:
        """Return (pair, metric, label) of the methods that cannot be told apart from the best of their column.

        Only finished methods with two seeds or more are compared. Rows of a grid are not: which of them is the best was
        found on the test split.
        """
        rivals: dict[Contest, list[str]] = {}
        for one in self.tabled:
            if one.is_finished_method and one.n > 1 and not one.cell.in_grid:
                rivals.setdefault(one.contest, []).append(one.label)
        return {
            (contest.pair, contest.metric, label)
            for contest, labels in rivals.items()
            if len(labels) > 1
            for label in self.models[contest].may_be_best(labels)
        }

    def is_best(self, one: Summary) -> bool:
        """Return whether a method cannot be told apart from the best of its column."""
        return (one.pair, one.metric, one.label) in self.best

    @cached_property
    def primary(self) -> list[Summary]:
        """Return one summary per cell: that of the metric that decides the best epoch."""
        return [one for one in self.summaries if one.metric == next(iter(one.cell.metrics))]

    def to_pandas(self) -> pd.DataFrame:
        """Return the measurements, a column per attribute."""
        import pandas as pd

        return pd.DataFrame(self.measurements, columns=Measurement._fields)


@dataclass(frozen=True)
class Nearness:
    """How near the answers of runs are to those of their teachers; `teachers` are those of `teachers_of`."""

    records: Mapping[str, Mapping[str, Any]]
    teachers: Mapping[str, Sequence[RunSpec]]
    store: Store | None  # whose answers are read; None to read none

    def of(self, run: RunSpec, cell: Cell) -> Mapping[str, float]:
        """Return the metrics of a cell's run that compare it with its teacher; empty where they are not known."""
        teacher, record = teacher_of(run, cell, self.teachers), self.records.get(run.id, {})
        if teacher is None:
            return {}
        if (known := record.get("to_teacher", {}).get(teacher.id)) is not None:
            return known
        hashes = [(one.get(FILES) or {}).get(ANSWERS) for one in (record, self.records.get(teacher.id, {}))]
        if self.store is None or None in hashes:
            return {}
        return _compared(self.store.root, run.id, teacher.id, *hashes)


@lru_cache(10_000)  # tables are written after each cohort
def _compared(root: Path, run_id: str, teacher: str, *hashes: str) -> Mapping[str, float]:
    """Return the metrics that compare the answers of two runs, whose files have these hashes."""
    own, taught = (stored_answers(Store(root), one) for one in (run_id, teacher))
    return compared(own.logits[STUDENT], taught.logits[STUDENT]) if own and taught and alike(own, taught) else {}


def results_frame(plan: Plan, store: Store, reads_answers: bool = True) -> Frame:
    """Return the current results of a plan in the store.

    Where a record does not compare its run with the teacher of a pair, since the run does not know which pairs show it,
    the stored answers of both are compared now, if it `reads_answers`.
    """
    found = {
        run_id: (status, printable(reason))
        for run_id, (status, reason) in statuses(plan.runs.values(), plan, store).items()
    }
    records = {run_id: store.record(run_id) or {} for run_id, (status, _) in found.items() if status == "done"}
    printed = published(plan)
    teachers = teachers_of(plan)
    nearness = Nearness(records, teachers, store if reads_answers else None)
    summaries = [one for cell in plan.cells for one in _summaries(cell, plan, found, records, printed, store, nearness)]
    return Frame(plan, _against_kd(summaries, row_named(plan.cells, KD)), records, found, store)


def _summaries(
    cell: Cell,
    plan: Plan,
    found: Statuses,
    records: Mapping[str, Mapping[str, Any]],
    printed: Mapping[tuple[str, str, str], float],
    store: Store,
    nearness: Nearness,
) -> Iterator[Summary]:
    """Yield one summary per metric of a cell."""
    shown = () if cell.awaits else cell.runs
    finished = {plan.seed_of(run): (records[run.id], store.folder(run.id)) for run in shown if run.id in records}
    status, reason = ("waiting", cell.awaits) if cell.awaits else _status(cell, plan, found)
    is_open = bool(cell.awaits) or any(found[run.id][0] in OPEN for run in cell.runs)
    task = task_of(cell.runs[0])
    measured = [
        (metric, recorded, kind, _numbers(finished, recorded), _numbers(finished, recorded, best=True))
        for (metric, recorded), kind in zip(cell.metrics.items(), cell.measured, strict=True)
    ]
    prefix = next(iter(cell.metrics), "").removesuffix(task.metrics[0].name) if task.metrics else ""
    for kind in task.answered:
        recorded = column(cell.network, kind.name)
        by_seed = {} if cell.awaits else _answered(cell, plan, recorded, records, nearness)
        measured.append((f"{prefix}{kind.name}", recorded, kind, by_seed, {}))
    for metric, recorded, kind, by_seed, best_by_seed in measured:
        yield Summary(
            cell=cell,
            metric=metric,
            recorded=recorded,
            kind=kind,
            by_seed=by_seed,
            best_by_seed=best_by_seed,
            mean=mean(by_seed.values()) if by_seed else None,
            std=stdev(by_seed.values()) if len(by_seed) > 1 else None,
            best_mean=mean(best_by_seed.values()) if best_by_seed else None,
            published=printed.get((cell.pair, cell.label, metric)),
            status=status,
            reason=reason,
            is_open=is_open,
        )


def _numbers(
    finished: Mapping[Seed, tuple[Mapping[str, Any], Path]], name: str, best: bool = False
) -> dict[Seed, float]:
    """Return a number of each record that has it, by seed; `finished` has records and the folders of their runs."""
    numbers = {seed: number_in(record, name, folder, best) for seed, (record, folder) in finished.items()}
    return {seed: number for seed, number in numbers.items() if number is not None}


def _answered(
    cell: Cell, plan: Plan, name: str, records: Mapping[str, Mapping[str, Any]], nearness: Nearness
) -> dict[Seed, float]:
    """Return a number that a cell's records have of their answers, by seed; empty where they were not scored."""
    numbers: dict[Seed, float] = {}
    for run in cell.runs:
        number = records.get(run.id, {}).get("scores", {}).get(name)
        if number is None:
            number = nearness.of(run, cell).get(name)
        if number is not None:
            numbers[plan.seed_of(run)] = number
    return numbers


def _status(cell: Cell, plan: Plan, found: Statuses) -> tuple[str, str]:
    """Return a cell's status and the reason of its worst run."""
    unfinished = [run for run in cell.runs if found[run.id][0] != "done"]
    if not unfinished:
        return "done", ""
    worst = min(unfinished, key=lambda run: SEVERITY.index(found[run.id][0]))
    status, reason = found[worst.id]
    if len(unfinished) == len(cell.runs):
        return status, reason
    return "partial", f"seed {plan.seed_of(worst)} {status}{f': {reason}' if reason else ''}"


def _against_kd(summaries: Sequence[Summary], kd: str | None) -> list[Summary]:
    """Return summaries with each finished method's arrow against the finished KD that it is compared with."""
    of_kd = {
        one.contest: one.mean
        for one in summaries
        if kd is not None and one.label == one.contest.named(kd) and one.is_finished_method
    }
    compared = []
    for one in summaries:
        reference = of_kd.get(one.contest)
        if one.is_finished_method and one.mean is not None and reference is not None:
            gain = reference - one.mean if one.kind.lower_is_better else one.mean - reference
            one = replace(one, arrow=ABOVE if gain > 0 else BELOW if gain < 0 else "")
        compared.append(one)
    return compared
