"""The relative improvement of one method over another: ratio of sums, and the CRD paper's mean of ratios.

Formula: sum(ours - other) / sum(other - student), over pairs or, for one pair, over its seeds; Fieller's interval
         (J. R. Stat. Soc. B 16, 1954). Paper: mean over pairs of (ours - other) / (other - student), 56.8 % over KD.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from bench.report.inference import LEVEL, MIN_SEEDS

IMPROVEMENT = (
    "Ratio of sums: the sum over pairs of acc(CRD) - acc(X), divided by the sum of acc(X) - acc(student), with "
    "Fieller's 95 % interval. The CRD paper prints the mean of the pairs' ratios, which one pair with a small "
    "denominator can dominate; pairs in which X is not above the student are left out of it. With one pair, the "
    "samples are its seeds. No number: X is not above the student by more than chance."
)


@dataclass(frozen=True)
class Improvement:
    """The relative improvement over a method, as shares (1 is 100 %); see `IMPROVEMENT`.

    None where the method is not above the student by more than chance, and the interval also below three samples.
    """

    ratio: float | None  # of sums
    interval: tuple[float, float] | None
    mean: float | None  # of ratios, as in the paper
    median: float | None
    n: int  # samples
    unit: str = "pair"
    left_out: int = 0  # of mean and median: pairs in which the method is not above the student


def relative_improvement(
    ours: Sequence[float], other: Sequence[float], student: Sequence[float], unit: str = "pair"
) -> Improvement:
    """Return the improvement over another method, from accuracies by pair or, of one pair, by seed."""
    above = np.subtract(ours, other)
    base = np.subtract(other, student)
    n = len(base)
    nothing = Improvement(None, None, None, None, n, unit)
    if n < 2 or base.sum() <= 0:
        return nothing
    # Fieller: all r for which the mean of above - r * base could be 0
    quantile = float(special.stdtrit(n - 1, (1 + LEVEL) / 2))
    (aa, ab), (_, bb) = np.cov(above, base) * quantile**2 / n
    a, b = float(above.mean()), float(base.mean())
    square = b**2 - bb
    if square <= 0:
        return nothing  # the interval of the denominator includes 0
    middle, root = (a * b - ab) / square, math.sqrt(max((a * b - ab) ** 2 - square * (a**2 - aa), 0.0)) / square
    shares = above[base > 0] / base[base > 0] if unit == "pair" else None
    return Improvement(
        ratio=a / b,
        interval=(middle - root, middle + root) if n >= MIN_SEEDS else None,
        mean=None if shares is None else float(shares.mean()),
        median=None if shares is None else float(np.median(shares)),
        n=n,
        unit=unit,
        left_out=int((base <= 0).sum()),
    )
