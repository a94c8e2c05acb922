"""WTTM: weighted transformed teacher matching.

Paper:   Zheng and Yang, Knowledge Distillation Based on Transformed Teacher Matching, ICLR 2024.
Family:  logits.
Formula: loss = mean_B U * KL(softmax(t / T) || softmax(s)),  U = sum over classes of softmax(t)^(1 / T), from 1 to
         K^(1 - 1 / T): samples on which the teacher is less sure weigh more.
Reads:   logits of both networks. Owns no parameters.
Weight:  4 with T = 5, which the authors' script has for WTTM added to CRD, for vgg13 to vgg8 on CIFAR-100. Their
         settings for the other pairs and for ImageNet are in their paper's appendix, which was not available:
         unverified.
"""

import torch.nn.functional as F
from pydantic import PositiveFloat
from torch import Tensor

from bench.types import Batch, DataInfo, Features, Shapes
from methods.base import Distiller, register, same_classes


@register("wttm", weight=4.0, space={"temperature": {"log": [2, 16]}})
class WTTM(Distiller):
    def __init__(self, student: Shapes, teacher: Shapes, data: DataInfo, *, temperature: PositiveFloat = 5.0) -> None:
        super().__init__(student, teacher, data)
        self.temperature = temperature

    def loss(self, student: Features, teacher: Features, batch: Batch) -> Tensor:
        """Return the unweighted term of logits (B, K): scalar, mean over the batch."""
        p_t = F.softmax(teacher.logits / self.temperature, dim=1)
        divergence = F.kl_div(F.log_softmax(student.logits, dim=1), p_t, reduction="none").sum(dim=1)
        smoothness = F.softmax(teacher.logits, dim=1).pow(1 / self.temperature).sum(dim=1)
        return (smoothness * divergence).mean()

    inapplicable = staticmethod(same_classes)
