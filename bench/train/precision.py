"""The precision of forward passes: `fp32`, `tf32` or `bf16`, and the casts for methods that need float32."""

from contextlib import AbstractContextManager
from typing import Literal

import torch

from bench.types import Features

Precision = Literal["fp32", "tf32", "bf16"]


def set_products(precision: Precision) -> None:
    """Let GPUs multiply float32 numbers in full precision or, for `tf32`, with 10 bits of fraction."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"


def arithmetic(precision: Precision, device: torch.device, enabled: bool = True) -> AbstractContextManager[object]:
    """Return the context of a network's or a term's forward pass; it is float32's unless `enabled`."""
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled and precision == "bf16")


def as_float32(features: Features, maps: bool = True) -> Features:
    """Return features with embedding, logits and, if `maps`, stages and pre-activations in float32."""
    if features.logits.dtype != torch.bfloat16:
        return features
    stages, preactivations = features.stages, features.preactivations
    if maps:
        stages = tuple(stage.float() for stage in stages)
        preactivations = tuple(stage.float() for stage in preactivations)
    return Features(stages, preactivations, features.embedding.float(), features.logits.float())
