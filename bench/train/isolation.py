"""Keeps the lanes of a cohort apart: what a plug-in may have written into is set back before another lane reads it."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy

import torch
from torch import Tensor, nn

from bench.train.lane import Lane, SharedDataError
from bench.train.learner import Teacher
from bench.types import Batch, Features
from methods._settings import kept_settings

BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by the bytes of an element
WRITES = "writes into its batch or teacher, or into another run's networks: a method must leave them as they are"


@contextmanager
def lent(
    lane: Lane, lanes: Sequence[Lane], teachers: Mapping[str, Teacher], batch: Batch, features: Mapping[str, Features]
) -> Iterator[tuple[Batch, Mapping[str, Features]]]:
    """Yield the batch and the teachers' features for a lane's step; a plug-in's lane receives copies.

    Raises:
        RuntimeError: a plug-in's lane has written into its copies, a teacher or another lane, which is set back.
        SharedDataError: another lane has written into the batch or the features.
    """
    given = _tensors(batch, features)
    if not lane.has_plugin:
        versions = [tensor._version for tensor in given]  # the host knows them without synchronising
        yield batch, features
        if versions != [tensor._version for tensor in given]:
            raise SharedDataError(f"run {lane.spec.id} {WRITES}")
        return
    own = deepcopy((batch, features))
    modules: list[nn.Module] = [teacher.network for teacher in teachers.values()]
    modules += [module for other in lanes if other is not lane for module in other.modules]
    kept = [(one, one.detach().clone()) for module in modules for one in (*module.parameters(), *module.buffers())]
    error = None
    try:
        with kept_settings():
            yield own
    except Exception as caught:  # a write may be its cause
        error = caught
    finally:
        written = [(tensor, copy) for tensor, copy in kept if not _same(tensor, copy)]
        for tensor, copy in written:
            tensor.data = copy
    if written or not all(map(_same, given, _tensors(*own))):
        raise RuntimeError(WRITES) from error
    if error is not None:
        raise error


def _tensors(batch: Batch, features: Mapping[str, Features]) -> list[Tensor]:
    """Return the tensors that all lanes of a cohort read."""
    shared = [batch.images, batch.teacher_images, batch.indices]
    if batch.targets is not None:
        shared.append(batch.targets)
    for one in features.values():
        shared += [*one.stages, *one.preactivations, one.embedding, one.logits]
        layers = [layer for layer in (one.classifier, *one.norms) if layer is not None]
        others = [one.final, *(part for layer in layers for part in (layer.weight, layer.bias))]
        shared += [tensor for tensor in others if tensor is not None]
    return shared


def _same(tensor: Tensor, other: Tensor) -> bool:
    """Return whether two tensors have the same bits; NaN is like NaN."""
    if (tensor.shape, tensor.dtype, tensor.device) != (other.shape, other.dtype, other.device):
        return False
    bits = BITS.get(tensor.element_size(), tensor.dtype)
    return torch.equal(tensor.detach().view(bits), other.detach().view(bits))
