"""New heads on trained networks: how the representation that a network has learnt is judged.

A linear probe reads a frozen network's embedding or one of its stages; fine-tuning trains the network and a linear
head together; segmentation trains the network and a head that scores every pixel.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.models.base import Network
from bench.models.parts import draw_linear
from bench.types import Features, Shapes

SCORED_STAGES = 3  # a segmentation head reads the last ones, as FCN-8s does


class Frozen:
    """A trained network that is read and never changed; all who read it for one batch share a forward pass."""

    def __init__(self, network: Network) -> None:
        self.network = network.eval().requires_grad_(False)
        self._read: tuple[Tensor, Features] | None = None

    def features(self, x: Tensor) -> Features:
        """Return the features of a batch (B, C, H, W), in eval mode and without gradients."""
        if self._read is None or self._read[0] is not x:
            with torch.no_grad():
                self._read = (x, self.network.features(x))
        return self._read[1]


class Probe(Network):
    """A linear classifier of what a frozen network gives; the classifier alone trains and is stored.

    Args:
        frozen: the network.
        shapes: of its features.
        num_classes: K, the number of logits.
        stage: which stage's maps are read, stem first from 0; the embedding if None.
        most_values: a stage's maps are averaged over a grid of as many cells as give at most so many values.
    """

    def __init__(
        self, frozen: Frozen, shapes: Shapes, num_classes: int, stage: int | None = None, most_values: int | None = None
    ) -> None:
        super().__init__()
        self.frozen = frozen
        self.stage = stage
        width = shapes.embedding
        if stage is not None:
            maps = shapes.stages[stage]
            self.grid = grid(maps, most_values or math.prod(maps))
            width = maps[0] * math.prod(self.grid)
        self.classifier = nn.Linear(width, num_classes)
        draw_linear(self.classifier)

    def features(self, x: Tensor, preactivations: bool = False) -> Features:
        """Return the frozen network's features of images (B, C, H, W), with the probe's input and logits (B, K)."""
        read = self.frozen.features(x)
        values = read.embedding if self.stage is None else pooled(read.stages[self.stage], self.grid)
        return Features(read.stages, (), values, self.classifier(values))


def grid(stage: tuple[int, int, int], most_values: int) -> tuple[int, int]:
    """Return the (height, width) to which maps (C, H, W) are averaged, so that C times both is at most `most_values`.

    The grid is square unless a side of the maps is shorter, and has at least one cell.
    """
    channels, height, width = stage
    side = max(1, math.isqrt(most_values // channels))
    return min(side, height), min(side, width)


def pooled(maps: Tensor, cells: tuple[int, int]) -> Tensor:
    """Return maps (B, C, H, W) averaged over a grid of (height, width) cells, flat: (B, C * height * width)."""
    return F.adaptive_avg_pool2d(maps, cells).flatten(1)


class FineTuned(Network):
    """A network that goes on training, with a new linear classifier of its embedding.

    Args:
        backbone: the network; its own classifier has no part in the logits and keeps its weights.
        shapes: of its features.
        num_classes: K, the number of logits.
    """

    def __init__(self, backbone: Network, shapes: Shapes, num_classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.classifier = nn.Linear(shapes.embedding, num_classes)
        draw_linear(self.classifier)

    def features(self, x: Tensor, preactivations: bool = False) -> Features:
        """Return the network's features of images (B, C, H, W), with the new classifier's logits (B, K)."""
        read = self.backbone.features(x, preactivations)
        return Features(read.stages, read.preactivations, read.embedding, self.classifier(read.embedding))


class Segmenter(Network):
    """A network that goes on training, with a head that scores every pixel: a small FCN-8s.

    Each of the last three stages is scored by a 1x1 convolution; the scores are enlarged to the image and added.
    Paper: Long, Shelhamer and Darrell, Fully Convolutional Networks for Semantic Segmentation, CVPR 2015.

    Args:
        backbone: the network; its own classifier has no part in the logits and keeps its weights.
        shapes: of its features.
        num_classes: K, the number of logits of a pixel.
    """

    def __init__(self, backbone: Network, shapes: Shapes, num_classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.scores = nn.ModuleList(
            nn.Conv2d(channels, num_classes, 1) for channels, _, _ in shapes.stages[-SCORED_STAGES:]
        )

    def features(self, x: Tensor, preactivations: bool = False) -> Features:
        """Return the network's features of images (B, C, H, W), with logits (B, K, H, W)."""
        read = self.backbone.features(x, preactivations)
        scored = zip(self.scores, read.stages[-SCORED_STAGES:], strict=True)
        enlarged = [F.interpolate(score(stage), x.shape[-2:], mode="bilinear") for score, stage in scored]
        logits = torch.stack(enlarged).sum(dim=0)
        return Features(read.stages, read.preactivations, read.embedding, logits)
