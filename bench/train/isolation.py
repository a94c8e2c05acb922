"""Protects lanes from plug-ins: what a plug-in has written into is restored before another lane reads it."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy

import torch
from torch import Tensor, nn

from bench.train.lane import Lane, SharedDataError
from bench.train.learner import Teacher
from bench.types import Batch, Features
from methods._settings import kept_settings

BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by the bytes of an element
JOINED = 2**16  # entries: large enough for few comparisons, small enough for an allocator to use the memory again
WRITES = "writes into its batch or teacher, or into another run's networks: plug-ins must leave them as they are"


@contextmanager
def lent(
    lane: Lane, lanes: Sequence[Lane], teachers: Mapping[str, Teacher], batch: Batch, features: Mapping[str, Features]
) -> Iterator[tuple[Batch, Mapping[str, Features]]]:
    """Yield the batch and the teachers' features for a lane's step; a plug-in's lane receives copies.

    Raises:
        RuntimeError: a plug-in's lane has written into its copies, a teacher or another lane, which is set back.
        SharedDataError: another lane has written into the batch or the features.
    """
    given = [*_of_batch(batch), *tensors_of(features)]
    if not lane.has_plugin:
        versions = [tensor._version for tensor in given]  # the host knows them without synchronising
        yield batch, features
        if versions != [tensor._version for tensor in given]:
            raise SharedDataError(f"run {lane.spec.id} {WRITES}")
        return
    own = deepcopy((batch, features))
    modules: list[nn.Module] = [teacher.network for teacher in teachers.values()]
    modules += [module for other in lanes if other is not lane for module in other.modules]
    tensors = [one for module in modules for one in (*module.parameters(), *module.buffers())]
    kept = [_Kept(group) for group in _groups(tensors)]
    error = None
    try:
        with kept_settings():
            yield own
    except Exception as caught:  # a write may be its cause
        error = caught
    finally:
        written = [one for one in kept if one.set_back()]
    if written or not all(map(_same, given, [*_of_batch(own[0]), *tensors_of(own[1])])):
        raise RuntimeError(WRITES) from error
    if error is not None:
        raise error


class _Kept:
    """A copy of some tensors of one type, joined: networks have hundreds, and a GPU waits for each comparison."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self.tensors, self.copy = tensors, _joined(tensors)
        if len(tensors) == 1:
            self.copy = self.copy.clone()
        self.layouts = [_layout(one) for one in tensors]

    def set_back(self) -> bool:
        """Set each tensor that was written into back to its copy; return whether one was."""
        if list(map(_layout, self.tensors)) == self.layouts and _same(_joined(self.tensors), self.copy):
            return False
        parts = self.copy.split([shape.numel() for shape, *_ in self.layouts])
        for tensor, part, layout in zip(self.tensors, parts, self.layouts, strict=True):
            before = part.new_empty_strided(*layout[:2]).copy_(part.view(layout[0]))
            if _layout(tensor) != layout or not _same(tensor, before):
                tensor.data = before
        return True


def _groups(tensors: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Yield the tensors in groups of one type and device, each of at most `JOINED` entries or of one tensor."""
    group: list[Tensor] = []
    entries = 0
    for one in sorted(tensors, key=Tensor.is_floating_point):  # a batch norm's counter is between its weights
        entries += one.numel()
        if group and (entries > JOINED or (one.dtype, one.device) != (group[0].dtype, group[0].device)):
            yield group
            group, entries = [], one.numel()
        group.append(one)
    if group:
        yield group


def _joined(tensors: Sequence[Tensor]) -> Tensor:
    """Return the entries of all tensors; for one tensor, maybe as a view, which takes no memory."""
    flat = [one.detach().reshape(-1) for one in tensors]
    return flat[0] if len(flat) == 1 else torch.cat(flat)


def _layout(tensor: Tensor) -> tuple[torch.Size, tuple[int, ...], torch.dtype, torch.device]:
    return tensor.shape, tensor.stride(), tensor.dtype, tensor.device


def _of_batch(batch: Batch) -> list[Tensor]:
    optional = (batch.targets, batch.second, batch.teacher_second, batch.soft_targets)
    return [batch.images, batch.teacher_images, batch.indices, *(one for one in optional if one is not None)]


def tensors_of(features: Mapping[str, Features]) -> list[Tensor]:
    """Return the tensors of teachers' features, in the same order for features of the same shapes."""
    tensors: list[Tensor] = []
    for one in [view for first in features.values() for view in (first, first.second) if view is not None]:
        tensors += [*one.stages, *one.preactivations, *one.class_tokens, one.embedding, one.logits]
        layers = [layer for layer in (one.classifier, *one.norms) if layer is not None]
        others = [one.final, *(part for layer in layers for part in (layer.weight, layer.bias))]
        tensors += [tensor for tensor in others if tensor is not None]
    return tensors


def _same(tensor: Tensor, other: Tensor) -> bool:
    """Return whether two tensors have the same bits; NaN is like NaN."""
    if (tensor.shape, tensor.dtype, tensor.device) != (other.shape, other.dtype, other.device):
        return False
    bits = BITS.get(tensor.element_size(), tensor.dtype)
    return torch.equal(tensor.detach().view(bits), other.detach().view(bits))
