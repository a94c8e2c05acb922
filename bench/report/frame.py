"""The results frame: one long table of a plan's cells and their results in the store. Imports no torch.

Tables, statistics, figures and the page read the frame; only the frame reads the records' metrics.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any, TypeVar

from bench.plan import OPEN, Cell, Plan, statuses
from bench.plan.agreement import teachers_of
from bench.plan.status import Statuses
from bench.report.nearness import Nearness
from bench.report.paper import KD, row_named
from bench.report.published import published
from bench.report.summary import ABOVE, BELOW, Column, Contest, Measurement, Summary
from bench.spec import STUDENT, RunSpec, Seed, column
from bench.store import Store, number_in
from bench.suite import NONE, TEACHER
from bench.tasks import task_of
from bench.tasks.objectives import ANSWERED
from bench.text import printable

if TYPE_CHECKING:
    import pandas as pd

    from bench.report.crossed import CrossedModel
    from bench.report.inference import Model

K = TypeVar("K")
SEVERITY = ("failed", "diverged", "stale", "inapplicable", "running", "waiting")  # a cell has its runs' first


@dataclass(frozen=True)
class Frame:
    """The results of a plan, in its order of cells, then by metric and seed."""

    plan: Plan
    summaries: Sequence[Summary]  # one per cell and metric
    records: Mapping[str, Mapping[str, Any]]  # by run id, of the finished runs
    statuses: Mapping[str, tuple[str, str]]  # by run id: status and reason of every run of the plan
    store: Store  # where the runs and the report are
    aside: str = ""  # why the report is not in the folder of its suite; see `bench.report.folder`

    @property
    def folder(self) -> Path:
        """Return the folder of the report."""
        return self.store.suite_folder(self.plan.folder)

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
        """Return the plan's runs without the stale ones, whose epochs are not shown."""
        return [run for run in self.plan.runs.values() if self.statuses[run.id][0] != "stale"]

    @cached_property
    def _by_place(self) -> dict[tuple[str, str, str], Summary]:
        return {(one.pair, one.metric, one.label): one for one in self.summaries}

    def at(self, pair: str, metric: str, label: str) -> Summary:
        """Return the summary of one row in one column."""
        return self._by_place[pair, metric, label]

    def cells_of(self, contest: Contest) -> dict[str, Cell]:
        """Return the cells of the rows that are compared in a contest, by label."""
        return {label: self.at(contest.pair, contest.metric, label).cell for label in self.models[contest].values}

    @cached_property
    def tabled(self) -> list[Summary]:
        """Return the summaries that the tables show."""
        return [one for one in self.summaries if one.in_tables]

    @cached_property
    def listed(self) -> list[Summary]:
        """Return the summaries, without metrics computed from answers in cells that have none of their values."""
        return [one for one in self.summaries if one.by_seed or one.kind not in ANSWERED]

    @cached_property
    def answered(self) -> list[Summary]:
        """Return the summaries of the metrics that are computed from answers and known for some run."""
        answers = [one for one in self.summaries if one.kind in ANSWERED]
        known = {one.metric for one in answers if one.by_seed}
        return [one for one in answers if one.metric in known]

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
        """Return a model of the rows of each contest; the row `teacher` is in none of them."""
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
        """Return the smallest detectable differences from `none` and from KD, by the label of that row.

        There is one difference per column that has one. Tuned rows are compared with the tuned row.
        """
        by_reference: dict[str, list[float]] = {}
        for reference in filter(None, (NONE, row_named(self.plan.cells, KD))):
            for contest, model in self.models.items():
                base = contest.named(reference)
                is_shown = contest.network == STUDENT and (contest.pair, contest.metric) in self.columns
                if is_shown and base in model.values:
                    cells = self.cells_of(contest)
                    compared = [one for one in cells if one != contest.named(NONE) and not cells[one].is_control]
                    if (value := model.detectable(compared, base)) is not None:
                        by_reference.setdefault(base, []).append(value)
        return by_reference

    @cached_property
    def best(self) -> set[tuple[str, str, str]]:
        """Return (pair, metric, label) of the methods that cannot be told apart from the best of their column.

        Only finished methods with two seeds or more are compared. Rows of a grid are left out, because the best of them
        was found on the test split.
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
        """Return one summary per cell: that of its first metric, which decides the best epoch."""
        return [one for one in self.summaries if one.metric == next(iter(one.cell.metrics))]

    def to_pandas(self) -> pd.DataFrame:
        """Return the measurements, with one column per attribute."""
        import pandas as pd

        return pd.DataFrame(self.measurements, columns=Measurement._fields)


def results_frame(plan: Plan, store: Store, reads_answers: bool = True) -> Frame:
    """Return the current results of a plan in the store.

    A run does not know in which pairs it is shown, so its record may lack the comparison with a pair's teacher. With
    `reads_answers`, the stored answers of both are then compared now.
    """
    status_of = {
        run_id: (status, printable(reason))
        for run_id, (status, reason) in statuses(plan.runs.values(), plan, store).items()
    }
    records = {run_id: store.record(run_id) or {} for run_id, (status, _) in status_of.items() if status == "done"}
    printed = published(plan)
    teachers = teachers_of(plan)
    nearness = Nearness(records, teachers, store if reads_answers else None)
    answers = [_answers(cell, plan, records, nearness) for cell in plan.cells]
    known = {name for by_seed in answers for numbers in by_seed.values() for name in numbers}
    summaries = [
        one
        for cell, own in zip(plan.cells, answers, strict=True)
        for one in _summaries(cell, plan, status_of, records, printed, store, own, known)
    ]
    return Frame(plan, _against_kd(summaries, row_named(plan.cells, KD)), records, status_of, store)


def _summaries(
    cell: Cell,
    plan: Plan,
    status_of: Statuses,
    records: Mapping[str, Mapping[str, Any]],
    printed: Mapping[tuple[str, str, str], float],
    store: Store,
    answers: Mapping[Seed, Mapping[str, float]],
    known: Set[str],
) -> Iterator[Summary]:
    """Yield one summary per metric of a cell; of those computed from answers, per metric that some run has."""
    shown = () if cell.awaits else cell.runs
    finished = {plan.seed_of(run): (records[run.id], store.folder(run.id)) for run in shown if run.id in records}
    status, reason = ("waiting", cell.awaits) if cell.awaits else _status(cell, plan, status_of)
    is_open = bool(cell.awaits) or any(status_of[run.id][0] in OPEN for run in cell.runs)
    task = task_of(cell.runs[0])
    measured = [
        (metric, recorded, kind, _numbers(finished, recorded), _numbers(finished, recorded, best=True))
        for (metric, recorded), kind in zip(cell.metrics.items(), cell.measured, strict=True)
    ]
    prefix = f"{cell.evaluation}_" if cell.evaluation else ""
    for kind in task.answered:
        recorded = column(cell.network, kind.name)
        if recorded not in known:
            continue
        by_seed = {seed: numbers[recorded] for seed, numbers in answers.items() if recorded in numbers}
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
    """Return a number of each record that has it, by seed; `finished` has the records and their runs' folders."""
    return _known({seed: number_in(record, name, folder, best) for seed, (record, folder) in finished.items()})


