"""The entries of a suite file: networks and pairs, which are its columns, and methods, which are its rows.

Names of methods are checked against `context={"methods": ..., "folder": ...}`, with the folder of the suite file.
Imports no torch.
"""

import json
import os
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

from annotated_types import Ge, Le, Len
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    Tag,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from bench.models import NETWORKS, OTHERS, library, own, timm_names, torchvision_stages
from bench.models import known as networks
from bench.models.timm_names import TIMM, tag_of
from bench.models.torchvision_stages import TORCHVISION
from bench.schedule import CountOrZero, Strict
from bench.spec import NamedNetwork, NetworkSpec
from bench.suite.messages import reason_of
from bench.types import RequestError, suggest
from methods import Method

NONE = "none"  # the undistilled student
LONGER = f"{NONE}, +"  # begins the label of the undistilled student that trains for more epochs
TEACHER = "teacher"
FOUND_STAGES: Mapping[str, Callable[[str], tuple[str, ...] | tuple[int, ...]]] = {  # by how a network's name begins
    TORCHVISION: torchvision_stages.stages_of,
    TIMM: timm_names.stages_of,
}
T = TypeVar("T")


def repeated(values: Iterable[T]) -> list[T]:
    """Return the values that occur more than once, in order."""
    return [value for value, count in Counter(values).items() if count > 1]


def listed(value: object) -> Sequence[Any]:
    """Return the values of a setting in a grid: the items of a list, or the single value."""
    return value if isinstance(value, tuple) else (value,)


def _label(label: str) -> str:
    if label != " ".join(label.split()):
        raise ValueError(f"found {json.dumps(label)}: a label is one line with single spaces between words")
    if label.lower() in (NONE, TEACHER) or label.lower().startswith(LONGER):
        raise ValueError(f"{label!r} is the label of a row that tables have of themselves: choose another label")
    return label


def known(what: str, names: Mapping[str, object], others: Sequence[str], name: str) -> str:
    """Return a name, or raise a `ValueError` if it is none of `names` and `others`."""
    if name not in names and name not in others:
        raise ValueError(f"unknown {what} {name!r}. {suggest(name, [*names, *others])}")
    return name


def _plugin_hint(name: str, folder: Path) -> str:
    """Return how to load a method's file that lies in the current folder or that of the suite file; or nothing."""
    for path in (Path(f"{name}.py"), folder / f"{name}.py"):
        if os.path.isfile(path):  # unlike Path.is_file, False for what cannot be a path
            return f". Is it {path}? Add --plugin {shlex.quote(str(path))}"
    return ""


def _known_network(name: str) -> str:
    if library(name) is not None:
        return name
    try:
        is_own = own.file_of(name) is not None
    except RequestError as error:
        raise ValueError(str(error)) from None
    if not is_own and name not in NETWORKS:
        raise ValueError(f"unknown network {name!r}. {suggest(name, networks())}, {OTHERS}")
    return name


NetworkName = Annotated[str, AfterValidator(_known_network)]
Combine = Literal["sum", "mean", "one", "probabilities"]  # of several teachers' terms
Label = Annotated[str, Len(1, 60), AfterValidator(_label)]


class NetworkChoice(NamedNetwork):
    """A network of a pair; a bare name is short for `{network: NAME}`."""

    network: NetworkName

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: object) -> object:
        value = {"network": value} if isinstance(value, str) else value
        if isinstance(value, dict) and not value.get("stages"):
            name = str(value.get("network"))
            if source := library(name):
                try:
                    return value | {"stages": FOUND_STAGES[source](name)}  # part of the runs' identities
                except RequestError as error:
                    raise ValueError(str(error)) from None
        return value

    @model_validator(mode="after")
    def _names_what_its_library_has(self) -> Self:
        source = library(self.network)
        if source == TORCHVISION:
            if self.stages and isinstance(self.stages[0], int):
                raise ValueError(f"'stages' of {self.network} are paths of modules, such as layer1, not indices")
        elif source == TIMM:
            if self.classifier or self.preactivations:
                raise ValueError(f"'classifier' and 'preactivations' are for torchvision.NAME, not for {self.network}")
            if self.stages and isinstance(self.stages[0], str):
                raise ValueError(f"'stages' of {self.network} are indices of timm's feature maps, such as [0, 1, 2]")
        elif self.network in NETWORKS and (self.stages or self.classifier or self.preactivations):
            keys = "'stages', 'classifier' and 'preactivations'"
            raise ValueError(f"{keys} are for torchvision.NAME; {self.network} has its own")
        return self

    @property
    def spec(self) -> NetworkSpec:
        """Return the specification of the network, without where its weights come from."""
        return NetworkSpec.model_validate({name: getattr(self, name) for name in NamedNetwork.model_fields})


