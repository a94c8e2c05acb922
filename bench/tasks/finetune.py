"""Fine-tuning: all weights of a trained network, with a new linear classifier of its embedding."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.spec import HeadSpec
from bench.tasks.base import Evaluation

if TYPE_CHECKING:
    from bench.models.base import Network
    from bench.models.heads import Frozen
    from bench.types import Shapes


class FineTune(Evaluation):
    name = "finetune"

    def sentence(self, head: HeadSpec) -> str:
        """Return what is trained, for captions."""
        return "all weights and a new linear classifier"

    def headed(self, network: Network | Frozen, shapes: Shapes, classes: int, head: HeadSpec) -> Network:
        """Return the network with a new linear classifier."""
        from bench.models.heads import FineTuned, Frozen

        assert not isinstance(network, Frozen)  # all of it trains
        return FineTuned(network, shapes, classes)
