"""The precision of forward passes: `fp32`, `tf32` or `bf16`, and the casts for methods that need float32."""

from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Literal

import torch

from bench.types import Features

Precision = Literal["fp32", "tf32", "bf16"]


def set_products(precision: Precision) -> None:
    """Let GPUs multiply float32 numbers in full precision or, for `tf32`, with 10 bits of fraction.

    cuDNN uses only kernels that give the same bits each time, so that a resumed run ends as if undisturbed; what that
    costs is in docs/performance.md.
    """
    torch.backends.cudnn.deterministic = True
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"


def arithmetic(precision: Precision, device: torch.device, enabled: bool = True) -> AbstractContextManager[object]:
    """Return the context of a network's or a term's forward pass; it is float32's unless `enabled`."""
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled and precision == "bf16")


def as_float32(features: Features, maps: bool = True) -> Features:
    """Return features with embedding, logits and, if `maps`, all maps in float32, in which the parameters are."""
    if features.logits.dtype != torch.bfloat16:
        return features
    second = None if features.second is None else as_float32(features.second, maps)
    features = replace(features, embedding=features.embedding.float(), logits=features.logits.float(), second=second)
    if not maps:
        return features
    return replace(
        features,
        stages=tuple(stage.float() for stage in features.stages),
        preactivations=tuple(stage.float() for stage in features.preactivations),
        final=None if features.final is None else features.final.float(),
        class_tokens=tuple(token.float() for token in features.class_tokens),
    )
