"""What a run is: the specifications whose hash is its identity. Imports no torch.

A specification holds only what can change a run's result beyond rounding: no path, device, launcher,
thread or worker count. Every default is resolved beforehand, so a changed default gives a new identity.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, Field, NonNegativeInt, PositiveFloat, ValidationInfo, field_validator

from bench.schedule import Count, Scalar, Schedule, Strict

Augment = Literal["none", "crop", "crop_flip", "resized_crop_flip"]
View = Literal["luminance", "chrominance", "depth"]
ID_LENGTH = 16  # hex digits of a run's id
IGNORED = 255  # marks a pixel without a label
NETWORK = "network "  # begins the names of users' networks among the code that a record names
DEV = "dev_"  # begins the names of metrics on dev images, where test images are evaluated too
NO_IDENTITY = {"schedule": {"evaluate_every"}}  # of a run: what its id does not depend on
STUDENT, PEER = "student", "peer"  # the networks that a run trains: one, or two that learn from each other


class NamedNetwork(Strict):
    """A network by name; what is read from it is named for `torchvision.NAME` and `timm.NAME`."""

    network: str
    """A name of `run_suite.py list models`, `torchvision.NAME` or `timm.NAME`."""
    stages: tuple[str, ...] | tuple[int, ...] | None = None
    """The stages, stem first: of `torchvision.NAME`, paths of the modules whose outputs they are; of `timm.NAME`,
    indices of timm's feature maps. By default, the last maps at each resolution.
    """
    classifier: str | None = None
    """Path of the module whose input is the embedding; the last linear layer if not given."""
    preactivations: tuple[str, ...] | None = None
    """Paths of the modules whose outputs are the pre-activations; the stages if not given."""


class NetworkSpec(NamedNetwork):
    """A network, and whose classifier it predicts with."""

    reuses: "NetworkSpec | None" = None  # a teacher's network, whose frozen classifier it has; None: its own
    factor: int | None = None  # of the projector before that classifier; see `bench.models.reusing`

    @property
    def alone(self) -> "NetworkSpec":
        """Return the network with its own classifier."""
        return self if self.reuses is None else self.model_copy(update={"reuses": None, "factor": None})


class HeldOut(Strict):
    """Training images that a run does not train on, the dev images; they are the same for every seed."""

    per_class: int | None = None  # number of each class, or None if a fraction is given
    fraction: float | None = None  # share of each class's training images that are kept, or None
    # The subset that they are taken from, if it is another one than that of the run's own images:
    of_per_class: int | None = None  # its images of each class
    of_fraction: float | None = None  # its share of the images of each class
    opens_test: bool  # evaluated on both dev and test images if True, else on dev images alone

    @property
    def is_of_another_subset(self) -> bool:
        """Return whether they are taken from another subset than that of the run's own images."""
        return self.of_per_class is not None or self.of_fraction is not None


