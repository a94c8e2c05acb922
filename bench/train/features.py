"""Changes features as a whole: joins those of several teachers, or maps every tensor."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from bench.types import Affine, Features


def together(teachers: Sequence[Features]) -> Features:
    """Return teachers as one without maps, whose logits (B, K) are the logarithm of the mean of their probabilities."""
    logs = torch.stack([features.logits.log_softmax(dim=1) for features in teachers])
    mean = logs.logsumexp(dim=0) - math.log(len(teachers))
    second = together([one.second for one in teachers if one.second is not None]) if teachers[0].second else None
    return Features(stages=(), preactivations=(), embedding=mean, logits=mean, second=second)


def detached(features: Features) -> Features:
    """Return features without gradients."""
    return mapped(features, Tensor.detach)


def mapped(features: Features, change: Callable[[Tensor], Tensor]) -> Features:
    """Return features with each tensor changed."""

    def layer(one: Affine) -> Affine:
        return Affine(change(one.weight), None if one.bias is None else change(one.bias))

    return Features(
        stages=tuple(map(change, features.stages)),
        preactivations=tuple(map(change, features.preactivations)),
        embedding=change(features.embedding),
        logits=change(features.logits),
        final=None if features.final is None else change(features.final),
        classifier=None if features.classifier is None else layer(features.classifier),
        norms=tuple(map(layer, features.norms)),
        second=None if features.second is None else mapped(features.second, change),
        of_tokens=features.of_tokens,
        class_tokens=tuple(map(change, features.class_tokens)),
    )
