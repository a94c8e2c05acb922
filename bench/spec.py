"""What a run is: the frozen specifications whose hash is a run's identity. Imports no torch.

A specification holds what can change a run's result beyond rounding and nothing else: no path, device, launcher,
thread or worker count. Every default is resolved before it gets here, so a changed default gives a new identity.
"""

import hashlib
import json
import re
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Lt
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

Augment = Literal["none", "crop", "crop_flip", "resized_crop_flip"]
View = Literal["luminance", "chrominance", "depth"]
Scalar = bool | int | float | str | None
ID_LENGTH = 16  # hex digits of a run's id
FEWEST_SAMPLES = 2  # of a batch: CC and RKD compare samples, and batch norm needs two
IGNORED = 255  # the label of a pixel that has none
STUDENT, PEER = "student", "peer"  # the networks that a run trains: one, or two that learn from each other


class Strict(BaseModel):
    """A frozen record in which a misspelt key or a number written as text is an error, never a silent default."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Schedule(Strict):
    """How a network trains; the defaults are the paper's for CIFAR-100.

    Attributes:
        epochs: epochs of the main stage.
        batch_size: images a step, of all processes together; from 2, since CC and RKD compare samples of a batch.
        lr: SGD's learning rate at the start.
        lr_decay: factor at each milestone.
        milestones: the lower rate starts in epoch milestone + 1.
        momentum: SGD's momentum (no Nesterov).
        weight_decay: on every trained parameter, norms and biases included.
        precision: arithmetic of the networks' forward and backward passes: `fp32`; `tf32`, products with 10 bits of
            fraction on GPUs that have them (elsewhere as fp32); `bf16`, maps and products in bfloat16, the weights,
            their steps and the losses' sums in fp32.
        initial_epochs: epochs of the stage that ab, fsp and ft train first; 0 leaves it out.
        evaluate_every: epochs between two evaluations; the last epoch always has one. Part of a run's identity, since
            the best epoch, printed beside the last, is sought among the evaluated ones.
        processes: of one machine, that train a run together, each with its share of every batch: on GPUs, one each.
            None is one. Part of a run's identity: batch norm and losses see a share at a time.
    """

    epochs: PositiveInt = 240
    batch_size: Annotated[int, Ge(FEWEST_SAMPLES)] = 64
    lr: PositiveFloat = 0.05
    lr_decay: PositiveFloat = 0.1
    milestones: tuple[PositiveInt, ...] = (150, 180, 210)
    momentum: Annotated[float, Ge(0), Lt(1)] = 0.9
    weight_decay: NonNegativeFloat = 5e-4
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    initial_epochs: NonNegativeInt = 30
    evaluate_every: PositiveInt = 1
    processes: PositiveInt | None = None

    @field_validator("processes")
    @classmethod
    def _one_is_none(cls, processes: int | None) -> int | None:
        return None if processes == 1 else processes  # so that either way of saying it is the same run

    @model_validator(mode="after")
    def _checked(self) -> "Schedule":
        self.check_shares()
        return self

    def check_shares(self) -> None:
        """Check that a batch has two samples for each process.

        Raises:
            ValueError: it has not.
        """
        if self.processes is not None and self.batch_size < FEWEST_SAMPLES * self.processes:
            raise ValueError(
                f"batch_size: {self.batch_size} is too small for processes: {self.processes}: batch_size is the whole "
                f"batch, of which each process takes a share, of at least {FEWEST_SAMPLES} images"
            )


class NetworkSpec(Strict):
    """A network by name; the module paths are for networks that are read through hooks (`torchvision.NAME`).

    Attributes:
        network: a name of `run_suite.py list models`, or `torchvision.NAME`.
        stages: paths of the modules whose outputs are the stages, stem first.
        classifier: path of the module whose input is the embedding; the last linear layer if not given.
        preactivations: paths of the modules whose outputs are the pre-activations; the stages if not given.
    """

    network: str
    stages: tuple[str, ...] | None = None
    classifier: str | None = None
    preactivations: tuple[str, ...] | None = None


class DataSpec(Strict):
    """A data set as a run sees it, every default resolved.

    Attributes:
        name: a name of `run_suite.py list datasets`.
        classes: number of classes.
        channels: channels of what a network sees, grey images being repeated to three.
        size: (height, width) in pixels after `resize`.
        mean: per channel, of images in [0, 1], or of the view in its own units.
        std: likewise.
        augment: `crop` pads 4 pixels of zeros and crops, `crop_flip` flips half of the images besides;
            `resized_crop_flip` cuts a part of random place, area (8 to 100 %) and ratio (3/4 to 4/3), scales it and
            flips half of the images; its test images are cut from the middle.
        view: what a network sees of an image: its `luminance` (L) or `chrominance` (a and b of CIE Lab), its `depth`,
            or None for the image as it is.
        train_per_class: training images kept of each class, or None for all.
        train_fraction: share of each class's training images kept, or None for all.
        fingerprint: hash of an image folder's listing (names and sizes), None for named data sets.
        path: where an image folder lies; no part of the identity.
    """

    name: str
    classes: int
    channels: int = 3
    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augment: Augment
    view: View | None = None
    train_per_class: int | None = None
    train_fraction: float | None = None
    fingerprint: str | None = None
    path: Path | None = Field(default=None, exclude=True)

    @property
    def key(self) -> str:
        """Return the canonical text of what decides the order and the augmentation of batches."""
        return canonical(self)


class TermSpec(Strict):
    """One method's term of a run's loss.

    Attributes:
        method: the registered name.
        version: the method's hand-kept version.
        weight: factor of the term in the total loss.
        parameters: the constructor's keyword parameters, defaults included.
    """

    method: str
    version: int
    weight: float
    parameters: dict[str, Scalar]


class HeadSpec(Strict):
    """What is read of a network whose features are judged, and what rebuilds that network.

    Attributes:
        classes: number of logits that the network itself has.
        stage: which stage's maps a linear probe reads, stem first from 0; the embedding if None.
        most_values: a probe's maps are averaged over a grid of as many cells as give at most so many values.
    """

    classes: int
    stage: int | None = None
    most_values: int | None = None


class RunSpec(Strict):
    """One student's training; an undistilled network and a teacher are runs without terms.

    Attributes:
        task: a name of `bench.tasks.TASKS`: what is learned, and what it is evaluated by.
        student: the network that trains.
        data: what it trains on and is evaluated on.
        schedule: how; None for what is only evaluated: a checkpoint, or several teachers together.
        seed: of initialisation, batch order, augmentation and the methods' draws.
        teachers: ids of the runs that give the teachers.
        terms: the methods' terms, each with every teacher.
        task_weight: weight of the cross-entropy with the labels.
        combine: whether the terms of several teachers are summed or averaged.
        checkpoint: sha256 of the file that holds the weights, for a teacher that is not trained here; or the name under
            which torchvision publishes them.
        head: for tasks that judge features; the student is the network that has them, or begins with them.
        source: id of the run that trained that network; its initial weights are judged if None.
        peer: of mutual learning: the network that trains beside the student; each has the other for its teacher.
        peer_lr: its learning rate at the start; the schedule's if None.
    """

    task: str = "compression"
    student: NetworkSpec
    data: DataSpec
    schedule: Schedule | None = None
    seed: NonNegativeInt
    teachers: tuple[str, ...] = ()
    terms: tuple[TermSpec, ...] = ()
    task_weight: float = 1.0
    combine: Literal["sum", "mean"] = "sum"
    checkpoint: str | None = None
    head: HeadSpec | None = None
    source: str | None = None
    peer: NetworkSpec | None = None
    peer_lr: PositiveFloat | None = None

    @cached_property
    def id(self) -> str:
        """Return the run's identity: 16 hex digits."""
        return hashlib.sha256(canonical(self).encode()).hexdigest()[:ID_LENGTH]

    def but(self, **changes: object) -> "RunSpec":
        """Return the run with other values; unlike `model_copy`, which would copy the id with the rest."""
        return RunSpec.model_validate({**{name: getattr(self, name) for name in RunSpec.model_fields}, **changes})

    @property
    def trains(self) -> bool:
        """Return whether the run trains, rather than only evaluate given weights or several teachers together."""
        return self.schedule is not None

    @property
    def training(self) -> Schedule:
        """Return the schedule of a run that trains."""
        assert self.schedule is not None  # callers have asked `trains`
        return self.schedule

    @property
    def trained_by(self) -> str:
        """Return the id of the run that trains the network which this run is about: another one, or itself."""
        return self.source or self.id

    @property
    def is_ensemble(self) -> bool:
        """Return whether the run is the evaluation of several teachers together; its student names them all."""
        return self.schedule is None and self.checkpoint is None

    @property
    def has_published_weights(self) -> bool:
        """Return whether the run takes weights that torchvision publishes under a name, and none from a file."""
        return self.checkpoint is not None and not re.fullmatch("[0-9a-f]{64}", self.checkpoint)

    @property
    def needs(self) -> tuple[str, ...]:
        """Return the ids of the runs that must be done before this one starts."""
        return self.teachers if self.source is None else (*self.teachers, self.source)


def column(network: str, name: str) -> str:
    """Return the name under which a run records a number of one of its networks."""
    return name if network == STUDENT else f"{network}_{name}"


def canonical(model: BaseModel) -> str:
    """Return the one text of a specification: keys sorted, absent values left out, no white space."""
    document = model.model_dump(mode="json", exclude_none=True)
    return json.dumps(document, sort_keys=True, separators=(",", ":"))


def seed_from(*parts: object) -> int:
    """Return a 63-bit seed that depends on every part and on their order."""
    text = "\x1f".join(str(part) for part in parts)  # a separator no part holds, so ("a", "bc") is not ("ab", "c")
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) >> 1
