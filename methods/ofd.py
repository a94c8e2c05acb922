"""OFD: overhaul of feature distillation.

Paper:   Heo, Kim, Yun, Park, Kwak and Choi, A Comprehensive Overhaul of Feature Distillation, ICCV 2019.
Family:  features.
Formula: loss = 1/B * sum over stages i = 1..n of 2^(i-n) * sum over entries of (d - max(t, m))^2 where d > max(t, m) or
         t > 0;  d = norm(conv1x1(s)), s and t pre-activations, t pooled adaptively to the student's size.
         m is one margin per channel, the mean of the negative part of N(mu, sigma^2), with mu and sigma the bias and
         |weight| of the norm that makes t: m = mu - sigma * phi(mu / sigma) / Phi(-mu / sigma), or -3 sigma where
         Phi(-mu / sigma) <= 0.001.
Reads:   pre-activations of all stages but the stem, and the teacher's norms before them. Owns d's layers, trained.
Weight:  0.001 on CIFAR-100; 0.0001 on ImageNet, as the authors advise. Their teacher runs in train mode; here it is in
         eval mode, as for all methods.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.types import Affine, Batch, DataInfo, Features, Shapes
from methods.base import Distiller, register, same_stages

SURE = 0.001  # the share of negative values up to which a channel counts as positive throughout


def negative_mean(norm: Affine) -> Tensor:
    """Return the margins (C,) of a norm's channels: the mean of the negative values it gives, if they are normal."""
    assert norm.bias is not None  # a batch norm has one
    mu, sigma = norm.bias, norm.weight.abs()
    ratio = mu / sigma
    negative = torch.special.ndtr(-ratio)
    density = torch.exp(-ratio.square() / 2) / math.sqrt(2 * math.pi)
    return torch.where(negative > SURE, mu - sigma * density / negative, -3 * sigma)


def partial_error(connected: Tensor, teacher: Tensor, margin: Tensor) -> Tensor:
    """Return the sum of squared distances of maps (B, C, H, W), margin (C,), where the student must still move."""
    wanted = torch.maximum(teacher, margin[:, None, None])
    counted = (connected > wanted) | (teacher > 0)
    return ((connected - wanted).square() * counted).sum()


@register("ofd", weight=1e-3)
class OFD(Distiller):
    needs_preactivations = True

    def __init__(self, student: Shapes, teacher: Shapes, data: DataInfo) -> None:
        super().__init__(student, teacher, data)
        self.connectors = nn.ModuleList()
        for (s, _, _), (t, _, _) in zip(student.preactivations[1:], teacher.preactivations[1:], strict=True):
            convolution = nn.Conv2d(s, t, 1, bias=False)
            nn.init.normal_(convolution.weight, std=math.sqrt(2 / t))
            self.connectors.append(nn.Sequential(convolution, nn.BatchNorm2d(t)))

    def loss(self, student: Features, teacher: Features, batch: Batch) -> Tensor:
        """Return the unweighted term: scalar, sum over entries and stages, mean over the batch."""
        stages = zip(
            self.connectors, student.preactivations[1:], teacher.preactivations[1:], teacher.norms, strict=True
        )
        losses = [
            partial_error(connector(s), F.adaptive_avg_pool2d(t, (s.shape[2], s.shape[3])), negative_mean(norm))
            for connector, s, t, norm in stages
        ]
        deepest_first = [2.0**-depth * loss for depth, loss in enumerate(reversed(losses))]
        return torch.stack(deepest_first).sum() / len(batch.indices)

    @classmethod
    def inapplicable(cls, student: Shapes, teacher: Shapes) -> str | None:
        """Return a reason if stages do not pair up, or pre-activations or the teacher's norms are missing."""
        for network in (student, teacher):
            if len(network.preactivations) != len(network.stages):
                return f"{network.network} gives no pre-activations, which OFD reads"
        if not teacher.has_norms:
            return f"{teacher.network} does not give the norms before its pre-activations, from which OFD has margins"
        return same_stages(student, teacher)
