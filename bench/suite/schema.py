"""The keys of a suite file, as pydantic models. Imports no torch.

There are two kinds of file: `Suite` trains networks, `TransferSuite` evaluates the networks of another suite on other
data. Names of methods are checked against `context={"methods": ...}`, names of tasks against `bench.tasks`.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

from annotated_types import Ge, Le, Len
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Tag,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from bench.data import DataChoice, unlabelled
from bench.models import NETWORKS
from bench.spec import NetworkSpec, Schedule, Strict
from bench.suite.messages import reason_of
from bench.suite.published import published_tables
from bench.suite.resources import Slurm
from bench.tasks import EVALUATIONS, STUDENT_TASKS, TASKS
from bench.types import suggest
from methods import Method

FILE_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"  # name of a suite file without `.yaml`
MAX_SEEDS = 1_000
NONE = "none"  # the undistilled student
TEACHER = "teacher"
PEERS = f" ({TEACHER})"  # suffix of a label: the row of the teacher, if both networks of a pair train together
TRANSFER = "transfer"  # the task of a `TransferSuite`
T = TypeVar("T")


def repeated(values: Iterable[T]) -> list[T]:
    """Return the values that occur more than once, in order."""
    return [value for value, count in Counter(values).items() if count > 1]


def listed(value: object) -> Sequence[Any]:
    """Return the values of a setting in a grid: the items of a list, or the single value."""
    return value if isinstance(value, tuple) else (value,)


def _one_line(title: str) -> str:
    if not (line := " ".join(title.split())):
        raise ValueError("a title needs a word")
    return line


def _label(label: str) -> str:
    if label != " ".join(label.split()):
        raise ValueError(f"found {json.dumps(label)}: a label is one line with single spaces between words")
    if label.lower() in (NONE, TEACHER):
        raise ValueError(f"{label!r} is the label of a row that every table has: choose another label")
    return label


def _distinct(numbers: tuple[int, ...]) -> tuple[int, ...]:
    if twice := repeated(numbers):
        raise ValueError(f"the same number twice: {', '.join(map(str, twice))}")
    return numbers


def _installed(wanted: bool) -> bool:
    if wanted and find_spec("tensorboard") is None:
        install = "pip install 'distillation-bench[tensorboard]'"
        raise ValueError(f"needs the package tensorboard, which is not installed: {install}, or leave the key out")
    return wanted


def _known(what: str, names: Mapping[str, object], others: Sequence[str], name: str) -> str:
    if name not in names and name not in others:
        raise ValueError(f"unknown {what} {name!r}. {suggest(name, [*names, *others])}")
    return name


def _one_of(what: str, names: Mapping[str, object], *others: str) -> tuple[Any, ...]:
    enum: list[Any] = sorted([*names, *others])
    return AfterValidator(partial(_known, what, names, others)), Field(json_schema_extra={"enum": enum})


def _known_network(name: str) -> str:
    if name not in NETWORKS and not name.startswith("torchvision."):
        raise ValueError(f"unknown network {name!r}. {suggest(name, NETWORKS)}, torchvision.NAME")
    return name


def _known_table(table: int | str) -> int | str:
    if str(table) not in published_tables():
        raise ValueError(f"unknown table {table!r}. {suggest(str(table), published_tables())}")
    return table


Title = Annotated[str, Len(1), AfterValidator(_one_line)]
Label = Annotated[str, Len(1, 60), AfterValidator(_label)]
Numbers = Annotated[tuple[NonNegativeInt, ...], Len(1, MAX_SEEDS), AfterValidator(_distinct)]
Seeds = Annotated[int, Ge(1), Le(MAX_SEEDS)] | Numbers
NeedsTensorBoard = Annotated[bool, AfterValidator(_installed)]
NetworkName = Annotated[str, AfterValidator(_known_network)]
TableName = Annotated[int | str, AfterValidator(_known_table)]
TaskName = Annotated[str, *_one_of("task", STUDENT_TASKS, TRANSFER)]
EvaluationName = Annotated[str, *_one_of("kind", EVALUATIONS)]


class NetworkChoice(NetworkSpec):
    """A network of a pair; a bare name is short for `{network: NAME}`."""

    network: NetworkName

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: object) -> object:
        return {"network": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _stages_of_hooked_networks(self) -> Self:
        hooked = self.network.startswith("torchvision.")
        if hooked and not self.stages:
            raise ValueError(f"{self.network} needs 'stages': the paths of the modules whose outputs are its stages")
        if not hooked and (self.stages or self.classifier or self.preactivations):
            keys = "'stages', 'classifier' and 'preactivations'"
            raise ValueError(f"{keys} are for torchvision.NAME; {self.network} has its own")
        return self

    @property
    def spec(self) -> NetworkSpec:
        """Return the specification of the network, without where its weights come from."""
        return NetworkSpec.model_validate({name: getattr(self, name) for name in NetworkSpec.model_fields})


class TeacherChoice(NetworkChoice):
    """The teacher of a pair: trained here, or with given weights."""

    checkpoint: str | None = None
    """Path of the weights, absolute or relative to the suite file."""
    weights: Annotated[str, Len(1)] | None = None
    """Name of weights published by torchvision, such as IMAGENET1K_V1; downloaded into the data folder if missing."""
    accuracy: Annotated[float, Ge(0), Le(100)] | None = None
    """Top-1 accuracy in percent that the weights must reach on the test split, within 0.1 points."""

    @model_validator(mode="after")
    def _one_source_of_weights(self) -> Self:
        if self.accuracy is not None and self.checkpoint is None and self.weights is None:
            raise ValueError("'accuracy' is checked against a checkpoint: name one, or leave 'accuracy' out")
        if self.weights is not None and self.checkpoint is not None:
            raise ValueError("give 'checkpoint' (a file) or 'weights' (published by torchvision), not both")
        if self.weights is not None and not self.network.startswith("torchvision."):
            raise ValueError(f"'weights' are published for torchvision.NAME; for {self.network} name a 'checkpoint'")
        return self

    @property
    def is_tested(self) -> bool:
        """Return whether the teacher is trained here or must reach an accuracy; both need data with labels."""
        return self.accuracy is not None or (self.checkpoint is None and self.weights is None)


class TeacherCopies(NetworkChoice):
    """Several teachers of one network, trained with the seeds 0, 1 and so on."""

    n: Annotated[int, Ge(1), Le(100)]
    """Number of teachers."""


SeveralTeachers = Annotated[
    Annotated[TeacherCopies, Tag("TeacherCopies")]
    | Annotated[tuple[TeacherChoice, ...], Len(1, 100), Tag("TeacherChoice")],
    # errors are only about the form that the file uses
    Discriminator(lambda value: "TeacherChoice" if isinstance(value, tuple) else "TeacherCopies"),
]


class PairEntry(Strict):
    """One or several teachers and a student."""

    teacher: TeacherChoice | None = None
    """The teacher, if there is exactly one."""
    teachers: SeveralTeachers | None = None
    """Several teachers instead: a list, or copies of one network as `{network: NAME, n: 4}`."""
    student: NetworkChoice
    """The network that learns from the teacher."""

    @model_validator(mode="after")
    def _names_its_teachers_once(self) -> Self:
        if (self.teacher is None) == (self.teachers is None):
            raise ValueError("a pair needs either 'teacher' or, for several, 'teachers'")
        if repeated(teacher.checkpoint for teacher in self.members if teacher.checkpoint):
            raise ValueError("the same checkpoint twice among the teachers")
        return self

    @property
    def members(self) -> tuple[TeacherChoice, ...]:
        """Return the teachers."""
        if self.teacher is not None:
            return (self.teacher,)
        if isinstance(self.teachers, TeacherCopies):
            return (TeacherChoice.model_validate(self.teachers.spec.model_dump()),) * self.teachers.n
        return self.teachers or ()

    @property
    def teacher_name(self) -> str:
        """Return the name of the teacher's network; for several teachers, `resnet110x4` or names joined by `+`."""
        if isinstance(self.teachers, TeacherCopies) and self.teachers.n > 1:
            return f"{self.teachers.network}x{self.teachers.n}"
        return "+".join(teacher.network for teacher in self.members)

    @property
    def name(self) -> str:
        """Return `<teacher>-><student>`."""
        return f"{self.teacher_name}->{self.student.network}"


