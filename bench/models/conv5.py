"""A five-stage convolutional network for images of any kind: luminance, chrominance, depth.

Paper:  none. The widths are those of torchvision's AlexNet (Krizhevsky, One weird trick for parallelizing
        convolutional neural networks, 2014). Its convolutions are 3x3 with batch norm, and it has one linear layer, not
        three.
Stages: each of five convolutions after norm and ReLU, before the max pool that follows the first three.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from bench.models.base import Network
from bench.models.parts import draw_convolutions, draw_linear, pooled
from bench.types import Features

WIDTHS = (64, 192, 384, 256, 256)
POOLED = 3  # a max pool follows each of the first 3 stages


class Conv5(Network):
    """Five convolutions and one linear layer.

    Args:
        num_classes: K, the number of logits.
        in_channels: channels of the images.
    """

    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(before, width, 3, padding=1, bias=False), nn.BatchNorm2d(width))
            for before, width in zip((in_channels, *WIDTHS), WIDTHS, strict=False)
        )
        self.classifier = nn.Linear(WIDTHS[-1], num_classes)
        draw_convolutions(self)
        draw_linear(self.classifier)

    def features(self, x: Tensor, preactivations: bool = False) -> Features:
        """Return five stages of images (B, C, H, W); at 32x32 they are 32, 16, 8, 4 and 4 wide."""
        before, stages = [], []
        for place, block in enumerate(self.blocks):
            before.append(block(x))
            stages.append(F.relu(before[-1]))
            x = F.max_pool2d(stages[-1], 2) if place < POOLED else stages[-1]
        embedding = pooled(x)
        return Features(
            stages=tuple(stages),
            preactivations=tuple(before) if preactivations else (),
            embedding=embedding,
            logits=self.classifier(embedding),
        )

    def trunk(self) -> Sequence[nn.Module]:
        """Return the five blocks."""
        return tuple(self.blocks)
