"""The suite file: what it may say, and one message with every error of it. Imports no torch."""

import csv
import itertools
import json
import math
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

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
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from bench.data import DATASETS, IMAGEFOLDER, DataChoice, unlabelled
from bench.models import NETWORKS
from bench.spec import NetworkSpec, Schedule, Strict
from bench.suite.document import Place, frozen, override, read_yaml
from bench.suite.messages import messages, reason_of
from bench.types import RequestError, suggest
from methods import Method, own_files

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")  # a suite's name is a folder below the results
RESERVED = {"runs"}  # the results folder holds the runs beside the suites
MOST_ROWS = 1_000  # of a table: a few lists can span a grid of billions
MOST_SEEDS = 1_000
NONE = "none"  # the undistilled student
TEACHER = "teacher"
PEERS = f" ({TEACHER})"  # ends the label of the teacher's own row, where both networks of a pair train together
N = TypeVar("N")


def _one_line(title: str) -> str:
    words = title.split()
    if not words:
        raise ValueError("a title needs a word")
    return " ".join(words)


def _distinct(seeds: int | tuple[int, ...]) -> int | tuple[int, ...]:
    if isinstance(seeds, tuple) and len(set(seeds)) < len(seeds):
        raise ValueError("the same seed twice")
    return seeds


def _repeated(names: Sequence[str]) -> list[str]:
    """Return the names that occur more than once, sorted."""
    return sorted(name for name, count in Counter(names).items() if count > 1)


def _installed(wanted: bool) -> bool:
    if wanted and find_spec("tensorboard") is None:
        raise ValueError(
            "needs the package tensorboard, which is not installed: "
            "pip install 'distillation-bench[tensorboard]', or leave the key out"
        )
    return wanted


Title = Annotated[str, Len(1), AfterValidator(_one_line)]
Seeds = Annotated[
    Annotated[int, Ge(1), Le(MOST_SEEDS)] | Annotated[tuple[NonNegativeInt, ...], Len(1, MOST_SEEDS)],
    AfterValidator(_distinct),
]
Wanted = Annotated[bool, AfterValidator(_installed)]


class Network(NetworkSpec):
    """A network of a pair; a bare name stands for `{network: NAME}`."""

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: object) -> object:
        return {"network": value} if isinstance(value, str) else value

    @field_validator("network")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in NETWORKS and not name.startswith("torchvision."):
            raise ValueError(f"unknown network {name!r}. {suggest(name, NETWORKS)}, torchvision.NAME")
        return name

    @model_validator(mode="after")
    def _stages_named(self) -> "Network":
        hooked = self.network.startswith("torchvision.")
        if hooked and not self.stages:
            raise ValueError(f"{self.network} needs 'stages': the paths of the modules whose outputs are its stages")
        if not hooked and (self.stages or self.classifier or self.preactivations):
            raise ValueError(
                f"'stages', 'classifier' and 'preactivations' are for torchvision.NAME; {self.network} has its own"
            )
        return self


class Teacher(Network):
    """A pair's teacher: trained here, or read from a checkpoint file.

    Attributes:
        checkpoint: path of the weights, absolute or relative to the suite file.
        weights: instead, torchvision's name of weights that it publishes for the network, such as IMAGENET1K_V1; they
            are downloaded into the data folder unless their file is there.
        accuracy: top-1 in percent that the weights must reach on the data's test split, within 0.1 points.
    """

    checkpoint: str | None = None
    weights: Annotated[str, Len(1)] | None = None
    accuracy: Annotated[float, Field(ge=0, le=100)] | None = None

    @model_validator(mode="after")
    def _accuracy_of_a_checkpoint(self) -> "Teacher":
        if self.accuracy is not None and self.checkpoint is None and self.weights is None:
            raise ValueError("'accuracy' is checked against a checkpoint; name one or leave it out")
        if self.weights is not None and self.checkpoint is not None:
            raise ValueError("give 'checkpoint', a file, or 'weights', torchvision's, not both")
        if self.weights is not None and not self.network.startswith("torchvision."):
            raise ValueError(f"'weights' are published for torchvision.NAME; for {self.network} name a 'checkpoint'")
        return self

    @property
    def is_tested(self) -> bool:
        """Return whether it is trained here, or its weights must reach an accuracy: either takes data with labels."""
        return self.accuracy is not None or (self.checkpoint is None and self.weights is None)

    @property
    def spec(self) -> NetworkSpec:
        """Return the network alone."""
        return NetworkSpec.model_validate({name: getattr(self, name) for name in NetworkSpec.model_fields})