class TermEntry(BaseModel):
    """A method with its parameters; a bare name is short for `{method: NAME}`. A list of values spans a grid."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True, allow_inf_nan=False)
    forms: ClassVar[str] = "{method: NAME}"  # for messages

    method: str
    """A name from `run_suite.py list methods`; the parameters of the method are keys next to it."""
    weight: NonNegativeFloat | tuple[NonNegativeFloat, ...] | None = None
    """Factor of the term in the total loss; default: that of the method."""

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: object) -> object:
        if isinstance(value, dict) and "method" not in value:
            keys = f"; found {', '.join(map(repr, value))}" if value else ""
            raise ValueError(f"has no 'method': write {cls.forms}{keys}")
        return {"method": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _fits_its_method(self, info: ValidationInfo) -> Self:
        if self.method == NONE:
            raise ValueError("'none' cannot be one of several terms")
        self._check_parameters(info)
        return self

    def _check_parameters(self, info: ValidationInfo) -> None:
        methods: Mapping[str, Method] = (info.context or {}).get("methods", {})
        _known("method", methods, [NONE], self.method)
        if problems := list(self._problems(methods[self.method])):
            raise ValueError("; ".join(problems))

    def _problems(self, method: Method) -> Iterator[str]:
        for name, value in self.settings.items():
            if value == ():
                yield f"{name!r} of {self.method} is an empty list: a grid needs a value"
            if name == "weight":
                continue
            if name not in method.parameters:
                known = [*method.parameters, *type(self).model_fields]
                yield f"{self.method} has no parameter {name!r}. {suggest(name, known)}"
                continue
            for one in listed(value):
                try:
                    method.parameters[name].adapter.validate_python(one)
                except ValidationError as error:
                    yield f"parameter {name!r} of {self.method}: {reason_of(error.errors())}"

    @property
    def settings(self) -> dict[str, Any]:
        """Return the weight and the parameters that are given; a list has the values of a grid."""
        weight = {} if self.weight is None else {"weight": self.weight}
        return {**weight, **(self.model_extra or {})}


class RowSettings(Strict):
    """Settings of a row, other than those of its method or terms."""

    kd: NonNegativeFloat | None = None
    """Weight of Hinton's KD term, which is added to the method."""
    kd_temperature: PositiveFloat = 4.0
    """Temperature of that KD term."""
    task_weight: NonNegativeFloat | None = None
    """Weight of the cross-entropy; default: that of the method, or 1 for several terms."""
    combine: Literal["sum", "mean"] = "sum"
    """Whether the terms of several teachers are summed or averaged."""
    label: Label | None = None
    """Name of the row, unique in the suite."""

    @model_validator(mode="after")
    def _temperature_of_a_term(self) -> Self:
        if self.kd is None and "kd_temperature" in self.model_fields_set:
            raise ValueError(
                "'kd_temperature' is for the KD term added to a method: also give 'kd', the weight of the term"
            )
        return self


