"""The model for crossed seeds: intervals of means and differences, and variance components.

Model:      value[i, o, t] = mean + init[i] + order[o] + teacher[t] + residual[i, o, t], all effects random, of one row
            or of the difference of two. Runs that share a seed are not independent of each other.
Components: of a source with L seeds among N runs, (MS_source - MS_residual) L / N, where MS are the mean squares of the
            analysis of variance (Searle, Casella and McCulloch, Variance Components, 1992, chapter 4). An estimate
            below zero says that the source is too small to be seen.
Intervals:  Student's t with the variance sum_source MS_source / N of the mean and Satterthwaite's degrees of freedom
            (Biometrics Bulletin 2, 1946). A source counts if MS_source exceeds `STANDS_OUT` x MS_residual; the others
            are left out. If none counts, one mean square takes the sum's place, pooled from the residual and these
            sources: a preliminary test, as in Paull (Annals of Mathematical Statistics 21, 1950). The sum counts the
            residual once for each of its sources, which makes it too large; to leave out a source that hardly stands
            out makes it too small. A source with two seeds has one degree of freedom: its seeds are taken as given, so
            that the interval holds for them alone. If a single source is left, its seeds' means are a plain sample.
Families:   Holm's correction.

Only reports import this module, since it imports scipy.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from bench.report.correction import holm
from bench.report.inference import EQUAL, LEVEL, MIN_SEEDS, Contrast, student_contrast
from bench.spec import Crossed

SOURCES = Crossed._fields
# A mean square this many times the residual's counts; Paull's rule is twice the median of F. A larger number makes
# intervals too narrow where a source hardly stands out, a smaller one too wide where none does: see docs/statistics.md.
STANDS_OUT = 1.4
SeedT = TypeVar("SeedT", bound=int | Crossed)


@dataclass(frozen=True)
class Components:
    """The analysis of variance of N runs, one for each combination of seeds."""

    n: int
    mean: float
    seeds: Mapping[str, int]  # their number, of each source that has several
    squares: Mapping[str, float]  # the mean square of each of these sources
    residual: float | None  # the mean square of the rest; None if only one source has several seeds

    def variance(self, source: str) -> float | None:
        """Return the variance due to a source, estimated without bias, maybe below zero; None if it has one seed."""
        if source not in self.squares or self.residual is None:
            return self.squares.get(source)  # of a single source, with what would be the residual
        return (self.squares[source] - self.residual) * self.seeds[source] / self.n

    @property
    def sampled(self) -> list[str]:
        """Return the sources with three seeds or more: an interval holds for other seeds of these."""
        return [source for source, seeds in self.seeds.items() if seeds >= MIN_SEEDS]

    def contrast(self) -> Contrast:
        """Return the mean as a contrast; without interval and p if no source has three seeds, or nothing varies."""
        parts = [(square / self.n, df) for square, df in self._counted()]
        variance = sum(part for part, _ in parts)
        if variance < EQUAL**2:
            return Contrast(self.n, self.mean)
        df = variance**2 / sum(part**2 / own_df for part, own_df in parts)
        return student_contrast(self.n, self.mean, math.sqrt(variance), df)

    def _counted(self) -> list[tuple[float, int]]:
        """Return the mean squares whose sum, divided by N, is the variance of the mean, with degrees of freedom."""
        own = [(self.squares[source], self.seeds[source] - 1) for source in self.sampled]
        if self.residual is None or len(own) < 2:
            return own
        standing = [(square, df) for square, df in own if square > STANDS_OUT * self.residual]
        if standing:
            return standing
        residual_df = self.n - 1 - sum(seeds - 1 for seeds in self.seeds.values())
        pooled_df = residual_df + sum(df for _, df in own)
        return [((residual_df * self.residual + sum(square * df for square, df in own)) / pooled_df, pooled_df)]


def components(values: Mapping[Crossed, float]) -> Components | None:
    """Return the analysis of variance of a row's runs; None unless each combination of seeds has a run."""
    levels = [sorted(set(own), key=str) for own in zip(*values, strict=True)]
    if not values or math.prod(map(len, levels)) != len(values):
        return None
    table = np.empty([len(own) for own in levels])
    for seeds, value in values.items():
        table[tuple(own.index(seed) for own, seed in zip(levels, seeds, strict=True))] = value
    n, mean = table.size, float(table.mean())
    left, left_df = float(((table - mean) ** 2).sum()), n - 1
    seeds_of, squares = {}, {}
    for axis, source in enumerate(SOURCES):
        if (count := table.shape[axis]) > 1:
            others = tuple(other for other in range(table.ndim) if other != axis)
            sum_of_squares = float(((table.mean(axis=others) - mean) ** 2).sum()) * n / count
            seeds_of[source], squares[source] = count, sum_of_squares / (count - 1)
            left, left_df = left - sum_of_squares, left_df - (count - 1)
    residual = max(left, 0.0) / left_df if left_df else None
    return Components(n, mean, seeds_of, squares, residual)


def paired(own: Iterable[SeedT], base: Iterable[SeedT]) -> list[tuple[SeedT, SeedT]]:
    """Return the seeds of a row that a reference has too, each with the seed of the reference.

    A row without teachers, such as `none`, has one run for all the teachers of another row.
    """
    known = set(base)
    both = []
    for seed in own:
        other: Any = seed
        if isinstance(seed, Crossed) and seed not in known:
            other = seed._replace(teacher=None)
        if other in known:
            both.append((seed, other))
    return both


@dataclass(frozen=True)
class CrossedModel:
    """The rows of a column whose seeds are crossed; it has the methods of `inference.Model`."""

    values: Mapping[str, Mapping[Crossed, float]]  # by row and seeds

    @property
    def variances(self) -> dict[str, float]:
        """Return the variance of each row's runs, by all sources together."""
        return {row: float(np.var(list(own.values()), ddof=1)) for row, own in self.values.items() if len(own) > 1}

    def contrast(self, row: str, reference: str) -> Contrast | None:
        """Return the difference of two rows; None if they have no seeds in common."""
        own, base = self.values[row], self.values[reference]
        differences = {seed: own[seed] - base[other] for seed, other in paired(own, base)}
        if not differences:
            return None
        if (analysed := components(differences)) is not None:
            return analysed.contrast()
        return Contrast(len(differences), float(np.mean(list(differences.values()))))

    def family(self, rows: Iterable[str], reference: str) -> dict[str, Contrast]:
        """Return the contrasts of rows with one reference, with p-values adjusted for their number."""
        compared = {row: self.contrast(row, reference) for row in rows if row != reference}
        contrasts = {row: one for row, one in compared.items() if one is not None}
        adjusted = holm([one.p for one in contrasts.values()])
        return {row: replace(one, p_adjusted=p) for (row, one), p in zip(contrasts.items(), adjusted, strict=True)}

    def may_be_best(self, rows: Sequence[str]) -> set[str]:
        """Return the rows that no other of them is above at 5 %, in one direction; none without any test."""
        families = {row: self.family(rows, row) for row in rows}
        tested = {row for row, others in families.items() if any(one.p is not None for one in others.values())}
        beaten = {row for row, others in families.items() if any(map(_is_above, others.values()))}
        return tested - beaten

    def detectable(self, rows: Iterable[str], reference: str) -> None:
        """Return None: the smallest detectable difference is stated only for seeds that are not crossed."""


def _is_above(one: Contrast) -> bool:
    """Return whether a row is above its reference at 5 %, in one direction."""
    return one.value > 0 and one.p_adjusted is not None and one.p_adjusted / 2 < 1 - LEVEL
