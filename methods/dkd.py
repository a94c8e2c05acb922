"""DKD: decoupled knowledge distillation.

Paper:   Zhao, Cui, Song, Qiu and Liang, Decoupled Knowledge Distillation, CVPR 2022.
Family:  logits.
Formula: loss = a * TC + b * NC, both T^2 * KL(teacher || student), summed over outcomes, mean over the batch.
         TC compares (p_y, 1 - p_y) with p = softmax(z / T) and y the target; NC compares the softmax over the other
         K - 1 classes alone. With `standardise`, logits are standardised first (Sun et al., CVPR 2024).
Reads:   logits of both networks, and the targets. Owns no parameters.
Weight:  1, with a = 1, b = 8 and T = 4, rising linearly over 20 epochs, as its author advises for CIFAR-100; the tables
         set b per pair (1 to 8). On ImageNet: b = 0.5 (ResNet-50 to MobileNet: 2), T = 1, warmup 1; all mdistiller.
"""

from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor

from bench.types import Batch, DataInfo, Features, Shapes
from methods._logits import logits_of, softened_kl, without_target
from methods.base import Distiller, register, same_classes


def target_or_not(logits: Tensor, targets: Tensor) -> Tensor:
    """Return log p_y and log(1 - p_y), p = softmax of logits (B, K): (B, 2), finite also where p_y rounds to 1."""
    target = logits.gather(1, targets[:, None])
    others = without_target(logits, targets).logsumexp(dim=1, keepdim=True)
    return F.log_softmax(torch.cat([target, others], dim=1), dim=1)


@register(
    "dkd",
    weight=1.0,
    warmup=20,
    space={"alpha": {"log": [0.25, 4]}, "beta": {"log": [0.5, 16]}, "temperature": {"log": [1, 16]}},
)
class DKD(Distiller):
    needs_targets = True
    takes_mixed_images = False  # the formula has one target class
    observes: ClassVar[tuple[str, ...]] = ("target", "non_target")  # TC and NC, without their factors

    def __init__(
        self,
        student: Shapes,
        teacher: Shapes,
        data: DataInfo,
        *,
        alpha: NonNegativeFloat = 1.0,
        beta: NonNegativeFloat = 8.0,
        temperature: PositiveFloat = 4.0,
        standardise: bool = False,
    ) -> None:
        super().__init__(student, teacher, data)
        self.alpha, self.beta = alpha, beta
        self.temperature, self.standardise = temperature, standardise

    def loss(self, student: Features, teacher: Features, batch: Batch) -> Tensor:
        """Return the unweighted term of logits (B, K): scalar, mean over the batch."""
        assert batch.targets is not None  # the trainer has checked
        logits = logits_of(student, teacher, self.standardise)
        # log-probabilities at temperature T already
        binary_s, binary_t = (target_or_not(z / self.temperature, batch.targets) for z in logits)
        target = self.temperature**2 * softened_kl(binary_s, binary_t, 1.0)
        others_s, others_t = (without_target(z, batch.targets) for z in logits)
        non_target = softened_kl(others_s, others_t, self.temperature)
        self.record(target, non_target)
        return self.alpha * target + self.beta * non_target

    inapplicable = staticmethod(same_classes)