class TeacherChoice(NetworkChoice):
    """The teacher of a pair: trained here, or with given weights."""

    checkpoint: str | None = None
    """Path of the weights, absolute or relative to the suite file."""
    key: Annotated[str, Len(1)] | None = None
    """Where the checkpoint has the weights, if not under `model`, `state_dict` or the like: keys joined by dots, such
    as `ema` or `state_dict.student`.
    """
    rename: Annotated[dict[str, str], Len(1)] | None = None
    """New by old parts of the names of its weights: `{linear: fc}` reads `linear.weight` as `fc.weight`."""
    classes: str | None = None
    """Path of a text file with the names of the classes that the weights predict, one a line, in their order; it is
    compared with the folders' names of an imagefolder.
    """
    weights: Annotated[str, Len(1)] | None = None
    """Name of weights published by torchvision, such as IMAGENET1K_V1, or tag of timm's, such as a1_in1k; downloaded
    into the data folder if missing.
    """
    pretrained: bool = False
    """Whether to take the weights that are timm's default for the network; its tag becomes part of the identity."""
    accuracy: Annotated[float, Ge(0), Le(100)] | None = None
    """Top-1 accuracy in percent that the weights must reach on the test split, within 0.1 points."""

    @model_validator(mode="before")
    @classmethod
    def _names_timms_weights(cls, value: object) -> object:
        if isinstance(value, dict) and (value.get("pretrained") is True or value.get("weights")):
            name, weights = str(value.get("network")), value.get("weights")
            if library(name) == TIMM and (weights is None or isinstance(weights, str)):
                try:
                    return value | {"weights": tag_of(name, weights)}
                except RequestError as error:
                    raise ValueError(str(error)) from None
        return value

    @model_validator(mode="after")
    def _one_source_of_weights(self) -> Self:
        if self.accuracy is not None and self.checkpoint is None and self.weights is None:
            raise ValueError("'accuracy' is checked against a checkpoint: name one, or leave 'accuracy' out")
        if self.weights is not None and self.checkpoint is not None:
            raise ValueError("give 'checkpoint' (a file) or 'weights' (published ones), not both")
        if self.checkpoint is None:
            for key in ("key", "rename", "classes"):
                if getattr(self, key) is not None:
                    raise ValueError(f"{key!r} says how a checkpoint is read: name a 'checkpoint', or leave it out")
        if "" in (self.rename or {}):
            raise ValueError("'rename': the part to rename is empty: name a part of the names, such as {linear: fc}")
        if self.pretrained and library(self.network) != TIMM:
            raise ValueError(f"'pretrained' is for timm.NAME; for {self.network} name 'weights' or a 'checkpoint'")
        if self.weights is not None and library(self.network) is None:
            raise ValueError(f"'weights' are published for {OTHERS}; for {self.network} name a 'checkpoint'")
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
        if repeated((teacher.checkpoint, teacher.key) for teacher in self.members if teacher.checkpoint):
            raise ValueError("the same checkpoint twice among the teachers")
        return self

    @property
    def members(self) -> tuple[TeacherChoice, ...]:
        """Return the teachers."""
        if self.teacher is not None:
            return (self.teacher,)
        if isinstance(self.teachers, TeacherCopies):
            return (TeacherChoice.model_validate(self.teachers.spec.model_dump(exclude_none=True)),) * self.teachers.n
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


