"""TTM: transformed teacher matching.

Paper:   Zheng and Yang, Knowledge Distillation Based on Transformed Teacher Matching, ICLR 2024.
Family:  logits.
Formula: loss = mean_B KL(softmax(t / T) || softmax(s)): the teacher alone is softened, and T^2 is left out.
Reads:   logits of both networks. Owns no parameters.
Weight:  45 with T = 10, the authors' example for vgg13 to vgg8 on CIFAR-100. Other pairs, ImageNet: unverified.
"""

import torch.nn.functional as F
from pydantic import PositiveFloat
from torch import Tensor

from bench.types import Batch, DataInfo, Features, Shapes
from methods.base import Distiller, register, same_classes


@register("ttm", weight=45.0, space={"temperature": {"log": [2, 16]}})
class TTM(Distiller):
    def __init__(self, student: Shapes, teacher: Shapes, data: DataInfo, *, temperature: PositiveFloat = 10.0) -> None:
        super().__init__(student, teacher, data)
        self.temperature = temperature

    def loss(self, student: Features, teacher: Features, batch: Batch) -> Tensor:
        """Return the unweighted term of logits (B, K): scalar, mean over the batch."""
        p_t = F.softmax(teacher.logits / self.temperature, dim=1)
        return F.kl_div(F.log_softmax(student.logits, dim=1), p_t, reduction="batchmean")

    inapplicable = staticmethod(same_classes)