class MethodEntry(RowSettings, TermEntry):
    """A row with one method, or several rows if lists of values span a grid."""

    model_config = ConfigDict(extra="allow")
    forms: ClassVar[str] = "{method: NAME} or {terms: [...]}"

    @model_validator(mode="after")
    def _fits_its_method(self, info: ValidationInfo) -> Self:
        if self.method != NONE:
            self._check_parameters(info)
        elif self.model_fields_set != {"method"}:
            raise ValueError("'none' is the undistilled student: it takes no parameters and no label")
        return self


class TermsEntry(RowSettings):
    """A row with several methods, whose terms are added."""

    terms: Annotated[tuple[TermEntry, ...], Len(1)]
    """The methods, each with its own weight and parameters."""

    @model_validator(mode="before")
    @classmethod
    def _has_no_settings_of_a_term(cls, value: dict[str, object]) -> dict[str, object]:
        problems = []
        for key in value:
            if key in TermEntry.model_fields:
                problems.append(f"{key!r} is not allowed next to 'terms'")
            elif key not in cls.model_fields:
                problems.append(f"unknown key {key!r}. {suggest(key, cls.model_fields)}")
        if problems:
            raise ValueError(
                f"{'; '.join(problems)}. With 'terms', each term has its own method, weight and parameters"
            )
        return value


def _model_of_row(value: object) -> str:
    has_terms = "terms" in value if isinstance(value, dict) else isinstance(value, TermsEntry)
    return "TermsEntry" if has_terms else "MethodEntry"


RowEntry = Annotated[
    Annotated[MethodEntry, Tag("MethodEntry")] | Annotated[TermsEntry, Tag("TermsEntry")],
    Discriminator(_model_of_row),  # errors are only about the form that the file uses
]


