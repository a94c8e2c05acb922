"""ITRD: information theoretic representation distillation.

Paper:   Miles, Lopez Rodriguez and Mikolajczyk, Information Theoretic Representation Distillation, BMVC 2022.
Family:  relations.
Formula: loss = l_c * correlation + l_m * mutual.  h: a linear map of the student's embedding to D_t dimensions.
         correlation = log2 sum_d |c_d - 1|^(2 a), c_d = 1/B * sum_b h_bd * t_bd, each column less its mean and divided
         by its standard deviation (of B - 1).
         mutual = sum_ij (G_s / tr G_s)_ij^2 - (G_st / tr G_st)_ij^2, G = Z Z^T of unit rows Z, G_st = G_s * G_t by
         entries; Z is h, or the student's embedding itself where D_s = D_t. The paper has log2 of both sums, the
         authors' code, which runs here, has none.
Reads:   embedding of both networks. Owns h (with bias), trained.
Weight:  1, with l_c = 2, l_m = 1 and a = 1.01, the authors' example for wrn_40_2 to wrn_16_2 on CIFAR-100; their code's
         defaults are l_m = 0.05 and a = 1.5. Settings for the other pairs and for ImageNet: unverified.

Columns whose spread over the batch is only rounding, such as dead units, have no correlation and are left out.
"""

from typing import ClassVar

import torch
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor, nn

from bench.types import Batch, DataInfo, Features, Shapes
from methods.base import Distiller, register

ROUNDING = 1e-6  # of a column's largest entry: a smaller standard deviation is taken for 0


def standardised_columns(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return rows (B, D) with mean 0 and standard deviation 1 in each column, and which columns (D,) have a spread.

    A column without spread is 0, with gradient 0.
    """
    centred = rows - rows.mean(dim=0)
    variance = centred.square().sum(dim=0) / (len(rows) - 1)
    varies = variance.detach().sqrt() > ROUNDING * rows.detach().abs().amax(dim=0)
    return centred * torch.where(varies, variance, 1).rsqrt() * varies, varies


def similarities(rows: Tensor) -> Tensor:
    """Return the cosine similarities of rows (B, D), divided by their number: (B, B) of trace 1; zero rows give 0."""
    norms = rows.square().sum(dim=1, keepdim=True)
    unit = rows * torch.where(norms > 0, norms, 1).rsqrt()
    return unit @ unit.T


def of_trace_one(gram: Tensor) -> Tensor:
    """Return a Gram matrix (B, B) of unit rows divided by its trace; all zeros stay zeros."""
    return gram / gram.diagonal().sum().clamp(min=1)  # the gradient of `trace` makes the host wait for a GPU


@register("itrd", weight=1.0, space={"lambda_corr": {"log": [0.5, 8]}, "lambda_mutual": {"log": [0.25, 4]}})
class ITRD(Distiller):
    observes: ClassVar[tuple[str, ...]] = ("correlation", "mutual")  # without their factors

    def __init__(
        self,
        student: Shapes,
        teacher: Shapes,
        data: DataInfo,
        *,
        lambda_corr: NonNegativeFloat = 2.0,
        lambda_mutual: NonNegativeFloat = 1.0,
        alpha: PositiveFloat = 1.01,
    ) -> None:
        super().__init__(student, teacher, data)
        self.lambda_corr, self.lambda_mutual, self.alpha = lambda_corr, lambda_mutual, alpha
        self.same_dimension = student.embedding == teacher.embedding
        self.head = nn.Linear(student.embedding, teacher.embedding)

    def loss(self, student: Features, teacher: Features, batch: Batch) -> Tensor:
        """Return the unweighted term of embeddings (B, D_s) and (B, D_t), B >= 2: scalar."""
        mapped = self.head(student.embedding)
        correlation = self.correlation_loss(mapped, teacher.embedding)
        mutual = self.mutual_loss(student.embedding if self.same_dimension else mapped, teacher.embedding)
        self.record(correlation, mutual)
        return self.lambda_corr * correlation + self.lambda_mutual * mutual

    def correlation_loss(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return log2 of the summed distances from full correlation of (B, D) and (B, D); 0 if no column varies."""
        (z_s, varies_s), (z_t, varies_t) = standardised_columns(student), standardised_columns(teacher)
        counted = varies_s & varies_t
        distances = ((z_s * z_t).mean(dim=0) - 1).abs().pow(2 * self.alpha)
        total = torch.where(counted, distances, 0).sum()
        return torch.where(counted.any(), total, 1).log2()

    def mutual_loss(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the student's second-order entropy less that shared with the teacher, of (B, D_s) and (B, D_t)."""
        g_s, g_t = similarities(student), similarities(teacher)
        own, shared = of_trace_one(g_s), of_trace_one(g_s * g_t)
        return own.square().sum() - shared.square().sum()
