"""A meter: the means of an epoch's losses and hits over its samples, summed on the device."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


class Meter:
    """Sums over an epoch's samples, kept on the device: reading them is the only synchronisation of an epoch."""

    def __init__(self, names: Sequence[str], device: torch.device) -> None:
        self.names = names
        self.samples = 0
        self.sums = torch.zeros(len(names), dtype=torch.float64, device=device)

    def reset(self) -> None:
        """Set all sums to zero."""
        self.sums.zero_()
        self.samples = 0

    def add(self, means: Tensor, samples: int) -> None:
        """Add a batch's means, float64 in the order of the names."""
        self.sums += means * samples
        self.samples += samples

    def read(self) -> dict[str, float]:
        """Return the means over all samples."""
        means = self.sums / max(self.samples, 1)
        return dict(zip(self.names, means.tolist(), strict=True))

    def state(self) -> dict[str, Any]:
        """Return the state that `restored` takes."""
        return {"names": list(self.names), "samples": self.samples, "sums": self.sums}

    @classmethod
    def restored(cls, state: Mapping[str, Any], device: torch.device) -> "Meter":
        """Return a meter with a saved state."""
        meter = cls(state["names"], device)
        meter.sums, meter.samples = state["sums"].to(device), state["samples"]
        return meter