class DataSpec(Strict):
    """A data set as a run sees it, every default resolved."""

    name: str
    classes: int
    channels: int = 3  # that a network sees; grey images are repeated to three
    size: tuple[int, int]  # (height, width) in pixels after `resize`
    mean: tuple[float, ...]  # of each channel, of images in [0, 1], or of the view in its own units
    std: tuple[float, ...]  # likewise
    augment: Augment
    """`crop` pads 4 pixels of zeros and crops; `crop_flip` also flips half of the images; `resized_crop_flip` cuts a
    part of random place, area (8 to 100 %) and ratio (3/4 to 4/3), scales it and flips half of the images; its test
    images are cut from the middle.
    """
    view: View | None = None  # L (`luminance`), a and b of CIE Lab (`chrominance`), or `depth`; None: the image itself
    train_per_class: int | None = None  # training images kept of each class, or None for all
    train_fraction: float | None = None  # share of each class's training images kept, or None for all
    held_out: HeldOut | None = None  # None to train on all images that are kept
    fingerprint: str | None = None  # hash of an image folder's names and contents, None for named data sets
    test_fraction: float | None = None  # share of each class of an image folder without a test split that tests
    path: Path | None = Field(default=None, exclude=True)  # of an image folder; not part of the identity

    @property
    def opens_test(self) -> bool:
        """Return whether the test images are read."""
        return self.held_out is None or self.held_out.opens_test

    def images(self, prefix: str = "") -> str:
        """Return, in words, on which images the metrics are measured whose columns have a prefix."""
        return "dev images" if prefix or not self.opens_test else "test images"

    @property
    def has_dev(self) -> bool:
        """Return whether a run is evaluated on dev images beside the test images."""
        return self.held_out is not None and self.held_out.opens_test

    def has_view_of(self, other: "DataSpec") -> bool:
        """Return whether a network sees an image of both as the same numbers."""
        return (self.view, self.mean, self.std) == (other.view, other.mean, other.std)

    @property
    def key(self) -> str:
        """Return the canonical text of what decides the order and the augmentation of batches."""
        return canonical(self)


class TermSpec(Strict):
    """One method's term of a run's loss."""

    method: str
    version: int  # as the method's file states it
    weight: float  # factor of the term in the total loss
    warmup: Count | None = None  # in epoch e, counted from 1, the weight is times min(e / warmup, 1); None for none
    parameters: dict[str, Scalar]  # all keyword parameters of the constructor, defaults included


class HeadSpec(Strict):
    """What a new head reads from the network that it evaluates, and what is needed to rebuild that network."""

    classes: int  # number of logits of the network itself
    stage: int | None = None  # whose maps a linear probe reads, counted from 0, the stem; the embedding if None
    most_values: int | None = None  # that a linear probe reads from a stage: maps are averaged over a grid to fit


class RunSpec(Strict):
    """The training of one student; an undistilled network and a teacher are runs without terms."""

    task: str = "compression"  # a name of `bench.tasks.TASKS`: what is learned and how it is evaluated
    student: NetworkSpec  # for tasks that evaluate features, the network with the features
    data: DataSpec
    schedule: Schedule | None = None  # None if it only evaluates a checkpoint or several teachers, or a solver fits it
    seed: NonNegativeInt  # of all initial weights: the network's, and those of methods and of new heads
    order_seed: NonNegativeInt | None = None  # of all else: order, augmentation, draws of methods; `seed` if None
    teachers: tuple[str, ...] = ()  # ids of the runs whose networks are the teachers
    terms: tuple[TermSpec, ...] = ()  # of the loss; each is computed with every teacher
    task_weight: float = 1.0  # of the cross-entropy with the labels
    combine: Literal["sum", "mean", "probabilities"] = (
        "sum"  # of the terms of several teachers, or of what they predict
    )
    checkpoint: str | None = None  # sha256 of the file with a given teacher's weights, or the name of published ones
    checkpoint_key: str | None = None  # where that file has its weights; see `bench.models.weights.Reading`
    checkpoint_rename: dict[str, str] | None = None  # new by old parts of their names; None if they keep theirs
    head: HeadSpec | None = None  # the new head, for tasks that evaluate features
    source: str | None = None  # id of the run that trained that network; its initial weights are evaluated if None
    peer: NetworkSpec | None = None  # in mutual learning, trains with the student: each is the teacher of the other
    peer_lr: PositiveFloat | None = None  # learning rate of the peer at the start; that of the schedule if None

    @cached_property
    def id(self) -> str:
        """Return the run's identity: 16 hex digits."""
        return id_of(canonical_document(self))

    def but(self, **changes: object) -> "RunSpec":
        """Return the run with other values; `model_copy` would copy the cached id too."""
        return RunSpec.model_validate({**{name: getattr(self, name) for name in _FIELDS}, **changes})

    @field_validator("order_seed")
    @classmethod
    def _equal_is_none(cls, order_seed: int | None, others: ValidationInfo) -> int | None:
        return None if order_seed == others.data.get("seed") else order_seed  # both describe the same run

    @property
    def ordered_by(self) -> int:
        """Return the seed of batch order, augmentation and what methods draw in each step."""
        return self.seed if self.order_seed is None else self.order_seed

    @property
    def trains(self) -> bool:
        """Return whether the run trains; others only evaluate given weights, or several teachers together."""
        return self.schedule is not None

    @property
    def training(self) -> Schedule:
        """Return the schedule of a run that trains."""
        assert self.schedule is not None  # callers have asked `trains`
        return self.schedule

    @property
    def peer_network(self) -> NetworkSpec:
        """Return the network that trains with the student in mutual learning."""
        assert self.peer is not None  # callers have asked `Task.trains_teachers`
        return self.peer

    @property
    def trained_by(self) -> str:
        """Return the id of the run that trains this run's network: another one, or itself."""
        return self.source or self.id

    @property
    def network_names(self) -> list[str]:
        """Return the names of the networks of which the run has weights; those of an ensemble are its teachers'."""
        if self.is_ensemble:
            return []
        return [self.student.network] if self.peer is None else [self.student.network, self.peer.network]

    @property
    def is_ensemble(self) -> bool:
        """Return whether the run evaluates several teachers together; its student names them all."""
        return self.schedule is None and self.checkpoint is None and self.head is None

    @property
    def has_published_weights(self) -> bool:
        """Return whether the run takes weights that torchvision or timm publishes under a name, not a file's."""
        return self.checkpoint is not None and not re.fullmatch("[0-9a-f]{64}", self.checkpoint)

    @property
    def needs(self) -> tuple[str, ...]:
        """Return the ids of the runs that must be done before this one starts."""
        return self.teachers if self.source is None else (*self.teachers, self.source)


