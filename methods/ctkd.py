"""CTKD: curriculum temperature for knowledge distillation.

Paper:   Li, Li, Yang, Zhao, Song, Luo, Li and Yang, Curriculum Temperature for Knowledge Distillation, AAAI 2023.
Family:  logits.
Formula: loss = T^2 * KL(softmax(t / T) || softmax(s / T)), summed over classes, mean over the batch, with the learned
         T = 1 + 20 * sigmoid(theta), theta = 1 at the start. The gradient of theta is multiplied by
         -(1 - cos(pi * min(e, E) / E)) / 2 in epoch e, counted from 1: theta learns to raise the loss, at first slowly.
         With `standardise`, logits are standardised first (Sun et al., CVPR 2024).
Reads:   logits of both networks, and the epoch. Owns theta, a scalar, trained with weight decay like all else.
Weight:  0.9, with 0.1 for cross-entropy and E = 10 on CIFAR-100; on ImageNet 1 and 1, and E = 5 (the authors' scripts).
"""

import math
from typing import Any, ClassVar

import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from bench.types import Batch, DataInfo, Features, Shapes
from methods._logits import logits_of, softened_kl
from methods.base import Distiller, register, same_classes

LOWEST, RANGE = 1.0, 20.0  # of the temperature, as in the authors' scripts


class ScaledGradient(torch.autograd.Function):
    """The identity, whose gradient is multiplied by a factor."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:  # noqa: ANN401, D102
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401, D102
        return ctx.factor * grad, None


@register("ctkd", weight=0.9, task_weight=0.1)
class CTKD(Distiller):
    needs_epoch = True
    observes: ClassVar[tuple[str, ...]] = ("temperature", "reversal")

    def __init__(
        self,
        student: Shapes,
        teacher: Shapes,
        data: DataInfo,
        *,
        full_reversal: PositiveInt = 10,
        standardise: bool = False,
    ) -> None:
        """Build theta.

        Args:
            student: shapes of the student's features.
            teacher: shapes of the teacher's features.
            data: the training set.
            full_reversal: E, the epoch from which the gradient of theta is fully reversed.
            standardise: whether both networks' logits are standardised.
        """
        super().__init__(student, teacher, data)
        self.full_reversal, self.standardise = full_reversal, standardise
        self.theta = nn.Parameter(torch.tensor(1.0))

    def loss(self, student: Features, teacher: Features, batch: Batch) -> Tensor:
        """Return the unweighted term of logits (B, K): scalar, mean over the batch."""
        factor = self.reversal()
        temperature = LOWEST + RANGE * ScaledGradient.apply(self.theta, factor).sigmoid()
        self.record(temperature, torch.full_like(temperature, factor, requires_grad=False))
        return softened_kl(*logits_of(student, teacher, self.standardise), temperature)

    def reversal(self) -> float:
        """Return the factor of theta's gradient in the current epoch, -1 to 0."""
        return -(1 - math.cos(math.pi * min(self.epoch, self.full_reversal) / self.full_reversal)) / 2

    inapplicable = staticmethod(same_classes)
