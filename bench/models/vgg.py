"""VGG networks with batch norm, for small images: one linear layer instead of three.

Paper:  Simonyan and Zisserman, Very Deep Convolutional Networks for Large-Scale Image Recognition, ICLR 2015.
Stages: each of five blocks after its last ReLU, before the max pool that follows.
"""

from collections.abc import Iterator, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from bench.models.parts import StagedNetwork, draw_convolutions, draw_linear, last_norm

WIDTHS = (64, 128, 256, 512, 512)


def block(in_channels: int, channels: int, convolutions: int) -> nn.Sequential:
    """Return 3x3 convolutions, each with norm and ReLU, except the last ReLU, which `features` applies."""
    layers: list[nn.Module] = []
    for _ in range(convolutions):
        layers += [nn.Conv2d(in_channels, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU()]
        in_channels = channels
    return nn.Sequential(*layers[:-1])


class VGG(StagedNetwork):
    """Five blocks, with `convolutions` convolutions each."""

    def __init__(self, num_classes: int, in_channels: int, *, convolutions: Sequence[int]) -> None:
        super().__init__()
        for i, width in enumerate(WIDTHS):
            self.add_module(f"block{i}", block(in_channels, width, convolutions[i]))
            in_channels = width
        self.classifier = nn.Linear(WIDTHS[4], num_classes)
        draw_convolutions(self)
        draw_linear(self.classifier)

    def staged(self, x: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield each block's output after its last ReLU and before it; the first one's is its own pre-activation."""
        # A fourth pool for height 64 only, as in the published results on STL-10 and TinyImageNet.
        pools = 4 if x.shape[2] == 64 else 3
        for place, block in enumerate(self.trunk()):
            before = block(F.max_pool2d(x, 2) if 1 <= place <= pools else x)
            x = F.relu(before)
            yield x, before if place else x

    def norms(self) -> Sequence[nn.Module]:
        """Return each block's last norm, of all blocks but the first."""
        _, *blocks = self.trunk()
        return [last_norm(block) for block in blocks]
