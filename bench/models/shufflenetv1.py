"""ShuffleNet for small images: a 1x1 stem without stride.

Paper:  Zhang, Zhou, Lin and Sun, ShuffleNet: An Extremely Efficient Convolutional Neural Network for Mobile
        Devices, CVPR 2018, table 1 with 3 groups.
Stages: the stem after its ReLU, then each of three groups of units.
Differs in: a ReLU follows the depthwise norm, too; a unit whose input is concatenated has (out - in) / 4 hidden
channels, a quarter of what its convolutions output. Both are as in the published checkpoints.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.models.parts import StagedNetwork, group, shuffle

STEM = 24
GROUPS = 3
WIDTHS = (240, 480, 960)
UNITS = (4, 8, 4)


class Unit(nn.Module):
    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        own = channels if stride == 1 else channels - in_channels  # the other channels are the pooled input
        hidden = own // 4
        self.groups = 1 if in_channels == STEM else GROUPS  # the stem is too narrow to be grouped
        self.conv1 = nn.Conv2d(in_channels, hidden, 1, groups=self.groups, bias=False)
        self.bn1 = nn.BatchNorm2d(hidden)
        self.conv2 = nn.Conv2d(hidden, hidden, 3, stride, padding=1, groups=hidden, bias=False)
        self.bn2 = nn.BatchNorm2d(hidden)
        self.conv3 = nn.Conv2d(hidden, own, 1, groups=GROUPS, bias=False)
        self.bn3 = nn.BatchNorm2d(own)

    def forward(self, x: Tensor) -> Tensor:
        """Return the unit's output before its last ReLU: (B, channels, H / stride, W / stride) of (B, C, H, W)."""
        hidden = shuffle(F.relu(self.bn1(self.conv1(x))), self.groups)
        hidden = F.relu(self.bn2(self.conv2(hidden)))
        own = self.bn3(self.conv3(hidden))
        if self.stride == 1:
            return own + x
        return torch.cat([own, F.avg_pool2d(x, 3, stride=2, padding=1)], dim=1)


class ShuffleNetV1(StagedNetwork):
    """Three groups of units with grouped 1x1 convolutions."""

    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, STEM, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(STEM)
        self.layer1 = group(Unit, STEM, WIDTHS[0], UNITS[0], stride=2)
        self.layer2 = group(Unit, WIDTHS[0], WIDTHS[1], UNITS[1], stride=2)
        self.layer3 = group(Unit, WIDTHS[1], WIDTHS[2], UNITS[2], stride=2)
        self.linear = nn.Linear(WIDTHS[2], num_classes)
