"""ReviewKD: knowledge review.

Paper:   Chen, Liu, Zhao and Jia, Distilling Knowledge via Knowledge Review, CVPR 2021.
Family:  features.
Formula: loss = sum over levels of (MSE + 1/2 MSE_4 + 1/4 MSE_2 + 1/8 MSE_1) / (1 + 1/2 + 1/4 + 1/8), each MSE a mean
         over all entries. MSE_k compares maps pooled to k x k, for k below the teacher's height; the factors 1/2, 1/4
         and 1/8 go to those used, in this order, and the denominator sums the factors used.
         From the deepest level up, with r the fused map of the level below, resized (nearest):
         x = norm(conv1x1(s)); (a, b) = sigmoid(conv1x1([x, r])); x = a x + b r; x resized to the teacher's size is the
         fused map that goes up; norm(conv3x3(x)) is compared with the teacher's. The deepest level has no r.
Reads:   the student's stages except the stem, the teacher's pre-activations of the same, and both embeddings as the
         deepest level, a 1x1 map. The authors take the student's pre-activations on ImageNet; stages run here.
         Owns per level the convolutions and norms above, with min(512, D_s) channels in the middle, trained.
Weight:  5, rising linearly over 20 epochs; the authors set 0.6 to 8 per CIFAR-100 pair. On ImageNet 1 (ResNet-50 to
         MobileNet: 8) without warmup. Their protocol differs from the CRD tables': the teacher is never in eval mode
         there. Here it always is.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.types import Batch, DataInfo, Features, Shapes
from methods.base import Distiller, register, same_stages

MAX_CHANNELS = 512  # of the fused maps
POOLED = (4, 2, 1)  # heights and widths of the pooled maps that are compared, too


class Fusion(nn.Module):
    """One level: joins the student's map with the one that comes from below, and maps the result to the teacher's."""

    def __init__(self, student_channels: int, channels: int, teacher_channels: int, deepest: bool) -> None:
        super().__init__()
        inward = nn.Conv2d(student_channels, channels, 1, bias=False)
        outward = nn.Conv2d(channels, teacher_channels, 3, padding=1, bias=False)
        self.inward = nn.Sequential(inward, nn.BatchNorm2d(channels))
        self.outward = nn.Sequential(outward, nn.BatchNorm2d(teacher_channels))
        self.attention = None if deepest else nn.Sequential(nn.Conv2d(2 * channels, 2, 1), nn.Sigmoid())
        for convolution in (inward, outward):
            nn.init.kaiming_uniform_(convolution.weight, a=1)

    def forward(self, student: Tensor, below: Tensor | None, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Return the map to compare (B, C_t, *size) and the fused one (B, C, *size), of maps (B, C_s, H, W)."""
        fused = self.inward(student)
        if self.attention is not None:
            assert below is not None  # only the deepest level has nothing below
            below = resized(below, (fused.shape[2], fused.shape[3]))
            own, other = self.attention(torch.cat([fused, below], dim=1)).split(1, dim=1)
            fused = own * fused + other * below
        fused = resized(fused, size)
        return self.outward(fused), fused


def resized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Return maps (B, C, H, W) in another size (height, width), by nearest neighbours."""
    return maps if maps.shape[2:] == size else F.interpolate(maps, size, mode="nearest")


def pyramid_loss(maps: Tensor, wanted: Tensor) -> Tensor:
    """Return the weighted mean of squared errors of maps (B, C, H, W), in full size and pooled: scalar."""
    total, weights = F.mse_loss(maps, wanted), 1.0
    sizes = [k for k in POOLED if k < wanted.shape[2]]
    for halvings, k in enumerate(sizes, start=1):
        error = F.mse_loss(F.adaptive_avg_pool2d(maps, k), F.adaptive_avg_pool2d(wanted, k))
        total = total + 0.5**halvings * error
        weights += 0.5**halvings
    return total / weights


@register("reviewkd", weight=5.0, warmup=20)
class ReviewKD(Distiller):
    needs_preactivations = True
    autocast = True

    def __init__(self, student: Shapes, teacher: Shapes, data: DataInfo) -> None:
        super().__init__(student, teacher, data)
        channels = min(MAX_CHANNELS, student.embedding)
        own = [*(c for c, _, _ in student.stages[1:]), student.embedding]
        others = [*(c for c, _, _ in teacher.preactivations[1:]), teacher.embedding]
        sides = enumerate(zip(own, others, strict=True), start=1)
        self.levels = nn.ModuleList(Fusion(s, channels, t, deepest=level == len(own)) for level, (s, t) in sides)
        self.observes = tuple(f"level{level}" for level in range(1, len(own) + 1))  # type: ignore[misc]

    def loss(self, student: Features, teacher: Features, batch: Batch) -> Tensor:
        """Return the unweighted term: per level a mean over all entries, summed over levels."""
        deepest_first = torch.stack([*self.level_losses(student, teacher)])
        self.record(*deepest_first.flip(0))
        return deepest_first.sum()

    def level_losses(self, student: Features, teacher: Features) -> Iterator[Tensor]:
        """Yield each level's loss, the deepest first."""
        own = [*student.stages[1:], student.embedding[:, :, None, None]]
        others = [*teacher.preactivations[1:], teacher.embedding[:, :, None, None]]
        fused = None
        for level, s, t in reversed([*zip(self.levels, own, others, strict=True)]):
            compared, fused = level(s, fused, (t.shape[2], t.shape[3]))
            yield pyramid_loss(compared, t)

    @classmethod
    def inapplicable(cls, student: Shapes, teacher: Shapes) -> str | None:
        """Return a reason if stages do not pair up, or the teacher gives no pre-activations."""
        if len(teacher.preactivations) != len(teacher.stages):
            return f"{teacher.network} gives no pre-activations, which ReviewKD reads"
        return same_stages(student, teacher)