class PublishedTable(Strict):
    """A published table to compare with."""

    source: str
    """The paper with the table."""
    table: TableName
    """The table's name in `bench/suite/published.csv`."""


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
    """What is trained: `probe` trains a linear classifier of the frozen network's features, `finetune` the whole
    network with a new classifier, `segmentation` the whole network with a head that scores every pixel.
    """
    data: DataEntry
    """The data for training and evaluation; the network sees them in the view that it was trained with."""
    stages: Numbers | None = None
    """The stages that probes read, one probe per stage; 0 is the stem. Default: the embedding."""
    most_values: PositiveInt | None = None
    """Largest number of values that a probe reads: a stage's maps are averaged over a grid to fit; default: 9,000."""
    training: Schedule = Schedule()
    """How the new head, or the whole network, is trained."""
    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")] | None = None
    """Prefix of the metrics' names in the tables; by default made of data and stage."""

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Self:
        task = EVALUATIONS[self.kind]
        if self.stages is not None and not task.reads_stages:
            readers = [name for name, other in EVALUATIONS.items() if other.reads_stages]
            raise ValueError(f"'stages' is for kind: {' or '.join(readers)}; {self.kind} reads the network's own")
        if self.most_values is not None and self.stages is None:
            raise ValueError("'most_values' is for 'stages': name the stages to read, or leave it out")
        if self.data.view is not None:
            raise ValueError("'view' is not allowed here: a network sees the data in the view that it was trained with")
        if task.objective is not None and (reason := unlabelled(self.data.name, task.objective.labels)):
            raise ValueError(f"kind is {self.kind!r}, but {reason}")
        return self


class TeacherTraining(Schedule):
    """Training of teachers; a key that is not given has the value of `training`."""

    def check_shares(self) -> None:
        """Check nothing: only the suite knows the complete schedule, and checks it."""


class SuiteFile(Strict):
    """The keys of both kinds of suite file."""

    title: Title
    """Title of the table."""
    published: PublishedTable | None = None
    """Published numbers, for the column `published` in table.csv."""
    max_lanes: PositiveInt | None = None
    """Largest number of runs that train together, if memory or time limits require one; default: all that can."""
    slurm: Slurm = Slurm()
    """Resources of a job on a cluster."""
    tensorboard: NeedsTensorBoard = False
    """Whether to write the epochs of each run for TensorBoard too."""


