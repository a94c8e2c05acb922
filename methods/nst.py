"""NST: neuron selectivity transfer.

Paper:   Huang and Wang, Like What You Like: Knowledge Distill via Neuron Selectivity Transfer, 2017.
Family:  features.
Formula: x_c = flatten(channel c) / ||.||_2,  k(x, y) = <x, y>^2;
         loss = sum over stages of mean k(t, t) + mean k(s, s) - 2 mean k(s, t), means over batch and channel pairs.
Reads:   all stages except the stem, the larger map pooled to the smaller one. Owns no parameters.
Weight:  50, as in the CRD tables.
"""

import torch
from torch import Tensor

from bench.types import Batch, Features
from methods._adapters import match
from methods._maps import gram, inverse_root
from methods.base import Distiller, register, same_stages


def channel_discrepancy(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the squared maximum mean discrepancy of two sets of channels, kernel <x, y>^2: scalar, mean over B.

    With the unit channels as rows of X (C, P), the sum of <x, y>^2 over all pairs is ||X Y^T||^2 = <X^T X, Y^T Y>: one
    product (C x C) per pair of sets, or one (P x P) per set. The one with fewer multiplications is used.

    Args:
        student: (B, C_s, H, W), any scale.
        teacher: (B, C_t, H, W), any scale.
    """
    s, t = student.flatten(2), teacher.flatten(2)
    (_, c_s, positions), c_t = s.shape, t.shape[1]
    if positions * (c_s + c_t) < c_s * c_s + c_t * c_t + c_s * c_t:
        return (by_positions(s) - by_positions(t)).square().sum() / len(s)
    return by_channels(s, t)


def by_positions(channels: Tensor) -> Tensor:
    """Return the mean over unit channels x, of (B, C, P), of x x^T: (B, P, P)."""
    positions = (channels * inverse_root(channels.square().sum(dim=2, keepdim=True)) / channels.shape[1] ** 0.5).mT
    return gram(positions, positions)


def by_channels(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the discrepancy of channels (B, C_s, P) and (B, C_t, P).

    The diagonals of the products are the squared norms, so the maps need not be normalised.
    """
    within_s, within_t, across = gram(student, student), gram(teacher, teacher), gram(student, teacher)
    inverse_s, inverse_t = (inverse_root(within.diagonal(dim1=1, dim2=2)) for within in (within_s, within_t))

    def mean_square(products: Tensor, first: Tensor, second: Tensor) -> Tensor:
        return (products * first[:, :, None] * second[:, None, :]).square().mean()

    within = mean_square(within_t, inverse_t, inverse_t) + mean_square(within_s, inverse_s, inverse_s)
    return within - 2 * mean_square(across, inverse_s, inverse_t)


@register("nst", weight=50.0)
class NST(Distiller):
    def loss(self, student: Features, teacher: Features, batch: Batch) -> Tensor:
        """Return the unweighted term: per stage a mean over batch and channel pairs, summed over the stages."""
        pairs = zip(student.stages[1:], teacher.stages[1:], strict=True)
        return torch.stack([channel_discrepancy(*match(s, t)) for s, t in pairs]).sum()

    inapplicable = staticmethod(same_stages)
