"""CC: correlation congruence.

Paper:   Peng, Jin, Liu, Zhou, Wu, Liu, Zhang and Liu, Correlation Congruence for Knowledge Distillation, ICCV 2019.
Family:  relations.
Formula: d_i = |e_s(z_s) - e_t(z_t)| of sample i;  loss = mean_i sum_D d_i * d_{i+1}, i over the B - 1 neighbours.
Reads:   embedding of both networks. Owns two linear maps to 128 dimensions, both trained.
Weight:  0.02 (a sum over 128 dimensions is large), as in the CRD tables.
Code:    the formula is that of the published tables' code. `variant: paper` has the paper's: the mean squared
         difference of both networks' B*B kernels of unit embeddings, Gaussian with gamma 0.4, by a Taylor series of
         order 2. It is below 1 and needs a larger weight, which the suite states.
"""

import math
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from annotated_types import Gt, Le
from torch import Tensor, nn

from bench.types import Batch, DataInfo, Features, Shapes
from methods.base import Distiller, register

GAMMA, ORDER = 0.4, 2  # of the Gaussian kernel, and of its Taylor series; from the paper


def correlations(embedding: Tensor) -> Tensor:
    """Return a Gaussian kernel of unit embeddings (B, D), by its Taylor series: (B, B), with the paper's constants.

    K_ij = exp(-2 g) * sum_p (2 g)^p / p! * <z_i, z_j>^p for p = 0..2, which approximates exp(-g |z_i - z_j|^2).
    """
    unit = F.normalize(embedding)
    cosines = unit @ unit.T
    series = [(2 * GAMMA) ** p / math.factorial(p) * cosines**p for p in range(ORDER + 1)]
    return math.exp(-2 * GAMMA) * torch.stack(series).sum(dim=0)


@register(
    "cc",
    weight=0.02,
    added=("variant",),
    variant="multiplies the gaps of neighbours in the batch; the paper compares kernels of all pairs of samples",
    space={"dim": {"choices": [64, 128, 256]}},
)
class CC(Distiller):
    def __init__(
        self,
        student: Shapes,
        teacher: Shapes,
        data: DataInfo,
        *,
        dim: Annotated[int, Gt(0), Le(10_000)] = 128,
        variant: Literal["reference", "paper"] = "reference",
    ) -> None:
        """Build the two maps, which the paper's variant does not have.

        Args:
            student: shapes of the student's features.
            teacher: shapes of the teacher's features.
            data: the training set, of which nothing is used.
            dim: the dimension of both maps' outputs.
            variant: whose formula, the reference implementation's or the paper's. The latter is a mean over B*B entries
                below 1 and needs a larger weight, which the suite states or searches.
        """
        super().__init__(student, teacher, data)
        self.variant_used = variant
        if variant == "reference":
            self.student_head = nn.Linear(student.embedding, dim)
            self.teacher_head = nn.Linear(teacher.embedding, dim)

    def loss(self, student: Features, teacher: Features, batch: Batch) -> Tensor:
        """Return the unweighted term of embeddings (B, D_s), (B, D_t): mean over neighbours; NaN for a batch of one.

        The paper's variant is the mean over B*B entries.
        """
        if self.variant_used == "paper":
            return F.mse_loss(correlations(student.embedding), correlations(teacher.embedding))
        delta = (self.student_head(student.embedding) - self.teacher_head(teacher.embedding)).abs()
        return (delta[:-1] * delta[1:]).sum(dim=1).mean()
