"""NKD: normalised knowledge distillation.

Paper:   Yang, Zeng, Li, Zhang, Yuan and Li, From Knowledge Distillation to Self-Knowledge Distillation: A Unified
         Approach with Normalized Loss and Customized Soft Labels, ICCV 2023.
Family:  logits.
Formula: loss = mean_B [-p_t(y) * log p_s(y)] + g * T^2 * mean_B [-sum over other classes of q_t * log q_s], with
         p = softmax(z), y the target, and q the softmax of z / T over the other K - 1 classes alone.
Reads:   logits of both networks, and the targets. Owns no parameters.
Weight:  1, with g = 1.5 and T = 1, the authors' setting for ImageNet (cls_KD). Their CIFAR-100 pair, ResNet-34 to
         ResNet-18, has g = 3.5 and T = 3; they give no setting for the CRD tables' pairs, so ours is unverified there.
"""

from typing import ClassVar

import torch.nn.functional as F
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor

from bench.types import Batch, DataInfo, Features, Shapes
from methods._logits import without_target
from methods.base import Distiller, register, same_classes


@register("nkd", weight=1.0, space={"gamma": {"log": [0.5, 4]}, "temperature": {"log": [0.5, 4]}})
class NKD(Distiller):
    needs_targets = True
    takes_mixed_images = False  # the formula has one target class
    observes: ClassVar[tuple[str, ...]] = ("target", "non_target")  # the latter without its factor g

    def __init__(
        self,
        student: Shapes,
        teacher: Shapes,
        data: DataInfo,
        *,
        gamma: NonNegativeFloat = 1.5,
        temperature: PositiveFloat = 1.0,
    ) -> None:
        super().__init__(student, teacher, data)
        self.gamma, self.temperature = gamma, temperature

    def loss(self, student: Features, teacher: Features, batch: Batch) -> Tensor:
        """Return the unweighted term of logits (B, K): scalar, mean over the batch."""
        assert batch.targets is not None  # the trainer has checked
        p_t = F.softmax(teacher.logits, dim=1).gather(1, batch.targets[:, None]).squeeze(1)
        target = (p_t * F.cross_entropy(student.logits, batch.targets, reduction="none")).mean()
        others_s, others_t = (without_target(side.logits, batch.targets) for side in (student, teacher))
        q_t = F.softmax(others_t / self.temperature, dim=1)
        non_target = self.temperature**2 * F.cross_entropy(others_s / self.temperature, q_t)
        self.record(target, non_target)
        return target + self.gamma * non_target

    inapplicable = staticmethod(same_classes)
