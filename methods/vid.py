"""VID: variational information distillation.

Paper:   Ahn, Hu, Damianou, Lawrence and Dai, Variational Information Distillation for Knowledge Transfer, CVPR 2019.
Family:  features.
Formula: loss = sum over stages of mean ((m(s) - t)^2 / v + log v) / 2,  v = softplus(r) + 1e-5 per teacher channel.
Reads:   all stages except the stem, the larger map pooled to the smaller one. Owns, per stage, m (three 1x1
         convolutions) and r, both trained; r starts where v = 5.
Weight:  1, as in the CRD tables.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.types import Batch, DataInfo, Features, Shapes
from methods._adapters import match
from methods._maps import squared_error
from methods.base import Distiller, register, same_stages

EPS = 1e-5  # smallest variance
START = 5.0  # variance before training


class Gaussian(nn.Module):
    """A Gaussian prediction of the teacher's map from the student's: a mean per position, a variance per channel."""

    def __init__(self, student_channels: int, teacher_channels: int) -> None:
        super().__init__()
        self.mean = nn.Sequential(nn.Conv2d(student_channels, teacher_channels, 1, bias=False))
        for _ in range(2):
            self.mean.append(nn.ReLU(inplace=True))
            self.mean.append(nn.Conv2d(teacher_channels, teacher_channels, 1, bias=False))
        self.rho = nn.Parameter(torch.full((teacher_channels,), math.log(math.exp(START - EPS) - 1)))

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the mean negative log-likelihood of maps (B, C_t, H, W) given (B, C_s, H, W), without its constant."""
        variance = F.softplus(self.rho) + EPS
        error = squared_error(self.mean(student), teacher) / (teacher.numel() / teacher.shape[1])
        return (error / variance + variance.log()).mean() / 2


@register("vid", weight=1.0)
class VID(Distiller):
    autocast = True

    def __init__(self, student: Shapes, teacher: Shapes, data: DataInfo) -> None:
        super().__init__(student, teacher, data)
        pairs = zip(student.stages[1:], teacher.stages[1:], strict=True)
        self.gaussians = nn.ModuleList(Gaussian(s[0], t[0]) for s, t in pairs)

    def loss(self, student: Features, teacher: Features, batch: Batch) -> Tensor:
        """Return the unweighted term: per stage a mean over the entries of the teacher's map, summed over stages."""
        stages = zip(self.gaussians, student.stages[1:], teacher.stages[1:], strict=True)
        return torch.stack([gaussian(*match(s, t)) for gaussian, s, t in stages]).sum()

    inapplicable = staticmethod(same_stages)
