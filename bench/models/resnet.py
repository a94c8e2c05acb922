"""ResNets for small images: of 6n + 2 layers, the wider `x4` variants of the distillation tables, and ResNet50.

Paper:  He, Zhang, Ren and Sun, Deep Residual Learning for Image Recognition, CVPR 2016: section 4.2; ResNet50, table 1.
Stages: the stem after its ReLU, then each of three groups (ResNet50: four).
Differs in: 1x1 convolutions as shortcuts where shapes change, not zero-padding, as in the published checkpoints.
ResNet50 has a 3x3 stem without stride or max pool, and the stride is in a block's 3x3 convolution.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from bench.models.parts import StagedNetwork, draw_convolutions, group, projection


class BasicBlock(nn.Module):
    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = projection(in_channels, channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output before its last ReLU: (B, channels, H / stride, W / stride) of (B, C, H, W)."""
        hidden = F.relu(self.bn1(self.conv1(x)))
        return self.bn2(self.conv2(hidden)) + self.downsample(x)


class ResNet(StagedNetwork):
    """A residual network of 6n + 2 layers: n blocks in each of three groups; `widths` are those of stem and groups."""

    def __init__(self, num_classes: int, in_channels: int, *, depth: int, widths: Sequence[int]) -> None:
        super().__init__()
        blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(in_channels, widths[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.layer1 = group(BasicBlock, widths[0], widths[1], blocks, stride=1)
        self.layer2 = group(BasicBlock, widths[1], widths[2], blocks, stride=2)
        self.layer3 = group(BasicBlock, widths[2], widths[3], blocks, stride=2)
        self.fc = nn.Linear(widths[3], num_classes)
        draw_convolutions(self)

    def norms(self) -> Sequence[nn.Module]:
        """Return each group's last norm; the shortcut that is added to its output is left aside."""
        return [layer[-1].get_submodule("bn2") for layer in (self.layer1, self.layer2, self.layer3)]


class Bottleneck(nn.Module):
    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        width = channels // 4
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels)
        self.shortcut = projection(in_channels, channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output before its last ReLU: (B, channels, H / stride, W / stride) of (B, C, H, W)."""
        hidden = F.relu(self.bn1(self.conv1(x)))
        hidden = F.relu(self.bn2(self.conv2(hidden)))
        return self.bn3(self.conv3(hidden)) + self.shortcut(x)


class ResNet50(StagedNetwork):
    """A residual network of four groups with 3, 4, 6 and 3 bottlenecks."""

    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 64, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = group(Bottleneck, 64, 256, 3, stride=1)
        self.layer2 = group(Bottleneck, 256, 512, 4, stride=2)
        self.layer3 = group(Bottleneck, 512, 1024, 6, stride=2)
        self.layer4 = group(Bottleneck, 1024, 2048, 3, stride=2)
        self.linear = nn.Linear(2048, num_classes)
        draw_convolutions(self)

    def norms(self) -> Sequence[nn.Module]:
        """Return each group's last norm; the shortcut that is added to its output is left aside."""
        return [layer[-1].get_submodule("bn3") for layer in (self.layer1, self.layer2, self.layer3, self.layer4)]
