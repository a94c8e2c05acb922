"""The shared types: a network's features, a batch, and the shapes and data that a method receives. Imports no torch."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class Features:
    """The result of a network's forward pass on a batch of B images.

    Attributes:
        stages: feature maps, each (B, C, H, W), stem first.
        preactivations: the same maps before their last ReLU, stem first; empty unless requested.
        embedding: (B, D), pooled features, the classifier's input.
        logits: (B, K), before softmax.
    """

    stages: tuple[Tensor, ...]
    preactivations: tuple[Tensor, ...]
    embedding: Tensor
    logits: Tensor


@dataclass(frozen=True)
class Shapes:
    """Shapes of a network's `Features`, without the batch dimension.

    Attributes:
        network: the network's registered name.
        stages: (C, H, W) of each stage, stem first.
        preactivations: (C, H, W) of each pre-activation, stem first.
        embedding: D.
        classes: K, the number of logits.
    """

    network: str
    stages: tuple[tuple[int, int, int], ...]
    preactivations: tuple[tuple[int, int, int], ...]
    embedding: int
    classes: int


@dataclass(frozen=True)
class Batch:
    """One batch of B samples, already on the device, augmented and normalised.

    Attributes:
        images: (B, C, H, W), the student's view.
        teacher_images: (B, C', H', W'), the teacher's view; the same tensor unless the views differ.
        targets: (B,) int64 class indices, or None where the task has no labels.
        indices: (B,) int64 positions in the training set.
    """

    images: Tensor
    teacher_images: Tensor
    targets: Tensor | None
    indices: Tensor


@dataclass(frozen=True)
class DataInfo:
    """The training set, as methods receive it.

    Attributes:
        n: number of training samples.
        classes: number of classes.
        targets: (n,) int64 class indices in the order of `Batch.indices`, or None without labels.
    """

    n: int
    classes: int
    targets: Tensor | None


@dataclass(frozen=True)
class InitialStage:
    """What a method trains before the main stage, for `training.initial_epochs` epochs at a constant learning rate.

    Attributes:
        modules: the method's own modules that train here; they are frozen and in eval mode afterwards.
        trains_student: whether the student's `trunk()` trains too; if not, `loss` receives None for the student.
        loss: (student features, teacher features, batch) to a scalar, not weighted.
        lr: learning rate, or None for the initial one of the main stage.
    """

    modules: tuple[nn.Module, ...]
    trains_student: bool
    loss: Callable[[Features | None, Features, Batch], Tensor]
    lr: float | None = None


class RequestError(Exception):
    """The request is wrong: the message says where and why, what is allowed and how to fix it (exit status 2)."""


def suggest(name: str, known: Iterable[str]) -> str:
    """Return a text that suggests the closest known name, if one is close, and lists all of them."""
    known = sorted(known)
    by_lower = {one.lower(): one for one in reversed(known)}
    near = difflib.get_close_matches(name.lower(), by_lower, n=1)
    return (f"Did you mean {by_lower[near[0]]!r}? " if near else "") + f"Known: {', '.join(known)}"
