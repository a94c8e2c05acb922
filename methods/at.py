"""AT: attention transfer.

Paper:   Zagoruyko and Komodakis, Paying More Attention to Attention, ICLR 2017.
Family:  features.
Formula: a(f) = flatten(mean_C f^2) / ||.||_2;  loss = sum over stages of mean_{B,HW} (a(s) - a(t))^2.
Reads:   all stages except the stem, the larger map pooled to the smaller one. Owns no parameters.
Weight:  1000 (a mean over B*H*W entries of unit vectors is small), as in the CRD tables.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.types import Batch, Features
from methods._adapters import match
from methods._maps import attention
from methods.base import Distiller, register, same_stages


def attention_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean squared difference of the attention of maps (B, C_s, H, W) and (B, C_t, H, W): scalar."""
    return F.mse_loss(attention(student), attention(teacher))


@register("at", weight=1000.0)
class AT(Distiller):
    autocast = True

    def loss(self, student: Features, teacher: Features, batch: Batch) -> Tensor:
        """Return the unweighted term: per stage a mean over batch and positions, summed over the stages."""
        pairs = zip(student.stages[1:], teacher.stages[1:], strict=True)
        return torch.stack([attention_distance(*match(s, t)) for s, t in pairs]).sum()

    inapplicable = staticmethod(same_stages)