def _answers(
    cell: Cell, plan: Plan, records: Mapping[str, Mapping[str, Any]], nearness: Nearness
) -> dict[Seed, dict[str, float]]:
    """Return the numbers computed from the answers of a cell's finished runs, by seed and name."""
    if cell.awaits:
        return {}
    finished = [run for run in cell.runs if run.id in records]
    scores = {run.id: records[run.id].get("scores", {}) for run in finished}
    return {plan.seed_of(run): {**nearness.of(run, cell), **_known(scores[run.id])} for run in finished}


def _known(numbers: Mapping[K, float | None]) -> dict[K, float]:
    return {key: number for key, number in numbers.items() if number is not None}


def _status(cell: Cell, plan: Plan, status_of: Statuses) -> tuple[str, str]:
    """Return a cell's status, and the reason why its worst run is not done."""
    unfinished = [run for run in cell.runs if status_of[run.id][0] != "done"]
    if not unfinished:
        return "done", ""
    worst = min(unfinished, key=lambda run: SEVERITY.index(status_of[run.id][0]))
    status, reason = status_of[worst.id]
    if len(unfinished) == len(cell.runs):
        return status, reason
    return "partial", f"seed {plan.seed_of(worst)} {status}{f': {reason}' if reason else ''}"


def _against_kd(summaries: Sequence[Summary], kd: str | None) -> list[Summary]:
    """Return the summaries with arrows, for finished methods that are compared with a finished KD."""
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
            if gain != 0:
                one = replace(one, arrow=ABOVE if gain > 0 else BELOW)
        compared.append(one)
    return compared
