"""Segmentation: all weights of a trained network, with a new head that scores every pixel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bench.spec import HeadSpec
from bench.tasks.base import Evaluation
from bench.tasks.objectives import PIXEL_CLASSIFICATION

if TYPE_CHECKING:
    from bench.models.base import Network
    from bench.models.heads import Frozen
    from bench.types import Shapes


class Segmentation(Evaluation):
    name = "segmentation"
    objective = PIXEL_CLASSIFICATION

    def prefix(self, several_data: bool, stages: Sequence[int] | None) -> str:
        """Return nothing: the metrics' names show that they are of pixels."""
        return ""

    def sentence(self, head: HeadSpec) -> str:
        """Return what is trained, for captions."""
        return "all weights and a new head that scores every pixel"

    def headed(self, network: Network | Frozen, shapes: Shapes, classes: int, head: HeadSpec) -> Network:
        """Return the network with a head that scores every pixel."""
        from bench.models.heads import Frozen, Segmenter

        assert not isinstance(network, Frozen)  # all of it trains
        return Segmenter(network, shapes, classes)