class Suite(SuiteFile):
    """One table or figure: pairs, methods, seeds and how to train."""

    task: TaskName = "compression"
    """What students learn from and how they are evaluated; with `mutual`, both networks of a pair teach each other."""
    data: DataEntry
    """The data for training and evaluating students, and teachers unless `teacher_data` is given."""
    teacher_data: DataEntry | None = None
    """The data for training and evaluating teachers, if different."""
    pairs: Annotated[tuple[PairEntry, ...], Len(1)]
    """Teachers and students; each pair is a column of the table."""
    methods: Annotated[tuple[RowEntry, ...], Len(1)]
    """The rows of the table; every table also has the rows `teacher` and `none`."""
    seeds: Seeds = 1
    """The number of seeds (1 to n), or a list of them."""
    teacher_seeds: Literal["fixed", "paired"] = "fixed"
    """Seeds of teachers: `fixed` trains one teacher with seed 0 for all students, `paired` one per seed."""
    training: Schedule = Schedule()
    """Training of students, and of teachers unless `teacher_training` is given."""
    teacher_training: TeacherTraining | None = None
    """Keys of `training` that differ for teachers."""
    lr_by_network: dict[NetworkName, PositiveFloat] = Field(default_factory=dict)
    """Learning rates by network, for students and teachers; they replace all others."""
    threads: PositiveInt = 2
    """CPU threads of torch; the number changes the rounding of results."""
    workers: NonNegativeInt = 2
    """Processes that decode images if the data set does not fit into memory."""
    evaluations: tuple[EvaluationEntry, ...] = ()
    """Evaluations of cross-modal students; the columns of the tables."""

    @field_validator("pairs")
    @classmethod
    def _distinct_pairs(cls, pairs: tuple[PairEntry, ...]) -> tuple[PairEntry, ...]:
        if twice := repeated(pair.name for pair in pairs):
            raise ValueError(f"the same pair twice: {', '.join(twice)}")
        return pairs

    @model_validator(mode="after")
    def _fits_its_task(self) -> Self:
        if problems := list(self._problems()):
            raise ValueError("; ".join(problems))
        return self

    @model_validator(mode="after")
    def _teachers_share_their_batches(self) -> Self:
        try:
            self.teacher_schedule.check_shares()
        except ValueError as error:
            raise ValueError(f"teacher_training: {error}") from None
        return self

    def _problems(self) -> Iterator[str]:
        """Yield which keys the task needs but the suite does not have, and which it does not allow."""
        task = TASKS[self.task]
        yield from (
            f"task {task.name} needs {key!r}: {use}"
            for key, use in task.required_keys.items()
            if not getattr(self, key)
        )
        yield from (f"{key!r}: {reason}" for key, reason in task.rejected_keys.items() if getattr(self, key))
        if self.evaluations and "evaluations" not in task.required_keys:
            evaluated = [name for name, other in TASKS.items() if "evaluations" in other.required_keys]
            yield f"'evaluations' are for task: {' or '.join([*evaluated, TRANSFER])}; the task here is {task.name}"
        if task.trains_teachers:
            yield from self._problems_of_peers()
        if task.objective is None and any(entry.task_weight is not None for entry in self.methods):
            yield f"'task_weight' is for students that learn from labels; students of task {task.name} have none"
        if task.objective is not None and (reason := unlabelled(self.data.name, task.objective.labels)):
            yield f"'data': {reason}"
        are_tested = task.evaluates_given_teachers or any(one.is_tested for pair in self.pairs for one in pair.members)
        teacher_data = self.teacher_data if are_tested else None
        teaching = TASKS[task.teacher_task].objective
        if teacher_data and teaching and (reason := unlabelled(teacher_data.name, teaching.labels)):
            yield f"'teacher_data': {reason}"

    def _problems_of_peers(self) -> Iterator[str]:
        """Yield why the networks of a pair cannot train together."""
        for index, pair in enumerate(self.pairs):
            if pair.teachers is not None:
                yield f"pairs[{index}]: with task {self.task}, two networks train together: name one 'teacher'"
            if any(teacher.checkpoint or teacher.weights for teacher in pair.members):
                yield f"pairs[{index}]: with task {self.task}, the teacher is trained too: leave out its weights"
        for index, entry in enumerate(self.methods):
            if entry.label is not None and entry.label.endswith(PEERS):
                yield f"methods[{index}].label: {entry.label!r} is the label of a teacher's row: leave out {PEERS!r}"

    @property
    def seed_list(self) -> tuple[int, ...]:
        """Return the seeds."""
        return self.seeds if isinstance(self.seeds, tuple) else tuple(range(1, self.seeds + 1))

    @property
    def teacher_schedule(self) -> Schedule:
        """Return the complete schedule of teachers: `training` with the keys of `teacher_training`."""
        if self.teacher_training is None:
            return self.training
        return self.training.model_copy(update=self.teacher_training.model_dump(exclude_unset=True))


class TransferSource(Strict):
    """The suite whose networks are evaluated; missing networks are trained first."""

    suite: Annotated[str, Field(pattern=f"^{FILE_NAME}$")]
    """Name of a suite file in the same folder, without `.yaml`."""
    pairs: Annotated[tuple[str, ...], Len(1)] | None = None
    """Names of its pairs, or patterns such as `wrn_*->*`; default: all."""
    methods: Annotated[tuple[str, ...], Len(1)] | None = None
    """Labels or methods of its rows, or patterns; default: all."""
    seeds: Seeds | None = None
    """The number of seeds, or a list of them; default: those of that suite."""


class TransferSuite(SuiteFile):
    """A suite that evaluates the networks of another suite on other data."""

    task: Literal["transfer"]
    """Always `transfer`, the mark of this kind of file."""
    source: TransferSource = Field(alias="from")
    """The suite whose networks are evaluated; the key is `from`."""
    evaluations: Annotated[tuple[EvaluationEntry, ...], Len(1)]
    """Evaluations of the networks; the columns of the tables."""
    threads: PositiveInt | None = None
    """CPU threads of torch; default: those of the other suite."""
    workers: NonNegativeInt | None = None
    """Processes that decode images; default: those of the other suite."""
