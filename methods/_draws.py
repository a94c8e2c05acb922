"""Random numbers that are the same on every device: torch's own differ between CPUs and GPUs, for equal seeds.

Source: SplitMix64 (Steele, Lea and Flood, Fast Splittable Pseudorandom Number Generators, OOPSLA 2014), whose i-th
number is a function of the seed and of i, so that all numbers are computed at once.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

STEP = 0x9E3779B97F4A7C15 - 2**64  # between two states; as signed 64-bit integers, whose products wrap
ROUNDS = ((30, 0xBF58476D1CE4E5B9 - 2**64), (27, 0x94D049BB133111EB - 2**64))  # each a shift and a factor
LAST_SHIFT = 31
LARGEST = 2**63 - 1
MAX_SEEDS = 64  # of a captured step


@dataclass
class Places:
    """Places in a GPU's memory for the seeds of a step that is captured as a CUDA graph: int64, no dimension."""

    free: list[Tensor]
    used: list[Tensor] = field(default_factory=list)  # in the order of the draws


_places: Places | None = None


def new_seed() -> int | Tensor:
    """Return a seed, drawn from torch's default generator: the CPU's, so that no accelerator is waited for.

    A step that is captured reads its seeds from a GPU's memory, where `draw_again` writes those of later steps.
    """
    if _places is None:
        return int(torch.randint(-(2**63), LARGEST, ()))
    _places.used.append(_places.free.pop())
    return _places.used[-1]


@contextmanager
def keep_seeds(device: torch.device) -> Iterator[list[Tensor]]:
    """Give each seed that is drawn in the context a place in a GPU's memory, and add it to the yielded list.

    Enter the context before the capture: in memory that belongs to a graph, its earlier kernels may write.
    """
    global _places
    _places = Places(list(torch.zeros(MAX_SEEDS, dtype=torch.int64, device=device).unbind()))
    try:
        yield _places.used
    finally:
        _places = None


def draw_again(seeds: Sequence[Tensor]) -> None:
    """Set collected seeds to newly drawn values, in the order in which they were drawn."""
    for seed in seeds:
        seed.fill_(new_seed())


def numbers(seed: int | Tensor, shape: tuple[int, ...], device: torch.device, first: int = 0) -> Tensor:
    """Return uniform integers from 0 to 2^63 - 1, of int64; `first` of the seed's numbers are left out."""
    return splitmix64(seed, first, math.prod(shape), device).bitwise_and_(LARGEST).view(shape)


def splitmix64(seed: int | Tensor, first: int, n: int, device: torch.device) -> Tensor:
    """Return n numbers of SplitMix64 after the first ones, (n,), as signed 64-bit integers."""
    state = torch.arange(first + 1, first + n + 1, device=device).mul_(STEP).add_(seed)
    for shift, factor in ROUNDS:
        state = _mixed(state, shift).mul_(factor)
    return _mixed(state, LAST_SHIFT)


def _mixed(state: Tensor, shift: int) -> Tensor:
    """Return state XOR (state >> shift), in place; the shift fills in zeros, while torch's repeats the sign."""
    return state.bitwise_xor_((state >> shift).bitwise_and_(2 ** (64 - shift) - 1))
