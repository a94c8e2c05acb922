"""The entries of a suite file's `pairs`, which are the columns of its tables. Imports no torch."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Self, TypeVar

from annotated_types import Ge, Le, Len
from pydantic import AfterValidator, Discriminator, Tag, model_validator

from bench.data import PathText
from bench.models import NETWORKS, OTHERS, library, own, timm_names, torchvision_stages
from bench.models import known as networks
from bench.models.timm_names import TIMM, tag_of
from bench.models.torchvision_stages import TORCHVISION
from bench.schedule import Strict
from bench.spec import NamedNetwork, NetworkSpec
from bench.types import RequestError, suggest

FOUND_STAGES: Mapping[str, Callable[[str], tuple[str, ...] | tuple[int, ...]]] = {  # by how a network's name begins
    TORCHVISION: torchvision_stages.stages_of,
    TIMM: timm_names.stages_of,
}
T = TypeVar("T")


def repeated(values: Iterable[T]) -> list[T]:
    """Return the values that occur more than once, in order."""
    return [value for value, count in Counter(values).items() if count > 1]


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
            if twice := repeated(self.stages or ()):
                raise ValueError(f"'stages' of {self.network}: {', '.join(map(repr, twice))} twice: name each once")
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

    checkpoint: PathText | None = None
    """Path of the weights, absolute or relative to the suite file."""
    key: Annotated[str, Len(1)] | None = None
    """Where the checkpoint has the weights, if not under `model`, `state_dict` or the like: keys joined by dots, such
    as `ema` or `state_dict.student`.
    """
    rename: Annotated[dict[str, str], Len(1)] | None = None
    """New by old parts of the names of its weights: `{linear: fc}` reads `linear.weight` as `fc.weight`."""
    classes: PathText | None = None
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
