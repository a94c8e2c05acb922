"""Mutual learning: a lane of two networks that train together, each the other's teacher.

Paper: Zhang, Xiang, Hospedales and Lu, Deep Mutual Learning, CVPR 2018. There the two take their steps in turn, with
the first one's new predictions for the second; here both step from what the same weights give for a batch.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from bench.models.base import Network
from bench.spec import PEER, STUDENT, column
from bench.train.group import Group
from bench.train.lane import Lane, ignore
from bench.types import Batch, Features


@dataclass
class MutualLane(Lane):
    """A lane whose student listens to its peer, and the peer to the student; clock and rows are of both.

    Attributes:
        peer: the peer's lane; it has a schedule, terms, an optimizer and a meter of its own.
    """

    peer: Lane = field(kw_only=True)

    @property
    def networks(self) -> dict[str, Network]:
        """Return both networks by name."""
        return {**super().networks, PEER: self.peer.student}

    @property
    def teachers(self) -> set[str]:
        """Return no one: nobody else's features are read."""
        return set()

    def join(self, group: Group) -> None:
        """Let other processes train both networks too."""
        super().join(group)
        self.peer.join(group)

    def advance(self) -> None:
        """Move both clocks one epoch on."""
        super().advance()
        self.peer.advance()

    def begin_epoch(self) -> None:
        """Make both networks ready for an epoch."""
        super().begin_epoch()
        self.peer.begin_epoch()

    def step(
        self, batch: Batch, teachers: Mapping[str, Features], number: int, mark: Callable[[str], object] = ignore
    ) -> None:
        """Train both networks on one batch, each with the other's outputs of this step, through which nothing flows.

        Args:
            batch: of B samples.
            teachers: not read.
            number: the step within the epoch, from 0.
            mark: is told the name of each phase that has ended, of both networks.
        """
        self._seed(number)
        sides = (self, self.peer)
        own, peers = [side._student_features(batch) for side in sides]
        assert own is not None  # there is no initial stage, so both train
        assert peers is not None
        mark("student")
        losses = [
            self._losses(own, batch, {PEER: detached(peers)}),
            self.peer._losses(peers, batch, {STUDENT: detached(own)}),
        ]
        mark("term")
        for side, (loss, _) in zip(sides, losses, strict=True):
            side._backward(loss)
        mark("backward")
        for side, (loss, parts) in zip(sides, losses, strict=True):
            side._update([loss, *parts], len(batch.images))
            side.trained = number + 1
        mark("optimizer")

    def read(self) -> dict[str, float]:
        """Return both networks' means of the epoch so far."""
        return super().read() | {column(PEER, name): value for name, value in self.peer.read().items()}

    def check_finite(self) -> None:
        """Let the lane leave as diverged if a loss or a parameter of either network is not finite."""
        super().check_finite()
        self.peer.check_finite()
        self.failure = self.failure or self.peer.failure

    def _state(self) -> dict[str, Any]:
        return super()._state() | {PEER: self.peer._state()}

    def _load(self, state: Mapping[str, Any]) -> None:
        super()._load(state)
        self.peer._load(state[PEER])


def detached(features: Features) -> Features:
    """Return features through which no gradient flows back."""
    return Features(
        stages=tuple(stage.detach() for stage in features.stages),
        preactivations=tuple(stage.detach() for stage in features.preactivations),
        embedding=features.embedding.detach(),
        logits=features.logits.detach(),
    )
