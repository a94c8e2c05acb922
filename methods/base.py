"""The `Distiller` base class of every method, and the decorator that registers one.

A method file defines one class, decorated with `@register(name, weight=...)`, where `name` is the name of the file.
The constructor's keyword parameters, with their annotations and defaults, are what a suite file may set.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

from torch import Tensor, nn

from bench.types import Batch, DataInfo, Features, InitialStage, Shapes

Space = Mapping[str, Mapping[str, bool | Sequence[bool | int | float | str]]]  # ranges, by parameter name
REGISTERED: dict[str, type["Distiller"]] = {}  # filled by the decorator when method files are imported


class Distiller(nn.Module):
    """A loss that pulls a student towards a teacher. Adapters are submodules, so they train with the student.

    Randomness comes from torch's default generator, which the trainer seeds before each step.
    """

    needs_preactivations: ClassVar[bool] = False  # whether `Features.preactivations` must be filled
    needs_targets: ClassVar[bool] = False  # whether the method needs `Batch.targets`
    takes_mixed_images: ClassVar[bool] = True  # whether the method works on batches with `Batch.soft_targets`, too
    needs_second_view: bool = False  # whether `Features.second` must be filled; its labels count in cross-entropy, too
    needs_epoch: ClassVar[bool] = False  # whether the loss depends on `epoch`
    autocast: ClassVar[bool] = False  # whether the term takes bfloat16 maps from a bf16 network, not float32
    observes: ClassVar[tuple[str, ...]] = ()  # names of the scalars that `loss` records, columns of a run's epochs
    weight: ClassVar[float]  # the term's default weight; set by `register`
    task_weight: ClassVar[float]  # cross-entropy's default weight; set by `register`
    warmup: ClassVar[int]  # the default number of epochs over which the weight rises; set by `register`
    version: ClassVar[int]  # raised by hand when the method's numbers change; part of a run's identity
    reuses_classifier: ClassVar[bool]  # whether the student predicts with the teacher's classifier; set by `register`
    added: ClassVar[tuple[str, ...]]  # parameters that runs leave out at their default; set by `register`
    variant: ClassVar[str]  # how the formula differs from the paper's; set by `register`
    search_space: ClassVar[Space]  # where to search for better values; set by `register`

    epoch: int = 1  # of the main stage, counted from 1; set by the trainer

    def __init__(self, student: Shapes, teacher: Shapes, data: DataInfo) -> None:
        super().__init__()
        # Joins the rows of a (B, ...) tensor over all processes of the run, without a gradient; set by the trainer. All
        # processes must call it equally often.
        self.gather: Callable[[Tensor], Tensor] = lambda rows: rows
        self._recorded: tuple[Tensor, ...] = ()

    def loss(self, student: Features, teacher: Features, batch: Batch) -> Tensor | None:
        """Return the unweighted term of the main stage, a scalar, or None if the method adds nothing there.

        A method with an initial stage may leave it out; its term is None then.
        """
        if type(self).initial_stage is Distiller.initial_stage:
            raise NotImplementedError(f"{type(self).__name__} has no method loss")
        return None

    def after_step(self) -> None:
        """Update state that is not learned, after the optimizer's step; `gather` joins that of all processes.

        An override takes `self` alone. One that takes a second argument, as plug-ins did before, is given `gather`.
        """

    def record(self, *scalars: Tensor) -> None:
        """Keep other scalars of this `loss`, in the order of `observes`; a run's epochs have their means."""
        if len(scalars) != len(self.observes):
            raise ValueError(f"record is given {len(scalars)} scalar(s), but observes names {len(self.observes)}")
        self._recorded = tuple(scalar.detach() for scalar in scalars)

    def observed(self) -> Sequence[Tensor]:
        """Return the other scalars of the last `loss`, in the order of `observes`."""
        return self._recorded

    def initial_stage(self) -> InitialStage | None:
        """Return what trains before the main stage, or None."""
        return None

    @classmethod
    def inapplicable(cls, student: Shapes, teacher: Shapes) -> str | None:
        """Return why the method cannot be used on this pair, shown in the table's cell, or None if it can.

        A method whose answer depends on its parameters takes them by name as well: see FitNet's `layer`.
        """
        return None


