"""What a method is: the `Distiller` base class and the decorator that registers one.

A method file defines one class, decorated with `@register(name, weight=...)`, `name` being the file's own.
Its constructor's keyword parameters, with their annotations and defaults, are what a suite file may set.
"""

from collections.abc import Callable, Sequence
from typing import ClassVar

from torch import Tensor, nn

from bench.types import Batch, DataInfo, Features, InitialStage, Shapes

REGISTERED: dict[str, type["Distiller"]] = {}  # filled by the decorator as method files are imported


class Distiller(nn.Module):
    """A loss that draws a student towards a teacher. Adapters are submodules, so they train with the student.

    Randomness comes from torch's default generator, which the trainer seeds before each step.
    """

    needs_preactivations: ClassVar[bool] = False  # whether `Features.preactivations` must be filled
    needs_targets: ClassVar[bool] = False  # whether `Batch.targets` must be there
    autocast: ClassVar[bool] = False  # whether the term takes maps as a bf16 network gives them, instead of in float32
    observes: ClassVar[tuple[str, ...]] = ()  # names of what `observed` gives, columns of a run's epochs
    weight: ClassVar[float]  # the term's weight unless the suite says otherwise; set by `register`
    task_weight: ClassVar[float]  # cross-entropy's weight beside it; set by `register`
    version: ClassVar[int]  # raised by hand when the method's numbers change; part of a run's identity

    def __init__(self, student: Shapes, teacher: Shapes, data: DataInfo) -> None:
        super().__init__()
        # joins the rows of a (B, ...) tensor over all processes of the run, as `after_step` is given it, for what a
        # loss must know of the whole batch; nothing flows back through it. All processes must call it alike.
        self.gather: Callable[[Tensor], Tensor] = lambda rows: rows

    def loss(self, student: Features, teacher: Features, batch: Batch) -> Tensor | None:
        """Return the main stage's unweighted term, a scalar, or None where the method adds nothing there."""
        raise NotImplementedError

    def after_step(self, gather: Callable[[Tensor], Tensor]) -> None:
        """Update state that is not learnt, after the optimizer's step.

        Args:
            gather: joins a (B, ...) tensor's rows over all processes of the run; the identity for one process.
        """

    def observed(self) -> Sequence[Tensor]:
        """Return scalars of the last `loss` beside it, in the order of `observes`; a run's epochs hold their means."""
        return ()

    def initial_stage(self) -> InitialStage | None:
        """Return what trains before the main stage, or None."""
        return None

    @classmethod
    def inapplicable(cls, student: Shapes, teacher: Shapes) -> str | None:
        """Return why the method cannot serve this pair, shown in the table's cell, or None if it can."""
        return None


def register(
    name: str, *, weight: float, task_weight: float = 1.0, version: int = 1
) -> Callable[[type[Distiller]], type[Distiller]]:
    """Return a decorator that registers a `Distiller` under `name`, which is its file's name.

    Args:
        name: lower-case name used in suite files and tables.
        weight: the term's weight; its source belongs into the file's head.
        task_weight: cross-entropy's weight beside the term.
        version: raise it when a change moves the method's numbers: finished runs are then trained anew.
    """

    def add(cls: type[Distiller]) -> type[Distiller]:
        cls.weight, cls.task_weight, cls.version = weight, task_weight, version
        REGISTERED[name] = cls
        return cls

    return add


def same_stages(student: Shapes, teacher: Shapes) -> str | None:
    """Return why the two networks' stages cannot be paired one to one, or None if they can."""
    if len(student.stages) == len(teacher.stages):
        return None
    counts = f"{student.network} has {len(student.stages)} stages, {teacher.network} {len(teacher.stages)}"
    return f"{counts}; they pair up one to one"
