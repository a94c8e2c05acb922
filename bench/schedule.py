"""How networks train: the keys of `training`, with their bounds and defaults. Imports no torch."""

import json
import math
from collections.abc import Iterator, Sequence
from typing import Annotated, Literal, Self

from annotated_types import Ge, Le, Lt
from pydantic import (
    BaseModel,
    ConfigDict,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationInfo,
    field_validator,
    model_validator,
)

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
USED_WITH = {"momentum": "optimizer", "milestones": "schedule", "lr_decay": "schedule"}  # its default
OF_LABELS = ("label_smoothing", "loss", "mixup", "cutmix")  # keys for one label per image
OF_IMAGES = ("mixup", "cutmix", "randaugment", "random_erasing")  # keys for red, green and blue images alone
OF_LANE = (  # keys in which runs that see the same batches may differ
    *("optimizer", "nesterov", "no_decay_on_norms", "gradient_clip", "ema"),
    *("schedule", "min_lr", "warmup_epochs", "warmup_lr", "label_smoothing", "loss"),
)
MIN_SAMPLES = 2  # in a batch: CC and RKD compare samples, and batch norm needs two


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

    def unused_keys(self, trained: Sequence["Recipe"]) -> Iterator[str]:
        """Yield which keys are stated here for another optimizer or schedule than any recipe with their value has.

        0, no milestones and the defaults are allowed.

        Args:
            trained: the complete recipes with which networks train.
        """
        for key, other in USED_WITH.items():
            value, default = getattr(self, key), type(self).model_fields[key].default
            is_used = any(getattr(one, key) == value and getattr(one, other) is None for one in trained)
            if key in self.model_fields_set and value and value != default and not is_used:
                yield (
                    f"{key}: found {json.dumps(value)}, which is for {other}: {UNUSED[other]} and is not used here: "
                    f"leave it out, or set {key}: {json.dumps(default)}"
                )

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
