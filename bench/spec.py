"""What a run is: the keys of `training` with their bounds, and the specifications whose hash is its identity.

Imports no torch. A specification holds only what can change a run's result beyond rounding: no path, device,
launcher, thread or worker count. Every default is resolved beforehand, so a changed default gives a new identity.
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self

from annotated_types import Ge, Le, Lt
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationInfo,
    field_validator,
    model_validator,
)

Augment = Literal["none", "crop", "crop_flip", "resized_crop_flip"]
View = Literal["luminance", "chrominance", "depth"]
Count = Annotated[PositiveInt, Le(1_000_000)]  # a larger number is a slip of the keyboard
CountOrZero = Annotated[NonNegativeInt, Le(1_000_000)]
Parallel = Annotated[PositiveInt, Le(1_024)]  # threads, or processes, of one machine
Share = Annotated[float, Ge(0), Lt(1)]
Scalar = bool | int | float | str | None
NO_INITIAL_STAGE = {"initial_epochs": 0, "initial_steps": None}  # values of a schedule
UNUSED: dict[str, Scalar] = {  # the values of a recipe's keys that describe the same run as leaving them out
    "optimizer": "sgd",
    "nesterov": False,
    "schedule": "steps",
    "min_lr": 0.0,
    "warmup_epochs": 0,
    "warmup_lr": 0.0,
    "no_decay_on_norms": False,
    "label_smoothing": 0.0,
    "loss": "cross_entropy",
    "gradient_clip": 0.0,
    "ema": 0.0,
    "mixup": 0.0,
    "cutmix": 0.0,
    "randaugment": 0.0,
    "randaugment_std": 0.0,
    "random_erasing": 0.0,
}
OF_LABELS = ("label_smoothing", "loss", "mixup", "cutmix")  # keys for one label per image
OF_IMAGES = ("mixup", "cutmix", "randaugment", "random_erasing")  # keys for red, green and blue images alone
OF_LANE = (  # keys in which runs that see the same batches may differ
    *("optimizer", "nesterov", "no_decay_on_norms", "gradient_clip", "ema"),
    *("schedule", "min_lr", "warmup_epochs", "warmup_lr", "label_smoothing", "loss"),
)
ID_LENGTH = 16  # hex digits of a run's id
MIN_SAMPLES = 2  # in a batch: CC and RKD compare samples, and batch norm needs two
IGNORED = 255  # marks a pixel without a label
NETWORK = "network "  # begins the names of users' networks among the code that a record names
DEV = "dev_"  # begins the names of metrics on dev images, where test images are evaluated too
NO_IDENTITY = {"schedule": {"evaluate_every"}}  # of a run: what its id does not depend on
STUDENT, PEER = "student", "peer"  # the networks that a run trains: one, or two that learn from each other


class Strict(BaseModel):
    """A frozen model that rejects misspelt keys and numbers written as text."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Recipe(Strict):
    """How a network's weights are updated, and how its images are varied; the defaults are the paper's for CIFAR-100.

    A key that is None is not used, and no part of a run's identity.
    """

    lr: PositiveFloat = 0.05
    """Learning rate at the start, after warm-up."""
    lr_decay: PositiveFloat = 0.1
    """Factor of the learning rate at each milestone."""
    milestones: tuple[Count, ...] = (150, 180, 210)
    """Epochs after which the learning rate is lowered: it is lower from epoch milestone + 1. Not for `cosine`."""
    momentum: Annotated[float, Ge(0), Lt(1)] = 0.9
    """Momentum of SGD."""
    weight_decay: NonNegativeFloat = 5e-4
    """Weight decay of every trained parameter, norms and biases included unless `no_decay_on_norms`."""
    optimizer: Literal["sgd", "adamw", "lamb"] | None = None
    """`sgd` (the default), PyTorch's `adamw`, or timm's `lamb`, which needs the extra `timm`. The last two have their
    library's defaults: betas 0.9 and 0.999; `lamb` also limits the norm of all gradients to 1.
    """
    nesterov: bool | None = None
    """Whether SGD has Nesterov's momentum; by default not."""
    schedule: Literal["steps", "cosine"] | None = None
    """Course of the learning rate, constant within an epoch: `steps` (the default) lowers it at `milestones`; `cosine`
    lets it fall along half a cosine from `lr` in epoch 1 towards `min_lr` after the last one.
    """
    min_lr: NonNegativeFloat | None = None
    """Learning rate at the end of `cosine`; by default 0."""
    warmup_epochs: CountOrZero | None = None
    """Number of first epochs in which the rate rises in equal steps from `warmup_lr`; by default 0. They are part of
    `epochs`, and the schedule runs on meanwhile.
    """
    warmup_lr: NonNegativeFloat | None = None
    """Learning rate of the first epoch of warm-up; by default 0."""
    no_decay_on_norms: bool | None = None
    """Whether norms and biases (all parameters of one dimension), and what a timm network names in `no_weight_decay`,
    have no weight decay; by default they have.
    """
    label_smoothing: Share | None = None
    """Share of each label that is spread equally over all classes; by default 0."""
    loss: Literal["cross_entropy", "binary_cross_entropy"] | None = None
    """Loss with labels: `cross_entropy` (the default), or `binary_cross_entropy` of each class, a mean over classes."""
    gradient_clip: NonNegativeFloat | None = None
    """Largest L2 norm of the gradients of all trained parameters together; larger ones are scaled down. By default they
    are not.
    """
    ema: Share | None = None
    """Decay per step of an exponential moving average of the network's weights and statistics. If given, the average is
    what is evaluated and stored. By default, there is none.
    """
    mixup: NonNegativeFloat | None = None
    """Parameter of the Beta distribution of mixup's shares; by default, images are not mixed. With `cutmix` too, each
    batch has one of both, with equal chance.
    """
    cutmix: NonNegativeFloat | None = None
    """Parameter of the Beta distribution of the area that cutmix leaves; by default, images are not mixed."""
    randaugment: Annotated[float, Ge(0), Le(10)] | None = None
    """Mean strength of RandAugment, 0 to 10: two of torchvision's 14 operations for each image. By default none."""
    randaugment_std: NonNegativeFloat | None = None
    """Standard deviation of that strength, drawn for each operation and limited to 0 to 10; by default 0."""
    random_erasing: Annotated[float, Ge(0), Le(1)] | None = None
    """Chance with which a rectangle of an image, 1/50 to 1/3 of its area, becomes noise; by default 0."""

    @field_validator(*UNUSED)
    @classmethod
    def _unused_is_none(cls, value: Scalar, field: ValidationInfo) -> Scalar:
        return None if value == UNUSED[str(field.field_name)] else value  # both describe the same run

    @property
    def mixes(self) -> bool:
        """Return whether images of a batch are mixed, and their labels with them."""
        return self.mixup is not None or self.cutmix is not None

    def check_whole(self) -> None:
        """Raise a ValueError if keys do not fit together."""
        problems = [
            f"{key} is for {needed}: leave it out, or set {key}: {json.dumps(UNUSED[key])}"
            for key, needed, fits in (
                ("nesterov", "optimizer: sgd with momentum", self.optimizer is None and self.momentum > 0),
                ("min_lr", "schedule: cosine", self.schedule == "cosine"),
                ("warmup_lr", "warmup_epochs", self.warmup_epochs is not None),
                ("randaugment_std", "randaugment", self.randaugment is not None),
            )
            if getattr(self, key) is not None and not fits
        ]
        if problems:
            raise ValueError("; ".join(problems))

    def changed(self, other: "Recipe") -> Self:
        """Return this recipe with the keys that another one states."""
        return self.model_copy(update=other.model_dump(exclude_unset=True))


