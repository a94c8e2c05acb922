"""The shared types: a network's features, a batch, and the shapes and data that a method receives. Imports no torch."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor, nn

StyleName = Literal["page", "paper"]  # of figures


@dataclass(frozen=True)
class Affine:
    """Weight and bias of a layer, of which a network's parameters are: no copies."""

    weight: Tensor  # (K, D) of a linear layer; (C,) of a norm
    bias: Tensor | None  # (K,) or (C,)


@dataclass(frozen=True)
class Features:
    """The result of a network's forward pass on a batch of B images."""

    stages: tuple[Tensor, ...]  # feature maps, each (B, C, H, W), stem first
    preactivations: tuple[Tensor, ...]  # the same maps before their last ReLU, stem first; empty unless requested
    embedding: Tensor  # (B, D), pooled features, the classifier's input
    logits: Tensor  # (B, K), before softmax
    final: Tensor | None = None  # (B, D, H, W), the map whose mean over positions is the embedding; None if not known
    classifier: Affine | None = None  # the linear layer from embedding to logits; None if it is none
    norms: tuple[Affine, ...] = ()  # that make the pre-activations after the stem's; empty if unknown or not requested
    second: Features | None = None  # the features of `Batch.second`; None unless requested
    of_tokens: bool = False  # whether the stages are grids of tokens, as those of ViT, Swin or Mixer, not a CNN's maps
    class_tokens: tuple[Tensor, ...] = ()  # (B, C) of each stage, next to its grid; empty if there are none


@dataclass(frozen=True)
class Shapes:
    """Shapes of a network's `Features`, without the batch dimension."""

    network: str  # the network's registered name
    stages: tuple[tuple[int, int, int], ...]  # (C, H, W) of each stage, stem first
    preactivations: tuple[tuple[int, int, int], ...]  # (C, H, W) of each pre-activation, stem first
    embedding: int  # D
    classes: int  # K, the number of logits
    final: tuple[int, int, int] | None = None  # (D, H, W) of the final map; None if the network gives none
    has_classifier: bool = False  # whether the logits come from the embedding by a linear layer, which it gives
    has_norms: bool = False  # whether it gives the norms of its pre-activations
    of_tokens: bool = False  # whether its stages are grids of tokens, not a CNN's maps
    has_class_tokens: bool = False  # whether it gives a class token next to each of them


@dataclass(frozen=True)
class Batch:
    """One batch of B samples, already on the device, augmented and normalised."""

    images: Tensor  # (B, C, H, W), the student's view
    teacher_images: Tensor  # (B, C', H', W'), the teacher's view; the same tensor unless the views differ
    targets: Tensor | None  # (B,) int64 class indices, or None where the task has no labels
    indices: Tensor  # (B,) int64 positions in the training set
    second: Tensor | None = None  # (B, C, H, W), another, strongly distorted view of the same images, if requested
    teacher_second: Tensor | None = None  # (B, C', H', W'), the teacher's view of it
    soft_targets: Tensor | None = None  # (B, K) float, rows sum to 1, where images are mixed; `targets` has the largest


@dataclass(frozen=True)
class DataInfo:
    """The training set, as methods receive it."""

    n: int  # number of training samples
    classes: int
    targets: Tensor | None  # (n,) int64 class indices in the order of `Batch.indices`, or None without labels


@dataclass(frozen=True)
class InitialStage:
    """What a method trains before the main stage, for `training.initial_epochs` epochs at a constant learning rate."""

    modules: tuple[nn.Module, ...]  # the method's own that train here; frozen and in eval mode afterwards
    trains_student: bool  # whether the student's `trunk()` trains too; if not, `loss` receives None for the student
    loss: Callable[[Features | None, Features, Batch], Tensor]  # of student, teacher and batch: a scalar, not weighted
    lr: float | None = None  # learning rate, or None for the initial one of the main stage


class RequestError(Exception):
    """The request is wrong: the message says where and why, what is allowed and how to fix it (exit status 2)."""


def suggest(name: str, known: Iterable[str]) -> str:
    """Return a text that suggests the closest known name, if one is close, and lists all of them."""
    known = sorted(known)
    return f"{did_you_mean(name, known)}Known: {', '.join(known)}"


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """Return a question that suggests the closest of sorted names, followed by a space; "" if none is close."""
    by_lower = {one.lower(): one for one in reversed(known)}
    near = difflib.get_close_matches(name.lower(), by_lower, n=1)
    return f"Did you mean {by_lower[near[0]]!r}? " if near else ""
