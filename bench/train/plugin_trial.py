"""Tries a plug-in's loss once before its run starts: whether it is a scalar and reaches the student."""

import io
import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from bench.spec import DataSpec
from bench.train.learner import UNREACHED, MethodError, check_loss
from bench.types import Affine, Batch, DataInfo, Features, Shapes
from methods._settings import seed_generators
from methods.base import Distiller

SAMPLES = 4
ONLY_OWN = (
    "reaches parameters of its own, but not the student, which would train as without a teacher. What trains adapters "
    "alone belongs in initial_stage(); loss() must depend on the student's features"
)
MISSING = "is None: return a scalar, or the student trains as without a teacher"

logger = logging.getLogger(__name__)


def try_out(name: str, distiller: Distiller, student: Shapes, teacher: Shapes, data: DataInfo, spec: DataSpec) -> None:
    """Compute a method's losses of random features and look at the state that a checkpoint would hold.

    An error that the method raises is only logged: the few images may be the reason, and its run will say so.

    Raises:
        MethodError: no stage has a loss, or none has one with a path to the student; a loss is not a scalar, or has no
            path to the student or to the method's own parameters; or a checkpoint cannot hold the state.
    """
    trained = [parameter for parameter in distiller.parameters() if parameter.requires_grad]
    teaches: list[bool] = []  # for each stage, whether its loss reaches the student
    try:
        for value, features in _losses(distiller, student, teacher, data, spec):
            check_loss(name, value)
            reached = [g is not None for g in torch.autograd.grad(value, [*features, *trained], allow_unused=True)]
            if not any(reached):
                raise MethodError(f"term {name}: its loss {UNREACHED}")
            teaches.append(any(reached[: len(features)]))
        if not any(teaches):
            raise MethodError(f"term {name}: its loss {ONLY_OWN if teaches else MISSING}")
        state = distiller.state_dict()
    except MethodError:
        raise
    except Exception:
        logger.debug("%s raises an error on random features", name, exc_info=True)
        return
    for key, entry in state.items():
        if not (isinstance(entry, Tensor) or _can_be_stored(entry)):
            holds = "tensors, numbers, text, and lists and mappings of them"
            raise MethodError(f"term {name}: its state {key!r} is a {type(entry).__name__}; a checkpoint holds {holds}")


def _losses(
    distiller: Distiller, student: Shapes, teacher: Shapes, data: DataInfo, spec: DataSpec
) -> Iterator[tuple[Tensor, list[Tensor]]]:
    """Yield the loss of each stage that has one, with the student's features that it may depend on."""
    seed_generators(0)
    indices = torch.arange(min(SAMPLES, data.n))
    images = torch.randn(len(indices), spec.channels, *spec.size)
    batch = Batch(images, images, None if data.targets is None else data.targets[indices], indices)

    def draw(shapes: Shapes, trains: bool) -> tuple[Features, list[Tensor]]:
        drawn: list[Tensor] = []

        def one(*size: int) -> Tensor:
            drawn.append(torch.randn(*size, requires_grad=trains))
            return drawn[-1]

        def maps(sizes: Sequence[tuple[int, int, int]]) -> tuple[Tensor, ...]:
            return tuple(one(len(indices), *size) for size in sizes)

        before = shapes.preactivations if distiller.needs_preactivations else ()
        norms = [channels for channels, _, _ in before[1:]] if shapes.has_norms else []
        of_tokens = [channels for channels, _, _ in shapes.stages] if shapes.has_class_tokens else []
        features = Features(
            stages=maps(shapes.stages),
            preactivations=maps(before),
            embedding=one(len(indices), shapes.embedding),
            logits=one(len(indices), shapes.classes),
            final=None if shapes.final is None else one(len(indices), *shapes.final),
            classifier=Affine(one(shapes.classes, shapes.embedding), one(shapes.classes))
            if shapes.has_classifier
            else None,
            norms=tuple(Affine(one(channels), one(channels)) for channels in norms),
            of_tokens=shapes.of_tokens,
            class_tokens=tuple(one(len(indices), channels) for channels in of_tokens),
        )
        return features, drawn

    def view_of(shapes: Shapes, trains: bool) -> tuple[Features, list[Tensor]]:
        features, drawn = draw(shapes, trains)
        if not distiller.needs_second_view:
            return features, drawn
        second, others = draw(shapes, trains)
        return replace(features, second=second), [*drawn, *others]

    own, tensors = view_of(student, trains=True)
    others, _ = view_of(teacher, trains=False)
    stage = distiller.initial_stage()
    if stage is not None:
        yield stage.loss(own if stage.trains_student else None, others, batch), tensors
    main = distiller.loss(own, others, batch)
    if main is not None:
        yield main, tensors


def _can_be_stored(entry: object) -> bool:
    buffer = io.BytesIO()
    try:
        torch.save(entry, buffer)
        torch.load(io.BytesIO(buffer.getvalue()), weights_only=True)
    except Exception:  # pickle and torch raise many kinds
        return False
    return True
