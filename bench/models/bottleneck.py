"""ResNet50 for small images.

Paper:  He, Zhang, Ren and Sun, Deep Residual Learning for Image Recognition, CVPR 2016, table 1.
Stages: the stem after its ReLU, then each of four groups.
Differs in: a 3x3 stem without stride or max pool, and the stride is in a block's 3x3 convolution.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from bench.models.parts import ReluGroup, StagedNetwork, draw_convolutions

EXPANSION = 4  # a block's output has 4 times as many channels as its 3x3 convolution


class Bottleneck(nn.Module):
    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        channels = EXPANSION * width
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels)
        self.shortcut = nn.Sequential()  # the identity
        if stride != 1 or in_channels != channels:
            self.shortcut.append(nn.Conv2d(in_channels, channels, 1, stride, bias=False))
            self.shortcut.append(nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output before its last ReLU: (B, 4 * width, H / stride, W / stride) of (B, C, H, W)."""
        hidden = F.relu(self.bn1(self.conv1(x)))
        hidden = F.relu(self.bn2(self.conv2(hidden)))
        return self.bn3(self.conv3(hidden)) + self.shortcut(x)


def group(in_channels: int, width: int, blocks: int, stride: int) -> ReluGroup:
    """Return `blocks` bottlenecks, the first of which changes width and size."""
    first = Bottleneck(in_channels, width, stride)
    return ReluGroup(first, *(Bottleneck(EXPANSION * width, width, 1) for _ in range(blocks - 1)))


class BottleneckResNet(StagedNetwork):
    """A residual network of four groups with 3, 4, 6 and 3 bottlenecks."""

    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 64, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = group(64, 64, 3, stride=1)
        self.layer2 = group(256, 128, 4, stride=2)
        self.layer3 = group(512, 256, 6, stride=2)
        self.layer4 = group(1024, 512, 3, stride=2)
        self.linear = nn.Linear(2048, num_classes)
        draw_convolutions(self)

    def trunk(self) -> Sequence[nn.Module]:
        """Return the stem and the four groups."""
        return self.conv1, self.bn1, self.layer1, self.layer2, self.layer3, self.layer4