_FIELDS = tuple(RunSpec.model_fields)  # asking pydantic takes longer than copying them


class Crossed(NamedTuple):
    """The seeds of a run in a suite that crosses them; `teacher` is None where the suite does not cross teachers."""

    init: int
    order: int
    teacher: int | None

    def __str__(self) -> str:
        """Return the seeds as text, to follow the word seed."""
        return f"{self.init}, order {self.order}" + ("" if self.teacher is None else f", teacher {self.teacher}")


Seed = int | Crossed  # a run's place in its cell: the seed or, in a suite that crosses seeds, all of them


def common_seed(runs: Sequence[RunSpec]) -> str:
    """Return, as text, the seed that the runs of a cohort have in common."""
    first = runs[0]
    plain = all(run.order_seed is None for run in runs)
    return f"seed {first.seed}" if plain else f"order seed {first.ordered_by}"


def column(network: str, name: str) -> str:
    """Return the name under which a run records a number of one of its networks."""
    return name if network == STUDENT else f"{network}_{name}"


def canonical(model: BaseModel) -> str:
    """Return the canonical JSON of a specification: keys sorted, no white space."""
    return _compact(canonical_document(model))


def canonical_document(model: BaseModel) -> dict[str, Any]:
    """Return a specification as `spec.json` holds it: without None, and without what does not change a run's result."""
    return model.model_dump(mode="json", exclude_none=True, exclude=NO_IDENTITY)


def id_of(document: Mapping[str, Any]) -> str:
    """Return the id of the run with that `spec.json`."""
    return hashlib.sha256(_compact(document).encode()).hexdigest()[:ID_LENGTH]


def _compact(document: Mapping[str, Any]) -> str:
    return json.dumps(document, sort_keys=True, separators=(",", ":"))


def seed_from(*parts: object) -> int:
    """Return a 63-bit seed that depends on every part and on their order."""
    text = "\x1f".join(str(part) for part in parts)  # a separator no part holds, so ("a", "bc") is not ("ab", "c")
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) >> 1