def register(
    name: str,
    *,
    weight: float,
    task_weight: float = 1.0,
    warmup: int = 0,
    version: int = 1,
    initial_stage: bool = False,
    reuses_classifier: bool = False,
    added: tuple[str, ...] = (),
    variant: str = "",
    space: Space | None = None,
) -> Callable[[type[Distiller]], type[Distiller]]:
    """Return a decorator that registers a `Distiller` under `name`, which is its file's name.

    Args:
        name: lower-case name used in suite files and tables.
        weight: the term's weight; state its source in the module's docstring.
        task_weight: the weight of cross-entropy.
        warmup: in epoch e of the main stage, from 1, the weight is multiplied by min(e / warmup, 1); 0 for none.
        version: increase it when a change moves the method's numbers, so that finished runs are trained again.
        initial_stage: whether something trains before the main stage, which is true for a class that defines or
            inherits an `initial_stage` other than `Distiller`'s.
        reuses_classifier: whether the student predicts with a frozen copy of the teacher's classifier, behind a trained
            projector whose width the parameter `factor` sets; see `bench.models.reusing`. Embedding, logits and final
            map of the student's features are then those behind the projector, also at test time.
        added: parameters that the method did not have at first. A run leaves them out at their default, so that the
            runs from before keep their ids. Such a default must never change.
        variant: how the formula differs from the paper's, if it is that of a reference implementation; tables then have
            `reference` in their column `variant`. A parameter `variant: Literal["reference", "paper"]` may choose the
            paper's.
        space: where to search for better values of the method's own parameters and of `weight`, each
            `{"log": [low, high]}`, `{"linear": [low, high]}` or `{"choices": [...]}`. With `"times_default": True`,
            bounds are multiples of the row's own value. Without a range, the weight is searched from 0.01 to 100 times
            its own value, and a parameter is not searched.

    Raises:
        TypeError: the class has an initial stage that it does not state, or states one that it does not have.
    """

    def add(cls: type[Distiller]) -> type[Distiller]:
        # runs are planned before the class is imported, so what is stated must be true
        if (cls.initial_stage is not Distiller.initial_stage) != initial_stage:
            fact = "has no method initial_stage" if initial_stage else "has a method initial_stage"
            raise TypeError(
                f"{cls.__name__} {fact}: @register({name!r}, ...) must state initial_stage={not initial_stage}"
            )
        if "after_step" in vars(cls):
            cls.after_step = _with_or_without_gather(cls.after_step)  # type: ignore[method-assign]
        cls.weight, cls.task_weight, cls.warmup, cls.version = weight, task_weight, warmup, version
        cls.reuses_classifier, cls.added, cls.variant = reuses_classifier, added, variant
        cls.search_space = space or {}
        REGISTERED[name] = cls
        return cls

    return add


def _with_or_without_gather(given: Callable[..., None]) -> Callable[..., None]:
    """Return an `after_step` that may be called with `gather`, as `super().after_step(gather)` of older plug-ins does.

    `given` gets it if it takes it.
    """
    takes_gather = len(inspect.signature(given).parameters) > 1

    def after_step(self: Distiller, *_: object) -> None:
        given(self, *([self.gather] if takes_gather else []))

    return after_step


Distiller.after_step = _with_or_without_gather(Distiller.after_step)  # type: ignore[method-assign]


def same_stages(student: Shapes, teacher: Shapes) -> str | None:
    """Return why the two networks' stages cannot be paired one to one, or None if they can."""
    if len(student.stages) == len(teacher.stages):
        return None
    counts = f"{student.network} has {len(student.stages)} stages, {teacher.network} {len(teacher.stages)}"
    return f"{counts}; they pair up one to one"


def no_classifier(network: Shapes) -> str | None:
    """Return that a network's logits do not come from its embedding by one linear layer, or None if they do."""
    return None if network.has_classifier else f"{network.network} has no linear classifier on its embedding"


def no_final_map(network: Shapes) -> str | None:
    """Return that a network does not give the map whose mean is its embedding, or None if it does."""
    return None if network.final else f"{network.network} does not give the map whose mean is its embedding"


def same_classes(student: Shapes, teacher: Shapes) -> str | None:
    """Return why the two networks' logits cannot be paired one to one, or None if they can."""
    if student.classes == teacher.classes:
        return None
    counts = f"{student.network} has {student.classes} classes, {teacher.network} {teacher.classes}"
    return f"{counts}; the method needs the same"