class PairSettings(BaseModel):
    """A method's settings for one pair; they replace those of the row."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True, allow_inf_nan=False)

    weight: NonNegativeFloat | None = None
    """Factor of the term in the total loss."""
    warmup: CountOrZero | None = None
    """Number of epochs over which that factor rises."""

    @property
    def settings(self) -> dict[str, Any]:
        """Return weight, warmup and parameters, as far as they are given."""
        return _given(self)

    def problems(self, method: Method) -> Iterator[str]:
        """Yield why these are no settings of a method."""
        for name, value in self.settings.items():
            if isinstance(value, tuple):
                yield f"{name!r} is a list: a pair has one value"
        yield from _problems(self, method)


class TermEntry(BaseModel):
    """A method with its parameters; a bare name is short for `{method: NAME}`. A list of values spans a grid."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True, allow_inf_nan=False)
    forms: ClassVar[str] = "{method: NAME}"  # for messages

    method: str
    """A name from `run_suite.py list methods`; the parameters of the method are keys next to it."""
    weight: NonNegativeFloat | tuple[NonNegativeFloat, ...] | None = None
    """Factor of the term in the total loss; default: that of the method."""
    warmup: CountOrZero | tuple[CountOrZero, ...] | None = None
    """Number of epochs over which that factor rises linearly: in epoch e, counted from 1, it is multiplied by
    min(e / warmup, 1). 0 for none; default: that of the method.
    """

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
        context = info.context or {}
        methods: Mapping[str, Method] = context.get("methods", {})
        try:
            known("method", methods, [NONE], self.method)
        except ValueError as error:
            raise ValueError(f"{error}{_plugin_hint(self.method, context.get('folder', Path()))}") from None
        if problems := list(self._problems(methods[self.method])):
            raise ValueError("; ".join(problems))

    def _problems(self, method: Method) -> Iterator[str]:
        yield from _problems(self, method)

    @property
    def settings(self) -> dict[str, Any]:
        """Return weight, warmup and parameters, as far as they are given; a list has the values of a grid."""
        return _given(self)


def _given(entry: PairSettings | TermEntry) -> dict[str, Any]:
    of_term = {"weight": entry.weight, "warmup": entry.warmup}
    return {**{key: value for key, value in of_term.items() if value is not None}, **(entry.model_extra or {})}


def _problems(entry: PairSettings | TermEntry, method: Method) -> Iterator[str]:
    """Yield why the settings of an entry are none of its method, or have wrong values."""
    for name, value in entry.settings.items():
        if value == ():
            yield f"{name!r} of {method.name} is an empty list: a grid needs a value"
        if name in PairSettings.model_fields:
            continue
        if name not in method.parameters:
            known = [*method.parameters, *type(entry).model_fields]
            yield f"{method.name} has no parameter {name!r}. {suggest(name, known)}"
            continue
        for one in listed(value):
            try:
                method.parameters[name].adapter.validate_python(one)
            except ValidationError as error:
                yield f"parameter {name!r} of {method.name}: {reason_of(error.errors())}"


class RowSettings(Strict):
    """Settings of a row, other than those of its method or terms."""

    kd: NonNegativeFloat | None = None
    """Weight of Hinton's KD term, which is added to the method."""
    kd_temperature: PositiveFloat = 4.0
    """Temperature of that KD term."""
    task_weight: NonNegativeFloat | None = None
    """Weight of the cross-entropy; default: that of the method, or 1 for several terms."""
    combine: Combine = "sum"
    """How terms of several teachers are combined: `sum` adds them, `mean` averages them. `one` has the first teacher
    alone, at the weight of all. `probabilities` has one teacher that predicts the mean of their probabilities, for
    methods of the family logits.
    """
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

    by_pair: dict[str, PairSettings] = Field(default_factory=dict)
    """Weight, warmup and parameters for single pairs, by the pair's name `<teacher>-><student>`; other pairs have those
    of the row.
    """
    published: Annotated[str, Len(1)] | None = None
    """Name of the published row whose settings these are, if they are not the method's defaults."""

    @model_validator(mode="after")
    def _fits_its_method(self, info: ValidationInfo) -> Self:
        if self.method != NONE:
            self._check_parameters(info)
        elif self.model_fields_set != {"method"}:
            raise ValueError("'none' is the undistilled student: it takes no parameters and no label")
        return self

    def _problems(self, method: Method) -> Iterator[str]:
        yield from super()._problems(method)
        for pair, of_pair in self.by_pair.items():
            yield from (f"by_pair: {pair}: {problem}" for problem in of_pair.problems(method))
            for key in of_pair.settings:
                if isinstance(self.settings.get(key), tuple):
                    yield f"by_pair: {pair}: {key!r} is a list in the row: give each of its values a row"


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
