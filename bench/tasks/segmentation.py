"""Segmentation: all weights of a trained network, with a new head that scores every pixel."""

from collections.abc import Sequence

from bench.tasks.base import Evaluation
from bench.tasks.objectives import PIXEL_CLASSIFICATION


class Segmentation(Evaluation):
    name = "segmentation"
    objective = PIXEL_CLASSIFICATION
    head_class = "Segmenter"
    what_trains = "all weights and a new head that scores every pixel"

    def prefix(self, several_data: bool, stages: Sequence[int] | None) -> str:
        """Return nothing: the metrics' names show that they are of pixels."""
        return ""
