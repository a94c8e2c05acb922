"""What a plan is: cells, their runs, and the files that they depend on. Imports no torch."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.spec import STUDENT, RunSpec
from bench.suite import TEACHER, Suite
from bench.tasks import task_of
from bench.types import RequestError

TOLERANCE = 0.1 + 1e-9  # percentage points by which a checkpoint may miss its stated accuracy, and rounding


@dataclass(frozen=True)
class Cell:
    """The runs that differ only in their seed: one cell of the table.

    Attributes:
        pair: `<teacher>-><student>`.
        teacher: the teacher network's name.
        student: the student network's name.
        method: registered name(s), `teacher` or `none`.
        label: the row's name.
        overrides: what differs from the method's defaults.
        standard: the name that tables give the row's method; "" for several terms.
        runs: one per seed.
        metrics: the names of the metrics in the records, by their names in the tables.
        network: which of the networks that a run trains the cell is about.
        evaluation: the tables' name of the evaluation, or "" where a row has only one.
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
        """Return the row's name and, of an evaluation, the evaluation's name, or its kind where a row has only one."""
        task = task_of(self.runs[0])
        kind = task.name if task.is_evaluation else ""
        return f"{self.label} {self.evaluation or kind}".strip()


@dataclass(frozen=True)
class Checkpoint:
    """A file of teacher weights.

    Attributes:
        path: the file, or None for weights that torchvision publishes under the name in the run's specification.
        accuracy: top-1 in percent that it must reach within 0.1 points, or None.
        where: the place in the suite that names it.
    """

    path: Path | None
    accuracy: float | None
    where: str

    def check(self, top1: float) -> None:
        """Check the accuracy that the file reaches, in percent, against the one that the suite states.

        Raises:
            RequestError: they differ by more than 0.1 points.
        """
        if self.accuracy is not None and abs(top1 - self.accuracy) > TOLERANCE:
            raise RequestError(
                f"{self.where}.accuracy: {self.path or 'it'} reaches {top1:.2f} % on the test split, but the suite "
                f"says {self.accuracy} %. Name the right file, correct 'accuracy', or leave it out"
            )


@dataclass(frozen=True)
class Plan:
    """Everything that a suite asks for.

    Attributes:
        suite: the settings.
        name: the suite's name, a folder of the results.
        file: the suite file, as the command line named it.
        cells: in the table's order: by pair, then row.
        runs: every run by id, teachers before their students.
        checkpoints: by the id of the run that evaluates them.
        sources: what the suite's image folders and checkpoints are; see `Sources`.
        changes: what the command line set instead of the suite file, as `KEY=VALUE`.
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
        """Return (pair, row) of each run; one that serves several cells has the title of the first."""
        titles: dict[str, tuple[str, str]] = {}
        for cell in reversed(self.cells):
            for run in cell.runs:
                titles[run.trained_by] = (cell.pair, cell.label)
                if cell.method == TEACHER:
                    for teacher_id in self.trained(run).teachers:  # one of several teachers has no cell of its own
                        titles[teacher_id] = (cell.pair, f"{TEACHER} {self.runs[teacher_id].student.network}")
                titles[run.id] = (cell.pair, cell.title)
        return titles

    def with_needs(self, runs: Iterable[RunSpec]) -> list[RunSpec]:
        """Return some runs and all that they need, in the plan's order."""
        chosen: set[str] = set()
        left = [run.id for run in runs]
        while left:
            chosen.update(left)
            left = [needed for run_id in left for needed in self.runs[run_id].needs if needed not in chosen]
        return [run for run in self.runs.values() if run.id in chosen]

    def trained(self, run: RunSpec) -> RunSpec:
        """Return the run that trained the network which a cell's run is about: another one, or itself."""
        return self.runs[run.trained_by]


@dataclass
class Sources:
    """What the files outside the suite are: an image folder's specification, a checkpoint's hash.

    With them, a suite's tables can be rebuilt from the store alone when the files are gone or have moved.

    Attributes:
        remembered: from an earlier plan, by what the suite says of the file; {} to insist on the files.
        current: the same, as it is now.
    """

    remembered: Mapping[str, Any]
    current: dict[str, Any] = field(default_factory=dict)

    def take(self, key: str, look: Callable[[], Any]) -> Any:  # noqa: ANN401
        """Return what `look` returns or, where it raises a `RequestError`, what is remembered."""
        try:
            self.current[key] = look()
        except RequestError:
            if key not in self.remembered:
                raise
            self.current[key] = self.remembered[key]
        return self.current[key]
