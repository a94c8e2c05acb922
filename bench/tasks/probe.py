"""Linear probe: a linear classifier of a frozen network's embedding or stage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bench.spec import HeadSpec, RunSpec
from bench.tasks.base import Evaluation

if TYPE_CHECKING:
    from bench.models.base import Network
    from bench.models.heads import Frozen
    from bench.types import Shapes


class Probe(Evaluation):
    name = "probe"
    freezes = True
    reads_stages = True

    def prefix(self, several_data: bool, stages: Sequence[int] | None) -> str:
        """Return "embedding", or nothing if data or stages distinguish the columns."""
        return "" if several_data or stages else "embedding"

    def sentence(self, head: HeadSpec) -> str:
        """Return what is trained, for captions."""
        if head.stage is None:
            return "a linear classifier of the frozen embedding"
        return f"a linear classifier of the frozen stage, averaged to at most {head.most_values:,} values"

    def headed(self, network: Network | Frozen, shapes: Shapes, classes: int, head: HeadSpec) -> Network:
        """Return a linear classifier of the frozen network's features."""
        from bench.models.heads import Frozen, Probe

        assert isinstance(network, Frozen)  # `freezes` says so
        return Probe(network, shapes, classes, head.stage, head.most_values)

    def is_published(self, run: RunSpec) -> bool:
        """Return whether it reads the embedding, as the papers' probes do."""
        return run.head is not None and run.head.stage is None
