"""Linear probe: a linear classifier of a frozen network's embedding or stage."""

from collections.abc import Sequence
from typing import Any

from bench.spec import HeadSpec, RunSpec
from bench.tasks.base import Evaluation


class LinearProbe(Evaluation):
    name = "probe"
    head_class = "Probe"
    what_trains = "a linear classifier of the frozen embedding"
    freezes = True
    reads_stages = True

    def prefix(self, several_data: bool, stages: Sequence[int] | None) -> str:
        """Return "embedding", or nothing if data or stages distinguish the columns."""
        return "" if several_data or stages else "embedding"

    def sentence(self, head: HeadSpec) -> str:
        """Return what is trained, for captions."""
        if head.stage is None:
            return self.what_trains
        stage = f"the frozen stage, averaged to at most {head.most_values:,} values"
        return self.what_trains.replace("the frozen embedding", stage)

    def head_options(self, head: HeadSpec) -> dict[str, Any]:
        """Return what the probe reads."""
        return {"stage": head.stage, "most_values": head.most_values}

    def is_published(self, run: RunSpec) -> bool:
        """Return whether it reads the embedding, as the papers' probes do."""
        return run.head is not None and run.head.stage is None
