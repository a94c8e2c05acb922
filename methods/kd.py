"""KD: knowledge distillation by softened logits.

Paper:   Hinton, Vinyals and Dean, Distilling the Knowledge in a Neural Network, NIPS workshop 2014, arXiv 2015.
Formula: loss = T^2 * KL(softmax(t / T) || softmax(s / T)), summed over classes, mean over the batch; T = 4.
Reads:   logits of both networks. Owns no parameters.
Weight:  0.9, with 0.1 for cross-entropy, as in the CRD tables; T^2 keeps the size of the gradient as T changes.
"""

import torch.nn.functional as F
from pydantic import PositiveFloat
from torch import Tensor

from bench.types import Batch, DataInfo, Features, Shapes
from methods.base import Distiller, register


def softened_kl(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """Return T^2 * KL(teacher || student) of logits (B, K), both divided by T > 0: scalar, mean over the batch."""
    log_p_s = F.log_softmax(student_logits / temperature, dim=1)
    p_t = F.softmax(teacher_logits / temperature, dim=1)
    return temperature**2 * F.kl_div(log_p_s, p_t, reduction="batchmean")


@register("kd", weight=0.9, task_weight=0.1)
class KD(Distiller):
    def __init__(self, student: Shapes, teacher: Shapes, data: DataInfo, *, temperature: PositiveFloat = 4.0) -> None:
        super().__init__(student, teacher, data)
        self.temperature = temperature

    def loss(self, student: Features, teacher: Features, batch: Batch) -> Tensor:
        """Return the unweighted term of logits (B, K): scalar, mean over the batch."""
        return softened_kl(student.logits, teacher.logits, self.temperature)

    @classmethod
    def inapplicable(cls, student: Shapes, teacher: Shapes) -> str | None:
        """Return a reason if the two networks do not predict the same number of classes."""
        if student.classes == teacher.classes:
            return None
        counts = f"{student.network} has {student.classes} classes, {teacher.network} {teacher.classes}"
        return f"{counts}; KD needs the same"
