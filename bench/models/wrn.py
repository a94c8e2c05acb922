"""Wide residual networks wrn_d_k: d layers, k times the width.

Paper:  Zagoruyko and Komodakis, Wide Residual Networks, BMVC 2016.
Stages: the stem's convolution, then each of three groups: raw sums, without norm or ReLU.
Pre-activations: each group's output after the norm that follows it, which is the next group's first or the final one.
"""

from collections.abc import Iterator, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from bench.models.parts import StagedNetwork, draw_convolutions


class WideBlock(nn.Module):
    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        if in_channels != channels:
            self.convShortcut = nn.Conv2d(in_channels, channels, 1, stride, bias=False)  # named as in the checkpoints

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the block's output (B, channels, H / stride, W / stride), and its input (B, C, H, W) normalised."""
        normed = self.bn1(x)
        active = F.relu(normed)
        residual = self.conv2(F.relu(self.bn2(self.conv1(active))))
        shortcut = self.convShortcut(active) if hasattr(self, "convShortcut") else x
        return residual + shortcut, normed


class WideGroup(nn.Module):
    def __init__(self, in_channels: int, channels: int, blocks: int, stride: int) -> None:
        super().__init__()
        first = WideBlock(in_channels, channels, stride)
        self.layer = nn.ModuleList([first, *(WideBlock(channels, channels, 1) for _ in range(blocks - 1))])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the group's output (B, channels, H / stride, W / stride), and its input (B, C, H, W) normalised."""
        x, normed_input = self.layer[0](x)
        for block in self.layer[1:]:
            x, _ = block(x)
        return x, normed_input


class WideResNet(StagedNetwork):
    """A wide residual network of 6n + 4 layers: n blocks in each of three groups, of 16 k, 32 k and 64 k channels."""

    def __init__(self, num_classes: int, in_channels: int, *, depth: int, widen: int) -> None:
        super().__init__()
        blocks = (depth - 4) // 6
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.block1 = WideGroup(16, 16 * widen, blocks, stride=1)
        self.block2 = WideGroup(16 * widen, 32 * widen, blocks, stride=2)
        self.block3 = WideGroup(32 * widen, 64 * widen, blocks, stride=2)
        self.bn1 = nn.BatchNorm2d(64 * widen)
        self.fc = nn.Linear(64 * widen, num_classes)
        draw_convolutions(self)
        nn.init.zeros_(self.fc.bias)

    def staged(self, x: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the stem, which is its own pre-activation, then each group's output, raw and normalised."""
        stage = self.conv1(x)
        yield stage, stage
        stage, _ = self.block1(stage)
        for group in (self.block2, self.block3):
            following, normed = group(stage)
            yield stage, normed
            stage = following
        yield stage, self.bn1(stage)

    def final_map(self, stage: Tensor, preactivation: Tensor) -> Tensor:
        """Return the last stage (B, D, H, W) after norm and ReLU."""
        return F.relu(preactivation)

    def norms(self) -> Sequence[nn.Module]:
        """Return the norms that follow the three groups."""
        return self.get_submodule("block2.layer.0.bn1"), self.get_submodule("block3.layer.0.bn1"), self.bn1

    def trunk(self) -> Sequence[nn.Module]:
        """Return the stem and the three groups; the final norm comes after the last stage."""
        return self.conv1, self.block1, self.block2, self.block3
