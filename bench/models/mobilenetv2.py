"""MobileNetV2 at half width, for small images.

Paper:  Sandler, Howard, Zhu, Zhmoginov and Chen, MobileNetV2: Inverted Residuals and Linear Bottlenecks, CVPR 2018.
Stages: the stem after its ReLU, then block groups 1, 2, 4 and 6, whose linear outputs are also the pre-activations.
Differs in: ReLU instead of ReLU6, stride 1 in group 1, and the first block keeps its 1x1 convolution although it does
not expand, as in the published checkpoints.
"""

from collections.abc import Iterator, Sequence

from torch import Tensor, nn

from bench.models.parts import StagedNetwork, draw_convolutions, draw_linear, last_norm

# expansion, channels at full width, repeats, stride of the first block
GROUPS = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
READ = (1, 2, 4, 6)  # the groups whose outputs are stages
EMBEDDING = 1280  # for any width up to 1


def layers(in_channels: int, channels: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """Return a convolution, its norm and a ReLU."""
    convolution = nn.Conv2d(in_channels, channels, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [convolution, nn.BatchNorm2d(channels), nn.ReLU()]


class InvertedResidual(nn.Module):
    def __init__(self, in_channels: int, channels: int, expansion: int, stride: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        self.residual = stride == 1 and in_channels == channels
        depthwise = layers(hidden, hidden, 3, stride, groups=hidden)
        self.conv = nn.Sequential(*layers(in_channels, hidden), *depthwise, *layers(hidden, channels)[:-1])

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, channels, H / stride, W / stride) of (B, C, H, W); values have either sign: no ReLU follows."""
        return x + self.conv(x) if self.residual else self.conv(x)


class MobileNetV2(StagedNetwork):
    """Seven groups of inverted residuals; `width` is a factor of every width except the last convolution's."""

    def __init__(self, num_classes: int, in_channels: int, *, width: float) -> None:
        super().__init__()
        channels = int(32 * width)
        self.conv1 = nn.Sequential(*layers(in_channels, channels, 3, stride=2))
        self.blocks = nn.ModuleList()
        for expansion, full_width, repeats, stride in GROUPS:
            out = int(full_width * width)
            first = InvertedResidual(channels, out, expansion, stride)
            rest = (InvertedResidual(out, out, expansion, stride=1) for _ in range(repeats - 1))
            self.blocks.append(nn.Sequential(first, *rest))
            channels = out
        self.conv2 = nn.Sequential(*layers(channels, EMBEDDING))
        linear = nn.Linear(EMBEDDING, num_classes)
        self.classifier = nn.Sequential(linear)
        draw_convolutions(self)
        draw_linear(linear)

    def staged(self, x: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the stem and the outputs of groups 1, 2, 4 and 6, each of which is its own pre-activation."""
        x = self.conv1(x)
        yield x, x
        for place, group in enumerate(self.blocks):
            x = group(x)
            if place in READ:
                yield x, x

    def final_map(self, stage: Tensor, preactivation: Tensor) -> Tensor:
        """Return the last stage, widened by the last convolution: (B, D, H, W)."""
        return self.conv2(stage)

    def norms(self) -> Sequence[nn.Module]:
        """Return the last norms of the four groups; what a block adds to its norm's output is left aside."""
        return [last_norm(self.blocks[place]) for place in READ]