class Schedule(Recipe):
    """How a network trains; the defaults are the paper's for CIFAR-100."""

    epochs: Count = 240
    """Number of epochs of the main stage."""
    batch_size: Annotated[int, Ge(MIN_SAMPLES), Le(1_000_000)] = 64
    """Images per step, of all processes together; at least 2, since CC and RKD compare samples of a batch."""
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    """Arithmetic of the networks' forward and backward passes: `fp32`; `tf32`, products with 10 bits of fraction on
    GPUs that have them (elsewhere as fp32); `bf16`, maps and products in bfloat16, but weights, their updates and the
    sums of losses in fp32.
    """
    initial_epochs: CountOrZero = 30
    """Number of epochs of the stage that ab, fsp and ft train first; 0 leaves it out."""
    initial_steps: Count | None = None
    """Number of optimizer steps of that stage, instead of `initial_epochs`."""
    evaluate_every: Count = 1
    """Number of epochs between two evaluations; the last epoch is always evaluated. The best epoch, which is printed
    next to the last, is the best of the evaluated ones. No part of a run's identity: a finished run is used as it is.
    """
    processes: Parallel | None = None
    """Number of processes on one machine that train a run together, each with its share of every batch and, on a
    machine with GPUs, its own GPU. None is one. Part of a run's identity: batch norm and losses see one share at a
    time.
    """

    @field_validator("processes")
    @classmethod
    def _one_is_none(cls, processes: int | None) -> int | None:
        return None if processes == 1 else processes  # both describe the same run

    @model_validator(mode="after")
    def _checked(self) -> "Schedule":
        if self.initial_steps is not None and "initial_epochs" not in self.model_fields_set:
            vars(self)["initial_epochs"] = 0  # not the default: the steps replace it
        if self.initial_epochs and self.initial_steps is not None:
            raise ValueError(
                f"found initial_epochs: {self.initial_epochs} and initial_steps: {self.initial_steps}: both are the "
                "length of the initial stage. Leave one out"
            )
        self.check_whole()
        return self

    @property
    def has_initial_stage(self) -> bool:
        """Return whether the stage that some methods train first has any step."""
        return self.initial_epochs > 0 or self.initial_steps is not None

    def initial_epochs_of(self, epoch_steps: int) -> int:
        """Return the number of epochs of the initial stage, the last one perhaps not whole, for epochs of such length.

        Args:
            epoch_steps: the number of optimizer steps of a whole epoch.
        """
        return self.initial_epochs if self.initial_steps is None else math.ceil(self.initial_steps / epoch_steps)

    def check_whole(self) -> None:
        """Raise a ValueError if keys do not fit together, or a batch has fewer than two samples for each process."""
        super().check_whole()
        if self.processes is not None and self.batch_size < MIN_SAMPLES * self.processes:
            raise ValueError(
                f"batch_size: {self.batch_size} is too small for processes: {self.processes}: each process takes a "
                f"share of the batch, and needs at least {MIN_SAMPLES} images"
            )


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
    """Training images that a run does not train on, the dev images; always the same ones, whatever the run's seed."""

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
    """What a new head reads from a network whose features are evaluated, and what is needed to rebuild that network."""

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
