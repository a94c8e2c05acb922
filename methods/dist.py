"""DIST: distillation from a stronger teacher.

Paper:   Huang, You, Wang, Qian and Xu, Knowledge Distillation from A Stronger Teacher, NeurIPS 2022.
Family:  logits.
Formula: loss = T^2 * (b * (1 - mean over samples of r(p_s, p_t)) + g * (1 - mean over classes of r(p_s, p_t))), with
         p = softmax(z / T) as a (B, K) matrix and r the correlation of two rows, then of two columns:
         r(u, v) = <u - mean u, v - mean v> / (||u - mean u|| * ||v - mean v|| + 1e-8).
         The paper's listing lacks T^2; its code, which made the CIFAR-100 numbers, has it, and so do we.
Reads:   logits of both networks. Owns no parameters.
Weight:  1, with b = g = 2 and T = 4 on CIFAR-100, as in the authors' code; on ImageNet T = 1.
"""

from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor

from bench.types import Batch, DataInfo, Features, Shapes
from methods.base import Distiller, register, same_classes

EPS = 1e-8  # added to the product of the norms, as in the authors' code


def correlation(rows: Tensor, others: Tensor) -> Tensor:
    """Return Pearson's correlation of each row of (N, M) with the same row of the other: (N,), 0 for constant rows."""
    rows, others = (x - x.mean(dim=1, keepdim=True) for x in (rows, others))
    return (rows * others).sum(dim=1) / (rows.norm(dim=1) * others.norm(dim=1) + EPS)


@register(
    "dist", weight=1.0, space={"beta": {"log": [0.5, 8]}, "gamma": {"log": [0.5, 8]}, "temperature": {"log": [1, 8]}}
)
class DIST(Distiller):
    def __init__(
        self,
        student: Shapes,
        teacher: Shapes,
        data: DataInfo,
        *,
        beta: NonNegativeFloat = 2.0,
        gamma: NonNegativeFloat = 2.0,
        temperature: PositiveFloat = 4.0,
    ) -> None:
        super().__init__(student, teacher, data)
        self.beta, self.gamma, self.temperature = beta, gamma, temperature

    def loss(self, student: Features, teacher: Features, batch: Batch) -> Tensor:
        """Return the unweighted term of logits (B, K): scalar, means over samples and over classes."""
        p_s, p_t = ((side.logits / self.temperature).softmax(dim=1) for side in (student, teacher))
        between_classes = 1 - correlation(p_s, p_t).mean()
        within_classes = 1 - correlation(p_s.T, p_t.T).mean()
        return self.temperature**2 * (self.beta * between_classes + self.gamma * within_classes)

    inapplicable = staticmethod(same_classes)