class Copies(Network):
    """Several teachers of one network, each trained from a seed of its own: 0 and on."""

    n: Annotated[int, Ge(1), Le(100)]


def _kind_of_several(value: object) -> str:
    """Return which of the two ways to name several teachers a value is, so that only that one's errors are told."""
    return "List" if isinstance(value, tuple) else "Copies"


Several = Annotated[
    Annotated[Copies, Tag("Copies")] | Annotated[tuple[Teacher, ...], Len(1, 100), Tag("List")],
    Discriminator(_kind_of_several),
]


class Pair(Strict):
    """A teacher, or several, and the student taught.

    Attributes:
        teacher: one.
        teachers: or several: a list, or copies of one network as `{network: NAME, n: 4}`.
        student: the network that learns.
    """

    teacher: Teacher | None = None
    teachers: Several | None = None
    student: Network

    @model_validator(mode="after")
    def _taught(self) -> "Pair":
        if (self.teacher is None) == (self.teachers is None):
            raise ValueError("a pair names its 'teacher', or several as 'teachers', and not both")
        files = [teacher.checkpoint for teacher in self.members if teacher.checkpoint]
        if len(set(files)) < len(files):
            raise ValueError("the same checkpoint twice among the teachers")
        return self

    @property
    def members(self) -> tuple[Teacher, ...]:
        """Return the teachers."""
        if self.teacher is not None:
            return (self.teacher,)
        if isinstance(self.teachers, Copies):
            teacher = Teacher.model_validate(self.teachers.model_dump(exclude={"n"}))
            return (teacher,) * self.teachers.n
        return self.teachers or ()

    @property
    def teacher_name(self) -> str:
        """Return the teacher network's name; of several, `resnet110x4` or the names joined by `+`."""
        if isinstance(self.teachers, Copies) and self.teachers.n > 1:
            return f"{self.teachers.network}x{self.teachers.n}"
        return "+".join(teacher.network for teacher in self.members)

    @property
    def name(self) -> str:
        """Return `<teacher>-><student>`."""
        return f"{self.teacher_name}->{self.student.network}"


