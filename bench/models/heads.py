"""New heads on trained networks, which evaluate the representations that the networks have learned.

A linear probe reads a frozen network's embedding or one of its stages; fine-tuning trains the network and a linear
head together; segmentation trains the network and a head that scores every pixel.
"""

import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.models.base import Network
from bench.models.parts import draw_linear
from bench.types import Features, Shapes

SCORED_STAGES = 3  # a segmentation head reads the last three stages, as FCN-8s does


class Frozen:
    """A trained network that never changes; all probes that read it for one batch share a forward pass."""

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
    """A linear classifier on the features of a frozen network; only the classifier trains and is stored.

    Args:
        frozen: the network.
        shapes: the shapes of its features.
        num_classes: number of logits.
        stage: the stage whose maps are read, the stem being 0; None to read the embedding.
        most_values: a stage's maps are averaged over the finest grid that gives at most this many values.
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
            self.grid = pooled_size(maps, most_values or math.prod(maps))
            width = maps[0] * math.prod(self.grid)
        self.classifier = nn.Linear(width, num_classes)
        draw_linear(self.classifier)

    def features(self, x: Tensor, preactivations: bool = False) -> Features:
        """Return the frozen network's features of images (B, C, H, W), with the probe's input and logits (B, K)."""
        features = self.frozen.features(x)
        values = features.embedding
        if self.stage is not None:
            values = F.adaptive_avg_pool2d(features.stages[self.stage], self.grid).flatten(1)
        return replace(features, embedding=values, logits=self.classifier(values))


def pooled_size(stage: tuple[int, int, int], most_values: int) -> tuple[int, int]:
    """Return the grid (height, width) to which maps (C, H, W) are averaged: C * height * width <= `most_values`.

    The grid is square unless a side of the maps is shorter. It has at least one cell, whatever `most_values` is.
    """
    channels, height, width = stage
    side = max(1, math.isqrt(most_values // channels))
    return min(side, height), min(side, width)


class FineTuned(Network):
    """A network that continues to train, with a new linear classifier on its embedding.

    The backbone's own classifier does not contribute to the logits and keeps its weights.
    """

    def __init__(self, backbone: Network, shapes: Shapes, num_classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.classifier = nn.Linear(shapes.embedding, num_classes)
        draw_linear(self.classifier)

    def features(self, x: Tensor, preactivations: bool = False) -> Features:
        """Return the network's features of images (B, C, H, W), with the new classifier's logits (B, K)."""
        features = self.backbone.features(x, preactivations)
        return replace(features, logits=self.classifier(features.embedding))


class Segmenter(Network):
    """A network that continues to train, with a head that scores every pixel: a small FCN-8s.

    A 1x1 convolution scores each of the last three stages; the scores are upsampled to the image's size and added.
    The backbone's own classifier does not contribute to the logits and keeps its weights.
    Paper: Long, Shelhamer and Darrell, Fully Convolutional Networks for Semantic Segmentation, CVPR 2015.
    """

    def __init__(self, backbone: Network, shapes: Shapes, num_classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.scores = nn.ModuleList(
            nn.Conv2d(channels, num_classes, 1) for channels, _, _ in shapes.stages[-SCORED_STAGES:]
        )

    def features(self, x: Tensor, preactivations: bool = False) -> Features:
        """Return the network's features of images (B, C, H, W), with logits (B, K, H, W)."""
        features = self.backbone.features(x, preactivations)
        scored = zip(self.scores, features.stages[-SCORED_STAGES:], strict=True)
        enlarged = [F.interpolate(score(stage), x.shape[-2:], mode="bilinear") for score, stage in scored]
        return replace(features, logits=torch.stack(enlarged).sum(dim=0))
