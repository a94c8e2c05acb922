"""The data classes of a plan: its cells, their trials and choices, and the files it depends on. Imports no torch."""

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.plan.space import Dimension
from bench.schedule import Scalar
from bench.spec import STUDENT, Crossed, RunSpec, Seed
from bench.suite import TEACHER, Suite
from bench.tasks import task_of
from bench.tasks.objectives import Metric
from bench.types import RequestError
from methods import Code

TOLERANCE = 0.1 + 1e-9  # percentage points between a checkpoint's accuracy and the stated one, with room for rounding


@dataclass(frozen=True)
class Trial:
    """One point of a search: a row's settings, trained without the dev images and evaluated on them."""

    number: int  # 0 for the row's own settings
    settings: Mapping[str, Scalar]  # by the name of the searched parameter
    runs: tuple[RunSpec, ...]  # one per seed of the search
    status: str  # done, the status of the run that ended without a result, or waiting
    value: float | None = None  # primary metric on the dev images after the last epoch, in percent, mean over seeds

    @property
    def epochs(self) -> int:
        """Return the number of epochs of the rung."""
        return self.runs[0].training.epochs

    @property
    def is_open(self) -> bool:
        """Return whether a run of the trial can still get a result."""
        return self.status == "waiting"


@dataclass(frozen=True)
class Choice:
    """A row's search for better settings."""

    space: Mapping[str, Dimension]  # by the name of the searched parameter
    trials: tuple[Trial, ...]  # of all rungs that have begun, the last one's last
    awaits: str  # how far the search is, such as `tuning 7/16`; "" if it has ended
    best: Trial | None  # whose settings the row takes: None while the search goes on, or if no trial has a result
    later: tuple[RunSpec, ...] = ()  # as many runs as may train in rungs that have not begun, with the row's settings

    @property
    def on_border(self) -> tuple[str, ...]:
        """Return the parameters whose chosen value is in the first or the last tenth of their range."""
        if self.best is None:
            return ()
        places = {name: one.place(self.best.settings[name]) for name, one in self.space.items()}
        return tuple(name for name, place in places.items() if place is not None and not 0.1 <= place <= 0.9)

    @property
    def first_rung(self) -> tuple[Trial, ...]:
        """Return the trials that every row has."""
        return tuple(trial for trial in self.trials if trial.epochs == self.trials[0].epochs)


@dataclass(frozen=True)
class Cell:
    """A cell of the table: runs that differ only in their seeds."""

    pair: str  # `<teacher>-><student>`
    teacher: str  # the teacher network's name
    student: str  # the student network's name
    method: str  # registered name(s), `teacher` or `none`
    label: str  # the row's name
    overrides: str  # the settings that differ from the method's defaults
    standard: str  # the method's name in published tables; "" for several terms
    runs: tuple[RunSpec, ...]  # one per seed, or per combination of crossed seeds
    metrics: Mapping[str, str]  # the names of the metrics in the records, by their names in the tables
    network: str = STUDENT  # the network of the runs that the cell shows
    published: str = ""  # the row of the published table whose settings these are, if they are not the defaults
    variant: str = ""  # whose formula the row has, `reference` or `paper`, where the two differ
    evaluation: str = ""  # the name of the evaluation in the tables, or "" if a row has only one
    is_control: bool = False  # whether it is the undistilled student with more epochs
    in_grid: bool = False  # whether the row is one of several that differ in a listed parameter
    choice: Choice | None = None  # of the settings of `runs`; None for settings that the suite states

    @property
    def awaits(self) -> str:
        """Return what the cell's settings wait for, or ""; until they are chosen, `runs` have the row's own."""
        return self.choice.awaits if self.choice else ""

    @property
    def wanted(self) -> tuple[RunSpec, ...]:
        """Return the runs that the cell needs now: those that it shows, or the trials of its choice."""
        if self.choice is None:
            return self.runs
        trials = tuple(run for trial in self.choice.trials for run in trial.runs)
        return trials if self.awaits else (*trials, *self.runs)

    @property
    def measured(self) -> tuple[Metric, ...]:
        """Return what `metrics` measure, in their order."""
        return task_of(self.runs[0]).measured(self.runs[0].data.has_dev)

    @property
    def title(self) -> str:
        """Return the row's name; for an evaluation, followed by its name, or by its kind if a row has only one."""
        task = task_of(self.runs[0])
        kind = task.name if task.is_evaluation else ""
        return f"{self.label} {self.evaluation or kind}".strip()


@dataclass(frozen=True)
class Checkpoint:
    """A file of teacher weights."""

    path: Path | None  # None for weights published under a name, which the run's specification names
    accuracy: float | None  # primary metric in percent that the weights must reach within 0.1 points, or None
    where: str  # the position of the teacher in the suite file

    def check(self, reached: float) -> None:
        """Raise a `RequestError` if an accuracy in percent differs from that of the suite by more than 0.1 points."""
        if self.accuracy is not None and abs(reached - self.accuracy) > TOLERANCE:
            raise RequestError(
                f"{self.where}.accuracy: {self.path or 'it'} reaches {reached:.2f} % on the test split, but the suite "
                f"says {self.accuracy} %. Name the right file, correct 'accuracy', or leave it out"
            )


