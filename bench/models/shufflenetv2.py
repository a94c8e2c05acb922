"""ShuffleNetV2 (x1) for small images: a 1x1 stem without stride.

Paper:  Ma, Zhang, Zheng and Sun, ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture Design, ECCV 2018.
Stages: the stem after its ReLU, then each of three groups, shuffled; the last 1x1 convolution comes after them.
Pre-activations: the last unit's two halves before its ReLU, not shuffled.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.models.parts import ReluGroup, StagedNetwork, shuffle

STEM = 24
WIDTHS = (116, 232, 464)
UNITS = (4, 8, 4)  # the first of each group halves the size
EMBEDDING = 1024


class BasicUnit(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.conv1 = nn.Conv2d(half, half, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(half)
        self.conv2 = nn.Conv2d(half, half, 3, padding=1, groups=half, bias=False)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = nn.Conv2d(half, half, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(half)

    def forward(self, x: Tensor) -> Tensor:
        """Return the unchanged half and the other one before its last ReLU, same shape as `x` (B, C, H, W)."""
        passed, hidden = x.chunk(2, dim=1)
        hidden = F.relu(self.bn1(self.conv1(hidden)))
        hidden = self.bn2(self.conv2(hidden))
        return torch.cat([passed, self.bn3(self.conv3(hidden))], dim=1)


class DownUnit(nn.Module):
    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.conv1 = nn.Conv2d(in_channels, in_channels, 3, stride=2, padding=1, groups=in_channels, bias=False)
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv2 = nn.Conv2d(in_channels, half, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = nn.Conv2d(in_channels, half, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(half)
        self.conv4 = nn.Conv2d(half, half, 3, stride=2, padding=1, groups=half, bias=False)
        self.bn4 = nn.BatchNorm2d(half)
        self.conv5 = nn.Conv2d(half, half, 1, bias=False)
        self.bn5 = nn.BatchNorm2d(half)

    def forward(self, x: Tensor) -> Tensor:
        """Return both branches, concatenated, before their last ReLU: (B, channels, H / 2, W / 2) of (B, C, H, W)."""
        left = self.bn2(self.conv2(self.bn1(self.conv1(x))))
        right = F.relu(self.bn3(self.conv3(x)))
        right = self.bn5(self.conv5(self.bn4(self.conv4(right))))
        return torch.cat([left, right], dim=1)


class ShuffledGroup(ReluGroup):
    def activate(self, before: Tensor) -> Tensor:
        """Return both halves after ReLU, shuffled, same shape; ReLU does not change the passed half, which is >= 0."""
        return shuffle(F.relu(before), 2)


def group(in_channels: int, channels: int, units: int) -> ShuffledGroup:
    """Return `units` units, the first of which halves the size."""
    return ShuffledGroup(DownUnit(in_channels, channels), *(BasicUnit(channels) for _ in range(units - 1)))


class ShuffleNetV2(StagedNetwork):
    """Three groups of units that split and shuffle their channels."""

    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, STEM, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(STEM)
        self.layer1 = group(STEM, WIDTHS[0], UNITS[0])
        self.layer2 = group(WIDTHS[0], WIDTHS[1], UNITS[1])
        self.layer3 = group(WIDTHS[1], WIDTHS[2], UNITS[2])
        self.conv2 = nn.Conv2d(WIDTHS[2], EMBEDDING, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(EMBEDDING)
        self.linear = nn.Linear(EMBEDDING, num_classes)

    def final_map(self, stage: Tensor, preactivation: Tensor) -> Tensor:
        """Return the last stage, widened by the last convolution: (B, D, H, W)."""
        return F.relu(self.bn2(self.conv2(stage)))
