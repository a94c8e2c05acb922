"""NST: neuron selectivity transfer.

Paper:   Huang and Wang, Like What You Like: Knowledge Distill via Neuron Selectivity Transfer, 2017.
Formula: x_c = flatten(channel c) / ||.||_2,  k(x, y) = <x, y>^2;
         loss = sum over stages of mean k(t, t) + mean k(s, s) - 2 mean k(s, t), means over batch and channel pairs.
Reads:   all stages but the stem, the larger map pooled to the smaller one. Owns no parameters.
Weight:  50, as in the CRD tables.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.types import Batch, Features, Shapes
from methods.adapters import match
from methods.base import Distiller, register, same_stages


def channel_discrepancy(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the squared maximum mean discrepancy of two sets of channels, kernel <x, y>^2: scalar, mean over B.

    With X (C, P) the unit channels as rows, the sum of <x, y>^2 over all pairs is ||X Y^T||^2 = <X^T X, Y^T Y>: one
    product a pair of sets (C x C) or one a set (P x P); whichever multiplies less runs.

    Args:
        student: (B, C_s, H, W), any scale.
        teacher: (B, C_t, H, W), any scale.
    """
    x_s, x_t = F.normalize(student.flatten(2), dim=2), F.normalize(teacher.flatten(2), dim=2)
    (_, c_s, positions), c_t = x_s.shape, x_t.shape[1]
    if positions * (c_s + c_t) < c_s * c_s + c_t * c_t + c_s * c_t:
        gram_s, gram_t = x_s.transpose(1, 2) @ x_s / c_s, x_t.transpose(1, 2) @ x_t / c_t
        return (gram_s - gram_t).square().sum() / len(x_s)
    pairs = ((x_t, x_t), (x_s, x_s), (x_s, x_t))
    within_t, within_s, across = ((x @ y.transpose(1, 2)).square().mean() for x, y in pairs)
    return within_t + within_s - 2 * across


@register("nst", weight=50.0)
class NST(Distiller):
    def loss(self, student: Features, teacher: Features, batch: Batch) -> Tensor:
        """Return the unweighted term: per stage a mean over batch and channel pairs, summed over the stages."""
        pairs = zip(student.stages[1:], teacher.stages[1:], strict=True)
        return torch.stack([channel_discrepancy(*match(s, t)) for s, t in pairs]).sum()

    @classmethod
    def inapplicable(cls, student: Shapes, teacher: Shapes) -> str | None:
        """Return a reason where the stages do not pair up."""
        return same_stages(student, teacher)