class Term(BaseModel):
    """A method with its parameters; a bare name stands for `{method: NAME}`. A list of values spans a grid.

    Attributes:
        method: a name of `run_suite.py list methods`; its own parameters stand beside it.
        weight: factor of the term in the total loss; the method's own if not given.
    """

    model_config = ConfigDict(extra="allow", frozen=True, strict=True, allow_inf_nan=False)

    method: str
    weight: NonNegativeFloat | tuple[NonNegativeFloat, ...] | None = None

    @property
    def grid(self) -> Iterator[tuple[float | None, dict[str, Any]]]:
        """Yield (weight, parameters) for every combination of the values listed."""
        for values in itertools.product(*map(listed, self.settings.values())):
            chosen = dict(zip(self.settings, values, strict=True))
            yield chosen.pop("weight"), chosen

    @property
    def grid_size(self) -> int:
        """Return the number of combinations."""
        return math.prod(len(listed(value)) for value in self.settings.values())

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: object) -> object:
        return {"method": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _known(self, info: ValidationInfo) -> "Term":
        self._check_method(info)
        return self

    def _check_method(self, info: ValidationInfo) -> None:
        methods: Mapping[str, Method] = (info.context or {}).get("methods", {})
        if self.method == NONE:
            if self.parameters or self.weight is not None:
                raise ValueError("'none' is the undistilled student: it takes no parameters")
            return
        if self.method not in methods:
            raise ValueError(f"unknown method {self.method!r}. {suggest(self.method, [*methods, NONE])}")
        method = methods[self.method]
        own_keys = [key for key in type(self).model_fields if key != "terms"]
        problems = list(self._problems(method, [*method.parameters, *own_keys]))
        if problems:
            raise ValueError("; ".join(problems))

    def _problems(self, method: Method, allowed: Sequence[str]) -> Iterator[str]:
        """Yield what is wrong with the parameters."""
        for name, value in self.parameters.items():
            if name not in method.parameters:
                yield f"{self.method} has no parameter {name!r}. {suggest(name, allowed)}"
                continue
            for one in listed(value):
                try:
                    method.parameters[name].adapter.validate_python(one)
                except ValidationError as error:
                    yield f"parameter {name!r} of {self.method}: {reason_of(error.errors())}"
        for name, value in self.settings.items():
            if value == ():
                yield f"{name!r} of {self.method} is an empty list: a grid needs a value"

    @property
    def parameters(self) -> dict[str, Any]:
        """Return the method's own parameters, as far as they are given."""
        return dict(self.model_extra or {})

    @property
    def settings(self) -> dict[str, Any]:
        """Return weight and parameters, lists being values to take in turn."""
        return {"weight": self.weight, **self.parameters}


class Entry(Term):
    """One row of the table: a method, or several terms together.

    Attributes:
        terms: several methods whose terms are added; takes the place of `method`.
        kd: weight of Hinton's KD term beside the method.
        kd_temperature: its temperature.
        task_weight: weight of the cross-entropy; the method's own if not given, 1 for several terms.
        combine: whether the terms of several teachers are summed or averaged.
        label: the row's name, unique in the suite.
    """

    method: str = ""
    terms: Annotated[tuple[Term, ...], Len(1)] | None = None
    kd: NonNegativeFloat | None = None
    kd_temperature: PositiveFloat = 4.0
    task_weight: NonNegativeFloat | None = None
    combine: Literal["sum", "mean"] = "sum"
    label: Annotated[str, Len(1, 60)] | None = None

    @field_validator("label")
    @classmethod
    def _one_line(cls, label: str | None) -> str | None:
        if label is not None and label != " ".join(label.split()):
            raise ValueError(f"found {json.dumps(label)}: a label is one line, its words a single space apart")
        if label is not None and label.lower() in (NONE, TEACHER):
            raise ValueError(f"{label!r} names a row that is always there: choose another label")
        return label

    @model_validator(mode="after")
    def _known(self, info: ValidationInfo) -> "Entry":
        if self.terms is None:
            self._check_one_method(info)
        else:
            self._check_terms(self.terms)
        if self.kd is None and "kd_temperature" in self.model_fields_set:
            raise ValueError("'kd_temperature' is for the KD term beside a method: give its weight, 'kd', too")
        return self

    def _check_one_method(self, info: ValidationInfo) -> None:
        if not self.method:
            problem = "names no method: write {method: NAME} or {terms: [...]}"
            if self.parameters:
                problem += f"; found {', '.join(map(repr, self.parameters))}"
            raise ValueError(problem)
        if self.method == NONE and self.model_fields_set != {"method"}:
            raise ValueError("'none' is the undistilled student: it takes no parameters and no label")
        self._check_method(info)

    def _check_terms(self, terms: Sequence[Term]) -> None:
        if self.method or self.weight is not None:
            raise ValueError("with 'terms', each term has its own method, weight and parameters")
        if self.parameters:
            allowed = set(Entry.model_fields) - {"method", "weight"}
            unknown = "; ".join(f"unknown key {name!r}. {suggest(name, allowed)}" for name in self.parameters)
            raise ValueError(f"{unknown}. With 'terms', a method's parameters stand in its term")
        if any(term.method == NONE for term in terms):
            raise ValueError("'none' cannot be one of several terms")

    @property
    def rows(self) -> int:
        """Return the number of rows that the grids of all terms span."""
        return math.prod(term.grid_size for term in self.terms or (self,))


class Published(Strict):
    """Where the published numbers to compare with stand.

    Attributes:
        source: the paper.
        table: its table, as in `bench/suite/published.csv`.
    """

    source: str
    table: int | str

    @field_validator("table")
    @classmethod
    def _known(cls, table: int | str) -> int | str:
        with (files("bench.suite") / "published.csv").open(encoding="utf-8") as file:
            known = {row["table"] for row in csv.DictReader(file)}
        if str(table) not in known:
            raise ValueError(f"unknown table {table!r}. {suggest(str(table), known)}")
        return table


class Slurm(BaseModel):
    """The resources of a job on a cluster, for `--slurm`. No part of a run's identity.

    Any other of submitit's options stands under its name with `slurm_` before it, as `slurm_exclude: node7`.

    Attributes:
        partition: sbatch's option of that name, as are the next three.
        qos: quality of service.
        account: who pays.
        constraint: features that the node must have.
        gpus_per_node: GPUs of a job; a cohort trains on one, or on as many as its runs have processes.
        cpus_per_task: CPUs of a job, for its threads and workers.
        mem_gb: memory of a job.
        timeout_min: its time limit; a job that reaches it is queued again and goes on from its last checkpoint.
        checkpoint_minutes: the most work within a long epoch that is lost when a job ends; here as well as there.
        max_parallel: tasks of one array that run at the same time.
        setup: lines of shell that precede the training, such as `module load cuda`.
    """

    model_config = ConfigDict(extra="allow", frozen=True, strict=True, allow_inf_nan=False)

    partition: str | None = None
    qos: str | None = None
    account: str | None = None
    constraint: str | None = None
    gpus_per_node: NonNegativeInt | None = None
    cpus_per_task: PositiveInt | None = None
    mem_gb: PositiveFloat | None = None
    timeout_min: PositiveInt = 60
    checkpoint_minutes: PositiveFloat = 10.0
    max_parallel: PositiveInt | None = None
    setup: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _others_are_sbatchs(self) -> "Slurm":
        for name in self.model_extra or ():
            if not name.startswith("slurm_"):
                raise ValueError(
                    f"unknown key {name!r}. {suggest(name, Slurm.model_fields)}, or slurm_NAME for submitit's own"
                )
        return self


class Data(DataChoice):
    """A suite's data; a bare name stands for `{name: NAME}`."""

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: object) -> object:
        return {"name": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _sound(self) -> "Data":
        if problems := self.problems():
            raise ValueError("; ".join(problems))
        return self


class Evaluation(Strict):
    """How the features of networks that were trained are judged, on data with labels.

    Attributes:
        kind: `probe` trains a linear classifier of the frozen network's features, `finetune` the whole network with
            a new classifier, `segmentation` the whole network with a head that scores every pixel.
        data: what is trained and evaluated on; the network sees it in the view that it was trained with.
        stages: of probes: which stages' maps are read, a probe each, stem first from 0; the embedding if not given.
        most_values: a stage's maps are averaged over a grid of as many cells as give at most so many values; 9,000
            if not given.
        training: how.
        name: what precedes a metric's name in the tables; made of data and stage where it is not given.
    """

    kind: Literal["probe", "finetune", "segmentation"] = "probe"
    data: Data
    stages: Annotated[tuple[NonNegativeInt, ...], Len(1)] | None = None
    most_values: PositiveInt | None = None
    training: Schedule = Schedule()
    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")] | None = None

    @model_validator(mode="after")
    def _fits_its_kind(self) -> "Evaluation":
        if self.stages is not None and self.kind != "probe":
            raise ValueError(f"'stages' is for probes; {self.kind} reads the network's own")
        if self.stages is not None and len(set(self.stages)) < len(self.stages):
            raise ValueError("the same stage twice")
        if self.most_values is not None and self.stages is None:
            raise ValueError("'most_values' is for probes of 'stages'")
        if self.data.view is not None:
            raise ValueError("'view' is left out here: a network sees the data as it was trained to")
        if reason := unlabelled(self.data.name, "pixel" if self.kind == "segmentation" else "image"):
            raise ValueError(f"kind is {self.kind!r}, but {reason}")
        return self


class TeacherTraining(Schedule):
    """What differs for teachers that are trained here; a key that is not given is `training`'s."""

    def check_shares(self) -> None:
        """Leave that to the suite, which knows the whole schedule."""


class Suite(Strict):
    """One table or figure: pairs, methods, seeds and how to train.

    Attributes:
        title: what the table shows.
        task: what the views and the evaluation are; with `mutual`, both networks of a pair train together as `training`
            says, each the other's teacher.
        data: what students train and are evaluated on, and teachers unless `teacher_data` says otherwise.
        teacher_data: what teachers train and are evaluated on, where it is other data.
        pairs: teachers and students, a column each.
        methods: the rows; `teacher` and `none` are always there.
        seeds: their number (1 to n), or a list of them.
        teacher_seeds: `fixed`: one teacher with seed 0 serves all students; `paired`: each seed has its own.
        training: how students train, and teachers unless said otherwise.
        teacher_training: what differs for teachers.
        lr_by_network: learning rates of single networks, as teachers too, before any other rate.
        published: published numbers for table.csv's column of that name.
        threads: CPU threads of the arithmetic; two counts round differently.
        workers: processes that decode images which do not fit into memory.
        max_lanes: most runs that train together, where memory or time asks for fewer than would share their batches.
        slurm: resources of a job on a cluster.
        tensorboard: whether each run's epochs are written for TensorBoard too.
        evaluations: of cross-modal students, how they are judged; the tables' columns.
    """

    title: Title
    task: Literal["compression", "cross_modal", "mutual", "transfer"] = "compression"
    data: Data
    teacher_data: Data | None = None
    pairs: Annotated[tuple[Pair, ...], Len(1)]
    methods: Annotated[tuple[Entry, ...], Len(1)]
    seeds: Seeds = 1
    teacher_seeds: Literal["fixed", "paired"] = "fixed"
    training: Schedule = Schedule()
    teacher_training: TeacherTraining | None = None
    lr_by_network: dict[str, PositiveFloat] = Field(default_factory=dict)
    published: Published | None = None
    threads: PositiveInt = 2
    workers: NonNegativeInt = 2
    max_lanes: PositiveInt | None = None
    slurm: Slurm = Slurm()
    tensorboard: Wanted = False
    evaluations: tuple[Evaluation, ...] = ()

    @field_validator("lr_by_network")
    @classmethod
    def _rates_of_networks(cls, rates: dict[str, float]) -> dict[str, float]:
        for name in rates:
            if name not in NETWORKS and not name.startswith("torchvision."):
                raise ValueError(f"unknown network {name!r}. {suggest(name, NETWORKS)}")
        return rates

    @field_validator("pairs")
    @classmethod
    def _distinct_pairs(cls, pairs: tuple[Pair, ...]) -> tuple[Pair, ...]:
        twice = _repeated([pair.name for pair in pairs])
        if twice:
            raise ValueError(f"the same pair twice: {', '.join(twice)}")
        return pairs

    @field_validator("methods")
    @classmethod
    def _distinct_rows(cls, entries: tuple[Entry, ...], info: ValidationInfo) -> tuple[Entry, ...]:
        count = sum(entry.rows for entry in entries)
        if count > MOST_ROWS:
            raise ValueError(f"span a grid of {count} rows; at most {MOST_ROWS} make a table")
        labels = [row.label for row in _rows(entries, (info.context or {}).get("methods", {}))]
        labels += [NONE for entry in entries if entry.method == NONE]
        twice = _repeated(labels)
        if twice:
            raise ValueError(
                f"the same method twice: {', '.join(twice)}. "
                "Leave one out, or give each its own 'label' if their settings differ"
            )
        return entries

    @model_validator(mode="after")
    def _fits_its_task(self) -> "Suite":
        if self.task == "cross_modal" and not self.evaluations:
            raise ValueError("a cross-modal suite needs 'evaluations': how what its students learn is judged")
        if self.task != "cross_modal" and self.evaluations:
            raise ValueError(f"'evaluations' are for task: cross_modal or transfer, and this suite's is {self.task}")
        if self.task == "cross_modal" and self.teacher_data is None:
            raise ValueError("a cross-modal suite needs 'teacher_data': what teachers are trained on, in their view")
        if self.task == "mutual" and (problems := list(self._not_mutual())):
            raise ValueError("; ".join(problems))
        if self.task == "cross_modal" and any(entry.task_weight is not None for entry in self.methods):
            raise ValueError("'task_weight' is for students that learn from labels; cross-modal ones learn from none")
        if problems := list(self._without_labels()):
            raise ValueError("; ".join(problems))
        return self

    def _without_labels(self) -> Iterator[str]:
        """Yield which data lacks the labels that networks learn from or are tested with."""
        if self.task != "cross_modal" and (reason := unlabelled(self.data.name, "image")):
            yield f"'data': {reason}"
        teachers = [teacher for pair in self.pairs for teacher in pair.members]
        given = self.task == "cross_modal" and not any(teacher.is_tested for teacher in teachers)
        if self.teacher_data is not None and not given and (reason := unlabelled(self.teacher_data.name, "image")):
            yield f"'teacher_data': {reason}"

    def _not_mutual(self) -> Iterator[str]:
        """Yield what keeps the networks of a pair from training together."""
        for index, pair in enumerate(self.pairs):
            if pair.teachers is not None:
                yield f"pairs[{index}]: in mutual learning two networks train together: name one 'teacher'"
            if any(teacher.checkpoint or teacher.weights for teacher in pair.members):
                yield f"pairs[{index}]: in mutual learning the teacher is trained too: leave its weights out"
        if self.teacher_data is not None:
            yield "'teacher_data': in mutual learning both networks see the same data: leave it out"
        for index, entry in enumerate(self.methods):
            if entry.label is not None and entry.label.endswith(PEERS):
                yield f"methods[{index}].label: {entry.label!r} would name a teacher's row: leave out {PEERS!r}"

    @model_validator(mode="after")
    def _teachers_share_their_batches(self) -> "Suite":
        try:
            self.teacher_schedule.check_shares()
        except ValueError as error:
            raise ValueError(f"teacher_training: {error}") from None
        return self

    @property
    def seed_list(self) -> tuple[int, ...]:
        """Return the seeds."""
        if isinstance(self.seeds, tuple):
            return self.seeds
        return tuple(range(1, self.seeds + 1))

    @property
    def teacher_schedule(self) -> Schedule:
        """Return how teachers train: `training` with what `teacher_training` sets."""
        if self.teacher_training is None:
            return self.training
        return self.training.model_copy(update=self.teacher_training.model_dump(exclude_unset=True))


class From(Strict):
    """Whose networks are judged: those of another suite, trained first where its runs are not done.

    Attributes:
        suite: the name of a suite file beside this one, without `.yaml`.
        pairs: names, or patterns such as `wrn_*->*`, of its pairs; all if not given.
        methods: labels or names, or patterns, of its rows; all if not given.
        seeds: their number or a list, instead of that suite's.
    """

    suite: Annotated[str, Field(pattern=f"^{NAME.pattern}$")]
    pairs: Annotated[tuple[str, ...], Len(1)] | None = None
    methods: Annotated[tuple[str, ...], Len(1)] | None = None
    seeds: Seeds | None = None


class Transfer(Strict):
    """A suite that judges the networks of another one on other data.

    Attributes:
        title: what the table shows.
        task: `transfer`.
        source: whose networks; `from` in the file.
        evaluations: how they are judged; the tables' columns.
        published: as in any suite, as are the next four.
        threads: the other suite's, if not given.
        workers: the other suite's, if not given.
        max_lanes: the other suite's, if not given.
        slurm: resources of a job on a cluster.
        tensorboard: whether each run's epochs are written for TensorBoard too.
    """

    title: Title
    task: Literal["transfer"]
    source: From = Field(alias="from")
    evaluations: Annotated[tuple[Evaluation, ...], Len(1)]
    published: Published | None = None
    threads: PositiveInt | None = None
    workers: NonNegativeInt | None = None
    max_lanes: PositiveInt | None = None
    slurm: Slurm = Slurm()
    tensorboard: Wanted = False


@dataclass(frozen=True)
class Row:
    """One row of the table: an entry with one value for each parameter.

    Attributes:
        label: as printed.
        method: registered names, joined by `+` where several terms were listed.
        terms: (method, weight or None, parameters given) of each, KD beside the method included.
        task_weight: weight of the cross-entropy, or None for the method's own.
        combine: of several teachers' terms.
        overrides: what the row sets that is not the default, for captions.
        standard: the name that tables give the row's method, such as CRD+KD; "" for several terms.
    """

    label: str
    method: str
    terms: tuple[tuple[str, float | None, dict[str, Any]], ...] = ()
    task_weight: float | None = None
    combine: Literal["sum", "mean"] = "sum"
    overrides: str = ""
    standard: str = ""


def rows(suite: Suite, methods: Mapping[str, Method]) -> list[Row]:
    """Return the table's rows in order, grids spread out, `none` left out."""
    return _rows(suite.methods, methods)


def _rows(entries: Sequence[Entry], methods: Mapping[str, Method]) -> list[Row]:
    return [row for entry in entries if entry.method != NONE for row in _spread(entry, methods)]


def _spread(entry: Entry, methods: Mapping[str, Method]) -> Iterator[Row]:
    """Yield a row for each combination of the values that an entry's terms list."""
    terms: Sequence[Term] = entry.terms or (entry,)
    titles = [methods[term.method].title for term in terms]
    if entry.kd is not None:
        titles.append("KD")
    title = "+".join(titles)
    task_weight = entry.task_weight
    if task_weight is None and entry.terms:
        task_weight = 1.0
    is_grid = any(term.grid_size > 1 for term in terms)
    beside = list(_beside(entry, methods))
    for combination in itertools.product(*(term.grid for term in terms)):
        chosen: list[tuple[str, float | None, dict[str, Any]]] = []
        labelled: list[str] = []  # what the label says of the terms: what differs, and all that the grid varies
        differing: list[str] = []
        for term, (weight, given) in zip(terms, combination, strict=True):
            chosen.append((term.method, weight, given))
            differs = _differing(methods[term.method], weight, given)
            differing += [_setting(key, value) for key, value in differs.items()]
            for key, value in {"weight": weight, **given}.items():
                is_varied = len(listed(term.settings[key])) > 1
                if is_varied or key in differs:
                    labelled.append(_setting(key, value))
        if entry.kd is not None:
            chosen.append(("kd", entry.kd, {"temperature": entry.kd_temperature}))
        label = entry.label or title
        if is_grid or not entry.label:
            label = f"{label} {', '.join([*labelled, *beside])}".strip()
        yield Row(
            label=label,
            method="+".join(term.method for term in terms),
            terms=tuple(chosen),
            task_weight=task_weight,
            combine=entry.combine,
            overrides=", ".join([*differing, *beside]),
            standard="" if entry.terms else title,  # terms listed have their own weights, not the paper's
        )


def listed(value: object) -> Sequence[Any]:
    """Return the values that a setting takes in turn: a list's items, or the one value."""
    return value if isinstance(value, tuple) else (value,)


def _differing(method: Method, weight: float | None, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a term that are not the method's defaults."""
    differs = {name: value for name, value in given.items() if value != method.parameters[name].default}
    if weight is not None and weight != method.weight:
        return {"weight": weight, **differs}
    return differs


def _beside(entry: Entry, methods: Mapping[str, Method]) -> Iterator[str]:
    """Yield what an entry sets beside its terms that is not the default."""
    own = 1.0 if entry.terms else methods[entry.method].task_weight
    defaults = {"kd": 1.0, "kd_temperature": 4.0, "task_weight": own, "combine": "sum"}
    for key, default in defaults.items():
        value = getattr(entry, key)
        if value is not None and value != default:
            yield _setting(key, value)


def _setting(key: str, value: object) -> str:
    return f"{key}={value:g}" if isinstance(value, float) else f"{key}={value}"


def load(path: Path, methods: Mapping[str, Method], overrides: Sequence[str] = ()) -> Suite:
    """Return the suite a file describes.

    Args:
        path: the YAML file.
        methods: the known methods, by name.
        overrides: `KEY=VALUE` with dotted keys, as `--set` takes them.

    Raises:
        RequestError: with every error of the file, a line each.
    """
    found = _read(path, methods, overrides)
    return found if isinstance(found, Suite) else _with_source(found, path, methods)


def _read(path: Path, methods: Mapping[str, Method], overrides: Sequence[str] = ()) -> Suite | Transfer:
    """Return what a file says, as `load` does, but a suite that judges another's networks as it is."""
    check_name(path)
    document, places = read_yaml(path)
    kind: type[Suite | Transfer] = Transfer if document.get("task") == "transfer" else Suite
    for change in overrides:
        seeds_of_source = kind is Transfer and change.startswith("seeds=")
        override(document, places, f"from.{change}" if seeds_of_source else change)
    try:
        return kind.model_validate(frozen(document), context={"methods": methods})
    except ValidationError as error:
        raise RequestError("\n".join(messages(error, places, partial(_allowed_keys, kind)))) from None


def _with_source(transfer: Transfer, path: Path, methods: Mapping[str, Method]) -> Suite:
    """Return the suite whose networks are judged, as far as they are, with what judges them.

    Raises:
        RequestError: it is wrong, of another task, or has none of the pairs or methods named.
    """
    of = path.with_name(f"{transfer.source.suite}.yaml")
    try:
        source = _read(of, methods)
    except RequestError as error:
        raise RequestError("\n".join(f"{path}: from.suite: {line}" for line in str(error).splitlines())) from None
    if not isinstance(source, Suite) or source.task != "compression":
        raise RequestError(f"{path}: from.suite: {of} is a suite of task {source.task}; only compression's are judged")
    pair_names = [(pair, [pair.name]) for pair in source.pairs]
    row_names = [(entry, [entry.method, *(row.label for row in _rows([entry], methods))]) for entry in source.methods]
    changes: dict[str, object] = {
        "title": transfer.title,
        "pairs": _matching(pair_names, transfer.source.pairs, f"{path}: from.pairs: {of}"),
        "methods": _matching(row_names, transfer.source.methods, f"{path}: from.methods: {of}"),
        "evaluations": transfer.evaluations,
        "published": transfer.published,
        "slurm": transfer.slurm,
        "tensorboard": transfer.tensorboard,
    }
    if transfer.source.seeds is not None:
        changes["seeds"] = transfer.source.seeds
    for key in ("threads", "workers", "max_lanes"):
        value = getattr(transfer, key)
        if value is not None:
            changes[key] = value
    return source.model_copy(update=changes)


def _matching(named: Sequence[tuple[N, list[str]]], patterns: Sequence[str] | None, where: str) -> tuple[N, ...]:
    """Return what has a name that matches one of some patterns, whatever the case; all, if there are no patterns."""

    def matches(names: Sequence[str], pattern: str) -> bool:
        return any(fnmatchcase(name.lower(), pattern.lower()) for name in names)

    if patterns is None:
        return tuple(one for one, _ in named)
    for pattern in patterns:
        if not any(matches(names, pattern) for _, names in named):
            known = {name for _, names in named for name in names if name}
            raise RequestError(f"{where} has no {pattern!r}. {suggest(pattern, known)}")
    return tuple(one for one, names in named if any(matches(names, pattern) for pattern in patterns))


def check_name(path: Path) -> None:
    """Check that a suite file's stem can name a folder of its own below the results.

    Raises:
        RequestError: it cannot.
    """
    if not NAME.fullmatch(path.stem) or path.stem in RESERVED:
        raise RequestError(
            f"{path}: the file's name, {path.stem!r}, cannot name a folder of the results: "
            "letters, digits, '.', '_' and '-', the first a letter or digit, and not 'runs'. Rename the file"
        )


INSIDE: dict[str, type[BaseModel]] = {  # the keys that hold a mapping
    "data": Data,
    "teacher_data": Data,
    "pairs": Pair,
    "teacher": Teacher,
    "teachers": Copies,
    "student": Network,
    "training": Schedule,
    "teacher_training": Schedule,
    "published": Published,
    "slurm": Slurm,
    "from": From,
    "evaluations": Evaluation,
}


def _allowed_keys(kind: type[BaseModel], at: Place) -> list[str]:
    """Return the keys allowed where an unknown one was found, in a file of a kind."""
    model = kind
    for part in at[:-1]:
        model = INSIDE.get(str(part), model)
    return [field.alias or name for name, field in model.model_fields.items()]


def json_schema() -> dict[str, Any]:
    """Return the JSON schema of a suite file, for editors; names are offered, those of plugins allowed."""
    models = TypeAdapter(Suite | Transfer).json_schema()["$defs"]
    schema = {  # not `anyOf`, of which an editor could only say that a file is neither
        "$defs": models,
        "if": {"properties": {"task": {"const": "transfer"}}, "required": ["task"]},
        "then": {"$ref": "#/$defs/Transfer"},
        "else": {"$ref": "#/$defs/Suite"},
    }
    models["Slurm"] |= {"patternProperties": {"^slurm_": True}, "additionalProperties": False}
    known = {"network": sorted(NETWORKS), "method": [*sorted(path.stem for path in own_files()), NONE]}
    for model in ("Network", "Teacher", "Copies", "Term", "Entry"):
        key = "network" if "network" in models[model]["properties"] else "method"
        models[model]["properties"][key]["examples"] = known[key]
        # a bare name may stand wherever a before-validator accepts one, which pydantic cannot see
        models[model] = {"anyOf": [{"type": "string", "examples": known[key]}, models[model]]}
    names = {"enum": [*sorted(DATASETS), IMAGEFOLDER]}
    models["Data"]["properties"]["name"] |= names
    models["Data"] = {"anyOf": [{"type": "string"} | names, models["Data"]]}
    return schema


if __name__ == "__main__":
    sys.stdout.write(json.dumps(json_schema(), indent=1, ensure_ascii=False) + "\n")
