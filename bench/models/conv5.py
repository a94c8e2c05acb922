"""A five-stage convolutional network for images of any kind: luminance, chrominance, depth.

Paper:  none. The widths are those of torchvision's AlexNet (Krizhevsky, One weird trick for parallelizing
        convolutional neural networks, 2014). Its convolutions are 3x3 with batch norm, and it has one linear layer, not
        three.
Stages: each of five convolutions after norm and ReLU, before the max pool that follows the first three.
"""

from collections.abc import Iterator, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from bench.models.parts import StagedNetwork, draw_convolutions, draw_linear, last_norm

WIDTHS = (64, 192, 384, 256, 256)
POOLED = 3  # a max pool follows each of the first 3 stages


class Conv5(StagedNetwork):
    """Five convolutions and one linear layer."""

    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(before, width, 3, padding=1, bias=False), nn.BatchNorm2d(width))
            for before, width in zip((in_channels, *WIDTHS), WIDTHS, strict=False)
        )
        self.classifier = nn.Linear(WIDTHS[-1], num_classes)
        draw_convolutions(self)
        draw_linear(self.classifier)

    def staged(self, x: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield each block's output after its ReLU and before it."""
        for place, block in enumerate(self.blocks):
            before = block(F.max_pool2d(x, 2) if 1 <= place <= POOLED else x)
            x = F.relu(before)
            yield x, before

    def norms(self) -> Sequence[nn.Module]:
        """Return each block's norm, of all blocks but the first."""
        return [last_norm(block) for block in self.blocks[1:]]
