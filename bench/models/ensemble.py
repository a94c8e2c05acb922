"""Several networks as one, which predicts with the mean of their probabilities."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bench.models.base import Network


class Ensemble(Network):
    """Networks whose probabilities are averaged; an ensemble has no features."""

    def __init__(self, members: Sequence[Network]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, K) of images (B, C, H, W): the logarithm of the members' mean softmax."""
        return torch.stack([member(x).softmax(dim=1) for member in self.members]).mean(dim=0).log()
