"""What all figures of a suite are drawn from: its plan, results frame, epochs and stored outputs."""

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from safetensors import SafetensorError
from safetensors.numpy import load

from bench.figures.drawing import STYLES, Style
from bench.figures.looks import PLAIN, TAUGHT, Look, looks
from bench.plan import Plan
from bench.report.frame import Frame
from bench.report.summary import Summary
from bench.spec import STUDENT, RunSpec
from bench.store import AGAIN, OUTPUTS, Store
from bench.suite import NONE, TEACHER
from bench.tasks import TASKS
from bench.types import RequestError
from methods import Method

Outputs = Mapping[str, np.ndarray]  # by name; see bench/train/outputs.py


@dataclass(frozen=True)
class Findings:
    """What a suite's figures are drawn from."""

    frame: Frame
    store: Store
    methods: Mapping[str, Method]  # by name, for their parameters' defaults
    style: Style = STYLES["page"]
    pair: str = ""  # the only one that is drawn; "" for all

    @property
    def plan(self) -> Plan:
        """Return the suite's plan."""
        return self.frame.plan

    @property
    def title(self) -> str:
        """Return the suite's title."""
        return self.plan.suite.title

    @cached_property
    def groups(self) -> dict[str, list[Summary]]:
        """Return the rows that a figure shows side by side, by pair and evaluation: each with its primary metric.

        Where teachers train too, figures show the students: the undistilled student is not a baseline for teachers.
        """
        groups: dict[str, list[Summary]] = {}
        for row in self.frame.primary:
            if row.cell.network == STUDENT and not row.cell.awaits and self.pair in ("", row.pair):
                groups.setdefault(f"{row.pair} {row.cell.evaluation}".strip(), []).append(row)
        return groups

    @cached_property
    def looks(self) -> dict[str, Look]:
        """Return the look of each row by label, the same in all figures."""
        cells = {row.label: row.cell for row in self.frame.primary if row.label not in (NONE, TEACHER)}
        cells = dict(sorted(cells.items(), key=lambda one: one[1].choice is not None))  # tuned rows take what is left
        with_defaults = {label: "" if cell.overrides or cell.choice else cell.method for label, cell in cells.items()}
        return {NONE: PLAIN, TEACHER: TAUGHT} | looks(with_defaults)

    @cached_property
    def epochs(self) -> dict[str, pd.DataFrame]:
        """Return the epochs of each run's main stage: a row per epoch, a column per recorded number."""
        cells = [row.cell for rows in self.groups.values() for row in rows]
        runs = {one.id for cell in cells for run in cell.runs for one in (run, self.plan.trained(run))}
        shown = [run.id for run in self.frame.shown_runs if run.id in runs]
        rows = {run: [row for row in self.store.epochs(run) if row["stage"] == "main"] for run in shown}
        return {run: _table(of_run) for run, of_run in rows.items() if of_run}

    def curves(self, runs: Mapping[str, Iterable[RunSpec]], columns: str) -> dict[str, pd.DataFrame]:
        """Return a number that the runs of a label record, if any: a row per epoch that has it, a column per seed.

        The number is the mean over the columns whose names match the regular expression `columns`.
        """
        curves = {}
        for label, of_row in runs.items():
            epochs = {str(self.plan.seed_of(run)): self.epochs[run.id] for run in of_row if run.id in self.epochs}
            if not epochs:
                continue
            names = {seed: [one for one in frame if re.fullmatch(columns, str(one))] for seed, frame in epochs.items()}
            means = {
                seed: epochs[seed][own[0]] if len(own) == 1 else epochs[seed][own].mean(axis=1)
                for seed, own in names.items()
            }
            curve = pd.DataFrame(means, columns=[str(self.plan.seed_of(run)) for run in of_row], dtype=float).dropna(
                how="all"
            )
            if not curve.empty:
                curves[label] = curve
        return curves

    def outputs(self, run: RunSpec) -> Outputs | None:
        """Return the outputs of a run's network for the test images; None if the run is not done or has stored none.

        Raises:
            RequestError: the file cannot be read.
        """
        if run.id not in self.frame.records or (content := self.store.content(run.id, OUTPUTS)) is None:
            return None
        try:
            return load(content)
        except SafetensorError as error:
            path = self.store.folder(run.id) / OUTPUTS
            raise RequestError(f"{path}: cannot be read ({error}). {AGAIN}") from error

    def beside_teachers(self) -> Iterator[tuple[str, Iterator[tuple[str, Outputs, Outputs]]]]:
        """Yield each group with (label, outputs of the teacher, outputs of the row) where they can be compared.

        Outputs are read when their turn comes: those of all rows would fill hundreds of megabytes.
        """
        if TASKS[self.plan.suite.task].trains_teachers:
            return  # the row `teacher` taught none of the others
        for group, rows in self.groups.items():
            yield group, self._beside(row_of(TEACHER, rows), rows)

    def _beside(self, teacher: Summary, rows: Iterable[Summary]) -> Iterator[tuple[str, Outputs, Outputs]]:
        """Yield the outputs of the teacher and of each row on the same images, of the first seed that has both."""
        taught: dict[str, Outputs | None] = {}  # by run
        for row in (row for row in rows if row is not teacher):
            for number, run in enumerate(row.cell.runs):
                tested = teacher.cell.runs[number % len(teacher.cell.runs)]  # one for all seeds, one each, or in turn
                if any(getattr(run.data, key) != getattr(tested.data, key) for key in ("name", "size", "fingerprint")):
                    continue
                if tested.id not in taught:
                    taught[tested.id] = self.outputs(tested)
                if (of_teacher := taught[tested.id]) and (own := self.outputs(run)):
                    yield row.label, of_teacher, own
                    break


def _table(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return rows of epochs as a table: from lists of numbers, it takes a fraction of the time of one from mappings."""
    columns = dict.fromkeys(name for row in rows for name in row if name != "epoch")
    index = pd.Index([row["epoch"] for row in rows], name="epoch")
    return pd.DataFrame({name: [row.get(name, math.nan) for row in rows] for name in columns}, index)


def by_number(rows: Mapping[float, Summary]) -> pd.DataFrame:
    """Return the values of rows: a line for each number that has any, a column per seed."""
    values = {number: {str(seed): value for seed, value in row.by_seed.items()} for number, row in rows.items()}
    seeds = list(dict.fromkeys(seed for of_row in values.values() for seed in of_row))
    return pd.DataFrame(values, index=seeds, dtype=float).T.dropna(how="all")


def row_of(method: str, rows: Iterable[Summary]) -> Summary:
    """Return the row of a group's teacher or undistilled student, which every plan has."""
    return next(row for row in rows if row.cell.method == method)
