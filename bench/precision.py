"""The arithmetic of forward passes, and which of it a method sees."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Literal, cast, overload

import torch
from torch import Tensor

from bench.types import Features

Precision = Literal["fp32", "tf32", "bf16"]


def set_products(precision: Precision) -> None:
    """Let a GPU multiply float32 numbers as they are or, for `tf32`, with 10 bits of fraction; no other device does."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"


def arithmetic(precision: Precision, device: torch.device, enabled: bool = True) -> AbstractContextManager[object]:
    """Return the context of a network's forward pass, or of a term; not `enabled`, it is float32's."""
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled and precision == "bf16")


def seen_by_a_term(features: Features, takes_maps_as_they_are: bool) -> Features:
    """Return features as a method sees them: embedding and logits in float32, maps too unless it takes them as are."""
    if features.logits.dtype != torch.bfloat16:
        return features
    stages, preactivations = features.stages, features.preactivations
    if not takes_maps_as_they_are:
        # read like tuples, by index and slice; what a method does not read is not cast
        stages = cast(tuple[Tensor, ...], InFloat32(stages))
        preactivations = cast(tuple[Tensor, ...], InFloat32(preactivations))
    return Features(stages, preactivations, features.embedding.float(), features.logits.float())


class InFloat32(Sequence[Tensor]):
    """Maps that are cast to float32 when they are read."""

    def __init__(self, maps: Sequence[Tensor]) -> None:
        self._maps = maps

    def __len__(self) -> int:
        return len(self._maps)

    @overload
    def __getitem__(self, place: int) -> Tensor: ...
    @overload
    def __getitem__(self, place: slice) -> tuple[Tensor, ...]: ...
    def __getitem__(self, place: int | slice) -> Tensor | tuple[Tensor, ...]:
        """Return one map, or several."""
        found = self._maps[place]
        return found.float() if isinstance(found, Tensor) else tuple(one.float() for one in found)
