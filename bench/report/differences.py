"""The difference of two results in each cell, with its interval. Imports no torch, but scipy.

Difference: the second side minus the first, over seeds.
Interval:   Student's t at 95 %: paired where both sides have the same seeds and each seed's value is known, since equal
            seeds start from equal weights and see equal batches; else Welch's (Biometrika 34, 1947).
Images:     McNemar's test and the interval over seeds and images of `per_image`, where the runs of both sides
            have left answers to the same images.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean

import numpy as np

from bench.report.correction import holm
from bench.report.crossed import components
from bench.report.inference import EQUAL, MIN_SEEDS, Contrast, student_contrast
from bench.report.per_image import hits_of, interval, mcnemar
from bench.report.sides import Matched, Measured
from bench.spec import Crossed
from bench.store import Store
from bench.store.answers import alike, stored_answers

PAIRED, WELCH = "paired t", "Welch's t"


@dataclass(frozen=True)
class Difference:
    """One cell on both sides, in the metric's unit; None where the data cannot tell."""

    suite: str
    pair: str
    label: str
    metric: str
    n_a: int  # finished seeds
    n_b: int
    mean_a: float
    mean_b: float
    difference: float  # b minus a
    low: float | None = None  # ends of its 95 % interval
    high: float | None = None
    p: float | None = None  # two-sided
    p_adjusted: float | None = None  # Holm's, for all cells of the metric
    test: str = ""  # `PAIRED` or `WELCH`, which gave interval and p
    note: str = ""  # why there is no interval
    mcnemar_p: float | None = None  # of the first seed that both have
    images_low: float | None = None  # ends of the 95 % interval over seeds and images
    images_high: float | None = None
    in_tables: bool = True  # whether the tables that people read show the metric


def differences(matched: Sequence[Matched], of_a: Store | None, of_b: Store | None) -> list[Difference]:
    """Return the difference in each cell; a side's store is None if there are only files of its report."""
    return _adjusted([_against_images(one, _difference(one), of_a, of_b) for one in matched])


def _difference(one: Matched) -> Difference:
    """Return the difference in a cell over its seeds, without what images tell."""
    a, b = one.a, one.b
    assert a.mean is not None  # both have finished seeds
    assert b.mean is not None
    is_paired = bool(a.by_seed) and a.by_seed.keys() == b.by_seed.keys()
    difference = Difference(one.suite, *one.place, a.n, b.n, a.mean, b.mean, b.mean - a.mean, in_tables=a.in_tables)
    if a.is_crossed or b.is_crossed:
        return replace(difference, note="crossed seeds")
    if any(isinstance(seed, Crossed) for seed in (*a.by_seed, *b.by_seed)):
        return _of_crossed(difference, a, b)
    if is_paired:
        gaps = [b.by_seed[seed] - a.by_seed[seed] for seed in a.by_seed]
        difference = replace(difference, difference=fmean(gaps))
        if np.ptp(gaps) < EQUAL:
            note = "equal on every seed" if abs(gaps[0]) < EQUAL else "the same difference on every seed"
            return replace(difference, note=note if a.n > 1 else "one seed")
        variance, df = float(np.var(gaps, ddof=1)) / a.n, a.n - 1.0
    elif a.std is None or b.std is None:
        return replace(difference, note="one seed")
    else:
        of_a, of_b = a.std**2 / a.n, b.std**2 / b.n
        variance = of_a + of_b
        if variance == 0.0:
            return replace(difference, note="no spread over seeds")
        df = variance**2 / (of_a**2 / (a.n - 1) + of_b**2 / (b.n - 1))
    if min(a.n, b.n) < MIN_SEEDS:
        return replace(difference, note="two seeds")
    contrast = student_contrast(min(a.n, b.n), difference.difference, math.sqrt(variance), df)
    return _tested(difference, contrast, PAIRED if is_paired else WELCH)


def _of_crossed(difference: Difference, a: Measured, b: Measured) -> Difference:
    """Return a difference of runs with crossed seeds, which are not independent: the interval needs equal seeds."""
    gaps = {seed: b.by_seed[seed] - a.by_seed[seed] for seed in a.by_seed if seed in b.by_seed}
    model = components({seed: gap for seed, gap in gaps.items() if isinstance(seed, Crossed)})
    if model is None or not len(gaps) == a.n == b.n:
        return replace(difference, note="crossed seeds that differ")
    contrast = model.contrast()
    if contrast.interval is None:
        return replace(difference, note="too few crossed seeds")
    return _tested(difference, contrast, PAIRED)


def _tested(difference: Difference, contrast: Contrast, test: str) -> Difference:
    low, high = contrast.interval or (None, None)
    return replace(difference, low=low, high=high, p=contrast.p, test=test)


def _adjusted(cells: Sequence[Difference]) -> list[Difference]:
    """Return differences with p-values that are corrected for all cells of their metric."""
    corrected: dict[int, float | None] = {}
    for metric in {one.metric for one in cells}:
        places = [place for place, one in enumerate(cells) if one.metric == metric]
        corrected |= zip(places, holm([cells[place].p for place in places]), strict=True)
    return [replace(one, p_adjusted=corrected[place]) for place, one in enumerate(cells)]


def _against_images(one: Matched, difference: Difference, of_a: Store | None, of_b: Store | None) -> Difference:
    """Return a difference in top-1 accuracy with its tests over images, if both sides have answers."""
    if one.a.recorded != "top1" or one.b.recorded != "top1" or of_a is None or of_b is None:
        return difference
    hits = []
    for seed in (seed for seed in one.a.runs if seed in one.b.runs):
        own, other = stored_answers(of_a, one.a.runs[seed]), stored_answers(of_b, one.b.runs[seed])
        if own is not None and other is not None and alike(own, other):
            hits.append([hits_of(own), hits_of(other)])
    if not hits:
        return difference
    difference = replace(difference, mcnemar_p=mcnemar(hits[0][1], hits[0][0]))
    if len(hits) < MIN_SEEDS or any(isinstance(seed, Crossed) for seed in one.a.runs):
        return difference
    before, after = (np.stack(rows) for rows in zip(*hits, strict=True))
    low, high = interval(after, before) or (None, None)
    return replace(difference, images_low=low, images_high=high)
