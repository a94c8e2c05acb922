"""The entries of a suite file's `evaluations` and of its `data`. Imports no torch."""

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Annotated, Self

from annotated_types import Le
from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from bench.data import DataChoice, unlabelled
from bench.schedule import OF_IMAGES, OF_LABELS, UNUSED, Schedule, Strict
from bench.suite.entries import one_of
from bench.suite.messages import ProblemsError
from bench.suite.seeds import Numbers
from bench.tasks import EVALUATIONS, Task

EvaluationName = Annotated[str, *one_of("kind", EVALUATIONS)]


def problems_of_schedule(schedule: Schedule, task: Task) -> Iterator[str]:
    """Yield why a network of a task cannot train with a schedule."""
    try:
        schedule.check_whole()
    except ValueError as error:
        yield str(error)
    if schedule.optimizer == "lamb" and find_spec("timm") is None:
        install = "pip install 'distillation-bench[timm]'"
        yield f"optimizer: lamb needs the package timm, which is not installed: {install}, or choose sgd or adamw"
    given = [key for key in UNUSED if getattr(schedule, key) is not None]
    if task.objective is None or task.objective.labels != "image":
        for key in given:
            if key in (*OF_LABELS, *OF_IMAGES):
                yield f"{key} is for networks that learn one label per image: leave it out"


class DataEntry(DataChoice):
    """The data of a suite; a bare name is short for `{name: NAME}`."""

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: object) -> object:
        return {"name": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _has_no_problems(self) -> Self:
        if problems := self.problems():
            raise ValueError("; ".join(problems))
        return self


class EvaluationEntry(Strict):
    """How the features of trained networks are evaluated, on data with labels."""

    kind: EvaluationName = "probe"
    """What is trained: `probe` trains a linear classifier of the frozen network's features as networks are trained,
    `logistic` fits one to standardised features and chooses its L2 penalty on dev images, `finetune` trains the whole
    network with a new classifier, `segmentation` the whole network with a head that scores every pixel.
    """
    data: DataEntry
    """The data for training and evaluation; the network sees them in the view that it was trained with."""
    stages: Numbers | None = None
    """The stages that probes read, one probe per stage; 0 is the stem. Default: the embedding."""
    most_values: Annotated[PositiveInt, Le(1_000_000_000)] | None = None
    """Largest number of values that a probe reads: a stage's maps are averaged over a grid to fit; default: 9,000."""
    training: Schedule = Schedule()
    """How the new head, or the whole network, is trained; not for `logistic`."""
    none_lr: PositiveFloat | None = None
    """Learning rate of the row `none`, if the whole network is trained; default: that of `training`."""
    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")] | None = None
    """Prefix of the metrics' names in the tables; by default made of data and stage."""

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Self:
        task = EVALUATIONS[self.kind]
        if self.none_lr is not None and task.freezes:
            raise ValueError(f"'none_lr' is for evaluations that train the whole network; {self.kind} does not")
        if task.is_solved and "training" in self.model_fields_set:
            raise ValueError(f"'training' is for evaluations that train in epochs; {self.kind} is fitted by a solver")
        if not task.is_solved and (self.data.dev_per_class is not None or self.data.dev_fraction is not None):
            raise ValueError("'dev_per_class' and 'dev_fraction' are for the data of the suite, or of kind: logistic")
        if self.stages is not None and not task.reads_stages:
            readers = [name for name, other in EVALUATIONS.items() if other.reads_stages]
            raise ValueError(f"'stages' is for kind: {' or '.join(readers)}; {self.kind} reads the network's own")
        if self.most_values is not None and self.stages is None:
            raise ValueError("'most_values' is for 'stages': name the stages to read, or leave it out")
        if self.data.view is not None:
            raise ValueError("'view' is not allowed here: a network sees the data in the view that it was trained with")
        if problems := list(problems_of_schedule(self.training, task)):
            raise ValueError(f"training: {'; '.join(problems)}")
        if problems := [f"training.{problem}" for problem in self.training.unused_keys([self.training])]:
            raise ProblemsError(problems)
        if self.training.ema is not None:
            raise ValueError("training.ema is for students and teachers; evaluations have none: leave it out")
        if task.objective is not None and (reason := unlabelled(self.data.name, task.objective.labels)):
            raise ValueError(f"kind is {self.kind!r}, but {reason}")
        return self
