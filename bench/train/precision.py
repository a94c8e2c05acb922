"""The arithmetic of forward passes, and which of it a method sees."""

from contextlib import AbstractContextManager
from typing import Literal

import torch

from bench.types import Features

Precision = Literal["fp32", "tf32", "bf16"]


def set_products(precision: Precision) -> None:
    """Let a GPU multiply float32 numbers as they are or, for `tf32`, with 10 bits of fraction; no other device does."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"


def arithmetic(precision: Precision, device: torch.device, enabled: bool = True) -> AbstractContextManager[object]:
    """Return the context of a network's forward pass, or of a term; not `enabled`, it is float32's."""
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled and precision == "bf16")


def as_float32(features: Features, maps: bool = True) -> Features:
    """Return features with embedding, logits and, unless told otherwise, maps in float32; as they are if not bfloat16.

    Args:
        features: of a network, in whatever precision.
        maps: whether stages and pre-activations are cast.
    """
    if features.logits.dtype != torch.bfloat16:
        return features
    stages, preactivations = features.stages, features.preactivations
    if maps:
        stages = tuple(stage.float() for stage in stages)
        preactivations = tuple(stage.float() for stage in preactivations)
    return Features(stages, preactivations, features.embedding.float(), features.logits.float())
