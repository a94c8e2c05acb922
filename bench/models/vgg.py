"""VGG networks with batch norm, for small images: one linear layer instead of three.

Paper:  Simonyan and Zisserman, Very Deep Convolutional Networks for Large-Scale Image Recognition, ICLR 2015.
Stages: each of five blocks after its last ReLU, before the max pool that follows.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from bench.models.base import Network
from bench.models.parts import draw_convolutions, draw_linear, pooled
from bench.types import Features

WIDTHS = (64, 128, 256, 512, 512)


def block(in_channels: int, channels: int, convolutions: int) -> nn.Sequential:
    """Return 3x3 convolutions, each with norm and ReLU, except the last ReLU, which `features` applies."""
    layers: list[nn.Module] = []
    for _ in range(convolutions):
        layers += [nn.Conv2d(in_channels, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU()]
        in_channels = channels
    return nn.Sequential(*layers[:-1])


class VGG(Network):
    """Five blocks of convolutions.

    Args:
        num_classes: K, the number of logits.
        in_channels: channels of the images.
        convolutions: how many each of the five blocks has.
    """

    def __init__(self, num_classes: int, in_channels: int, *, convolutions: Sequence[int]) -> None:
        super().__init__()
        self.block0 = block(in_channels, WIDTHS[0], convolutions[0])
        self.block1 = block(WIDTHS[0], WIDTHS[1], convolutions[1])
        self.block2 = block(WIDTHS[1], WIDTHS[2], convolutions[2])
        self.block3 = block(WIDTHS[2], WIDTHS[3], convolutions[3])
        self.block4 = block(WIDTHS[3], WIDTHS[4], convolutions[4])
        self.classifier = nn.Linear(WIDTHS[4], num_classes)
        draw_convolutions(self)
        draw_linear(self.classifier)

    def features(self, x: Tensor, preactivations: bool = False) -> Features:
        """Return five stages of images (B, C, H, W); at 32x32 they are 32, 16, 8, 4 and 4 wide."""
        before0 = self.block0(x)
        stage0 = F.relu(before0)
        before1 = self.block1(F.max_pool2d(stage0, 2))
        stage1 = F.relu(before1)
        before2 = self.block2(F.max_pool2d(stage1, 2))
        stage2 = F.relu(before2)
        before3 = self.block3(F.max_pool2d(stage2, 2))
        stage3 = F.relu(before3)
        # A fourth pool for height 64 only, as in the published results on STL-10 and TinyImageNet.
        last_input = F.max_pool2d(stage3, 2) if x.shape[2] == 64 else stage3
        before4 = self.block4(last_input)
        stage4 = F.relu(before4)
        embedding = pooled(stage4)
        return Features(
            stages=(stage0, stage1, stage2, stage3, stage4),
            preactivations=(stage0, before1, before2, before3, before4) if preactivations else (),
            embedding=embedding,
            logits=self.classifier(embedding),
        )

    def trunk(self) -> Sequence[nn.Module]:
        """Return the five blocks."""
        return self.block0, self.block1, self.block2, self.block3, self.block4
