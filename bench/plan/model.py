"""The plan of a suite: cells, their runs, and the files that these depend on. Imports no torch."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.spec import STUDENT, RunSpec
from bench.suite import TEACHER, Suite
from bench.tasks import task_of
from bench.types import RequestError

TOLERANCE = 0.1 + 1e-9  # percentage points between a checkpoint's accuracy and the stated one, with room for rounding


@dataclass(frozen=True)
class Cell:
    """A cell of the table: runs that differ only in their seed.

    Attributes:
        pair: `<teacher>-><student>`.
        teacher: the teacher network's name.
        student: the student network's name.
        method: registered name(s), `teacher` or `none`.
        label: the row's name.
        overrides: the settings that differ from the method's defaults.
        standard: the method's name in published tables; "" for several terms.
        runs: one run per seed.
        metrics: the names of the metrics in the records, by their names in the tables.
        network: the network of the runs that the cell shows.
        evaluation: the name of the evaluation in the tables, or "" if a row has only one.
    """

    pair: str
    teacher: str
    student: str
    method: str
    label: str
    overrides: str
    standard: str
    runs: tuple[RunSpec, ...]
    metrics: Mapping[str, str]
    network: str = STUDENT
    evaluation: str = ""

    @property
    def title(self) -> str:
        """Return the row's name; for an evaluation, followed by its name, or by its kind if a row has only one."""
        task = task_of(self.runs[0])
        kind = task.name if task.is_evaluation else ""
        return f"{self.label} {self.evaluation or kind}".strip()


@dataclass(frozen=True)
class Checkpoint:
    """A file of teacher weights.

    Attributes:
        path: the file, or None for weights published by torchvision, which the run's specification names.
        accuracy: top-1 in percent that the weights must reach within 0.1 points, or None.
        where: the position of the teacher in the suite file.
    """

    path: Path | None
    accuracy: float | None
    where: str

    def check(self, top1: float) -> None:
        """Raise a `RequestError` if an accuracy in percent differs from that of the suite by more than 0.1 points."""
        if self.accuracy is not None and abs(top1 - self.accuracy) > TOLERANCE:
            raise RequestError(
                f"{self.where}.accuracy: {self.path or 'it'} reaches {top1:.2f} % on the test split, but the suite "
                f"says {self.accuracy} %. Name the right file, correct 'accuracy', or leave it out"
            )


@dataclass(frozen=True)
class Plan:
    """The cells and runs of a suite.

    Attributes:
        suite: the settings.
        name: the suite's name and folder in the results.
        file: the path of the suite file from the command line.
        cells: cells in the order of the table: by pair, then row.
        runs: every run by id, teachers before their students.
        checkpoints: checkpoints by the id of the run that evaluates them.
        sources: image folders and checkpoints of the suite; see `Sources`.
        changes: overrides from the command line, as `KEY=VALUE`.
    """

    suite: Suite
    name: str
    file: Path
    cells: tuple[Cell, ...]
    runs: dict[str, RunSpec]
    checkpoints: dict[str, Checkpoint]
    sources: Mapping[str, Any]
    changes: tuple[str, ...] = ()

    @property
    def titles(self) -> dict[str, tuple[str, str]]:
        """Return (pair, row) of each run by id; a run of several cells has the title of the first."""
        titles: dict[str, tuple[str, str]] = {}
        for cell in reversed(self.cells):
            for run in cell.runs:
                titles[run.trained_by] = (cell.pair, cell.label)
                if cell.method == TEACHER:
                    for teacher_id in self.trained(run).teachers:  # has no cell if there are several teachers
                        titles[teacher_id] = (cell.pair, f"{TEACHER} {self.runs[teacher_id].student.network}")
                titles[run.id] = (cell.pair, cell.title)
        return titles

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

    Attributes:
        remembered: identities from an earlier plan, by the entry of the suite file; {} to require the files.
        current: identities of this plan.
    """

    remembered: Mapping[str, Any]
    current: dict[str, Any] = field(default_factory=dict)

    def take(self, key: str, look: Callable[[], Any]) -> Any:  # noqa: ANN401
        """Return the result of `look` or, if it raises a `RequestError`, the remembered identity."""
        try:
            self.current[key] = look()
        except RequestError:
            if key not in self.remembered:
                raise
            self.current[key] = self.remembered[key]
        return self.current[key]
