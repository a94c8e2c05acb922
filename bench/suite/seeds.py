"""The key `seeds` of a suite file. Imports no torch."""

from typing import Annotated

from annotated_types import Ge, Le, Len, Lt
from pydantic import AfterValidator, NonNegativeInt

from bench.schedule import Strict
from bench.suite.pairs import repeated

MAX_SEEDS = 1_000


def _distinct(numbers: tuple[int, ...]) -> tuple[int, ...]:
    if twice := repeated(numbers):
        raise ValueError(f"the same number twice: {', '.join(map(str, twice))}")
    return numbers


Numbers = Annotated[tuple[Annotated[NonNegativeInt, Lt(2**32)], ...], Len(1, MAX_SEEDS), AfterValidator(_distinct)]
Seeds = Annotated[int, Ge(1), Le(MAX_SEEDS)] | Numbers


def listed_seeds(seeds: int | tuple[int, ...], first: int = 1) -> tuple[int, ...]:
    """Return the seeds that are listed or, for a number of seeds, as many seeds from `first` on."""
    return seeds if isinstance(seeds, tuple) else tuple(range(first, first + seeds))


class CrossedSeeds(Strict):
    """Seeds by source of chance: each row has one run for every combination of them."""

    init: Seeds = 1
    """Seeds of initial weights: the number of them (1 to n), or a list."""
    order: Seeds = 1
    """Seeds of batch order, augmentation and what methods draw: the number of them (1 to n), or a list."""
    teacher: Seeds | None = None
    """Seeds of teachers: the number of them (0 to n - 1), or a list. Default: one teacher, with seed 0."""