@dataclass(frozen=True)
class Plan:
    """The cells and runs of a suite."""

    suite: Suite
    name: str  # the suite's name and folder in the results
    file: Path  # the path of the suite file from the command line
    cells: tuple[Cell, ...]  # in the order of the table: by pair, then row
    runs: dict[str, RunSpec]  # every run by id, teachers before their students
    checkpoints: dict[str, Checkpoint]  # by the id of the run that evaluates them
    sources: Mapping[str, Any]  # image folders and checkpoints of the suite; see `Sources`
    changes: tuple[str, ...] = ()  # overrides from the command line, as `KEY=VALUE`
    code: Mapping[str, Code] = field(default_factory=dict)  # of the methods that runs use, by name
    text: str = ""  # of the suite file when the plan was made
    absolute: Path = Path()  # the suite file's path then, for jobs, which run in another folder
    subfolder: str = ""  # of the report in the suite's folder; see `bench.report.folder`

    @property
    def folder(self) -> str:
        """Return the path of the report's folder in the results."""
        return f"{self.name}/{self.subfolder}" if self.subfolder else self.name

    @property
    def awaited(self) -> list[tuple[str, str]]:
        """Return (pair, row) of the cells whose settings are not chosen yet."""
        return [(cell.pair, cell.label) for cell in self.cells if cell.awaits]

    @property
    def trial_ids(self) -> set[str]:
        """Return the ids of the trials of all searches that no cell shows."""
        trials = {run.id for cell in self.cells if cell.choice for trial in cell.choice.trials for run in trial.runs}
        return trials - {run.id for cell in self.cells if not cell.awaits for run in cell.runs}

    @property
    def plugins(self) -> list[str]:
        """Return the plug-in files of the command line whose methods and networks runs use, as they were given.

        Files that the suite file itself names under `plugins` are not among them.
        """
        named = {(self.file.parent / os.path.expanduser(name)).resolve() for name in self.suite.plugins}
        used = [code.path for _, code in sorted(self.code.items()) if code.is_plugin]
        return list(dict.fromkeys(str(path) for path in used if path.resolve() not in named))

    @property
    def options(self) -> list[str]:
        """Return the options of a command line that give this plan again."""
        return [*(f"--set={change}" for change in self.changes), *(f"--plugin={path}" for path in self.plugins)]

    @property
    def titles(self) -> dict[str, tuple[str, str]]:
        """Return (pair, row) of each run by id; a run of several cells has the title of the first."""
        titles: dict[str, tuple[str, str]] = {}
        for cell in reversed(self.cells):
            for trial in cell.choice.trials if cell.choice else ():
                for run in trial.runs:
                    titles[run.id] = (cell.pair, f"{cell.label} trial {trial.number}")
                    for teacher_id in run.teachers:
                        network = self.runs[teacher_id].student.network
                        titles[teacher_id] = (cell.pair, f"{TEACHER} {network} for tuning")
            if cell.awaits:
                continue
            for run in cell.runs:
                titles[run.trained_by] = (cell.pair, cell.label)
                if cell.method == TEACHER:
                    for teacher_id in self.trained(run).teachers:  # has no cell if there are several teachers
                        network = self.runs[teacher_id].student.network
                        titles[teacher_id] = (cell.pair, f"{TEACHER} {network}")
                titles[run.id] = (cell.pair, cell.title)
        return titles

    def seed_of(self, run: RunSpec) -> Seed:
        """Return the seed of a cell's run, or its seeds if the suite crosses them: its place among the cell's runs."""
        if self.suite.crossed is None:
            return run.seed
        teachers = self.trained(run).teachers if self.suite.crosses_teachers else ()
        return Crossed(run.seed, run.ordered_by, self.runs[teachers[0]].seed if teachers else None)

    def with_needs(self, runs: Iterable[RunSpec]) -> list[RunSpec]:
        """Return runs and all runs that they need, in the plan's order."""
        chosen: set[str] = set()
        left = [run.id for run in runs]
        while left:
            chosen.update(left)
            left = [needed for run_id in left for needed in self.runs[run_id].needs if needed not in chosen]
        return [run for run in self.runs.values() if run.id in chosen]

    def trained(self, run: RunSpec) -> RunSpec:
        """Return the run that trains the network of a cell's run: the run itself, or the one that it evaluates."""
        return self.runs[run.trained_by]


@dataclass
class Sources:
    """The identities of files outside the suite: specifications of image folders and hashes of checkpoints.

    They make it possible to rebuild a suite's tables from the store when the files no longer exist or have moved.
    """

    remembered: Mapping[str, Any]  # of an earlier plan, by the key of the suite file; {} to require the files
    current: dict[str, Any] = field(default_factory=dict)  # of this plan

    def take(self, key: str, look: Callable[[], Any]) -> Any:  # noqa: ANN401
        """Return the result of `look` or, if it raises a `RequestError`, the remembered identity."""
        try:
            self.current[key] = look()
        except RequestError:
            if key not in self.remembered:
                raise
            self.current[key] = self.remembered[key]
        return self.current[key]
