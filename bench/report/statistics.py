"""Statistics of a suite's results: gains over KD and the student, ranks, relative improvement. Imports no torch.

Seeds are paired: all rows of a seed start from the same weights and see the same batches. `statistics_files` writes
the results; only reports and figures import this module, since it imports scipy.

Gain:     mean over seeds of a method's accuracy minus the reference's (KD's, or that of `none`), its 95 % percentile
          bootstrap interval, and Student's paired t-test, two-sided. Holm's correction is over the methods of one pair
          and metric that are compared with one reference. Across pairs the samples are the pairs' means, not seeds.
Ranks:    Friedman's test over pairs and Nemenyi's critical difference at 5 % (Demsar, JMLR 7, 2006).
Relative: mean over pairs of (acc(CRD) - acc(X)) / (acc(X) - acc(student)), as in the CRD paper, whose 57 % is the
          improvement over KD on its tables 1 and 2.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import scikit_posthocs
import scipy.stats
from statsmodels.stats.multitest import multipletests

from bench.report.frame import Frame, Summary
from bench.report.paper import CRD, KD, Improvement, relative_improvement, row_named
from bench.spec import STUDENT
from bench.suite import NONE, TEACHER

ALL = "all pairs"
LEVEL = 0.95  # of intervals; tests and the critical difference are at 1 - LEVEL
RESAMPLES = 9999
MIN_RESAMPLED = 3  # with two samples the bootstrap gives only their range


@dataclass(frozen=True)
class Gain:
    """The mean of the differences between paired values.

    The bootstrap interval is None for fewer than three values, the t-test's p for one value; both without a spread.
    """

    n: int
    mean: float
    interval: tuple[float, float] | None
    p: float | None


def gain(values: Sequence[float], reference: Sequence[float]) -> Gain:
    """Return the gain of values over those of a reference at the same places."""
    differences = np.asarray(values, dtype=float) - np.asarray(reference, dtype=float)
    n = len(differences)
    if np.ptp(differences) < 1e-9:  # equal except for rounding
        return Gain(n, float(differences.mean()), None, None)
    interval = None
    if n >= MIN_RESAMPLED:
        # percentile: BCa's acceleration is undefined or unstable for the three to five seeds of a suite
        bounds = scipy.stats.bootstrap(
            (differences,),
            np.mean,
            n_resamples=RESAMPLES,
            confidence_level=LEVEL,
            method="percentile",
            rng=np.random.default_rng(0),  # the same store gives the same file
        ).confidence_interval
        interval = (float(bounds.low), float(bounds.high))
    return Gain(n, float(differences.mean()), interval, float(scipy.stats.ttest_rel(values, reference).pvalue))


def holm(values: Sequence[float | None]) -> list[float | None]:
    """Return p-values after Holm's correction for all known ones."""
    known = [p for p in values if p is not None]
    corrected = iter(multipletests(known, method="holm")[1] if known else [])
    return [None if p is None else float(next(corrected)) for p in values]


@dataclass(frozen=True)
class Ranking:
    """How rows rank over pairs: Friedman's test, and Nemenyi's critical difference and p-value of each two rows."""

    labels: Sequence[str]
    ranks: Sequence[float]  # of each row, the mean over pairs; 1 is the best
    blocks: int  # number of pairs
    statistic: float
    p: float
    critical_difference: float
    nemenyi: np.ndarray


def ranking(labels: Sequence[str], table: Sequence[Sequence[float]]) -> Ranking:
    """Return the ranking of at least three rows, from the accuracy of each row in each of at least two pairs."""
    values = np.asarray(table, dtype=float)
    blocks, count = values.shape
    with np.errstate(invalid="ignore"):  # if all rows tie in all pairs, both are nan
        statistic, p = scipy.stats.friedmanchisquare(*values.T)
    quantile = scipy.stats.studentized_range.ppf(LEVEL, count, np.inf) / math.sqrt(2)
    return Ranking(
        labels=labels,
        ranks=[float(rank) for rank in scipy.stats.rankdata(-values, axis=1).mean(axis=0)],
        blocks=blocks,
        statistic=float(statistic),
        p=float(p),
        critical_difference=float(quantile * math.sqrt(count * (count + 1) / (6 * blocks))),
        nemenyi=scikit_posthocs.posthoc_nemenyi_friedman(values).to_numpy(),
    )


@dataclass(frozen=True)
class Compared:
    """A row compared with a reference, in percentage points, in one pair or over all pairs."""

    pair: str
    metric: str
    label: str
    reference: str
    gain: Gain
    p_holm: float | None  # after Holm's correction
    complete: bool  # whether all seeds of both are finished; over all pairs, whether all pairs are


@dataclass(frozen=True)
class Statistics:
    """The statistics of a suite."""

    gains: list[Compared]
    rankings: dict[str, tuple[Ranking | str, list[str]]]  # see `rankings`
    ours: str | None  # the row CRD, whose improvements these are
    improvements: dict[tuple[str, str], Improvement]  # by metric and the other row's label


def statistics(frame: Frame) -> Statistics:
    """Return the statistics of a suite's current results."""
    kd, ours = (row_named(frame.plan.cells, name) for name in (KD, CRD))
    references = [NONE] if kd is None else [kd, NONE]
    gains = [
        one
        for pair, metric in frame.columns
        for reference in references
        for one in _of_pair(frame, pair, metric, reference)
    ]
    improvements: dict[tuple[str, str], Improvement] = {}
    for metric, pair_count in Counter(metric for _, metric in frame.columns).items():
        means = _means(frame, metric)
        for reference in references:
            gains += _across_pairs(means, metric, reference, pair_count)
        if ours is not None:
            improvements |= {(metric, label): one for label, one in _improvements(means, ours).items()}
    return Statistics(gains, rankings(frame), ours, improvements)


def _of_pair(frame: Frame, pair: str, metric: str, reference: str) -> list[Compared]:
    """Return a pair's methods compared with a reference, on their common seeds."""
    base = frame.at(pair, metric, reference)
    compared = []
    for one in _students(frame, metric):
        seeds = [seed for seed in one.seeds if seed in base.seeds]
        if one.pair == pair and one.is_method and one.label != reference and seeds:
            gained = gain([one.by_seed[seed] for seed in seeds], [base.by_seed[seed] for seed in seeds])
            compared.append((one.label, gained, one.status == base.status == "done"))
    return _corrected(pair, metric, reference, compared)


Means = Mapping[str, Mapping[str, float]]  # of finished rows, by label and pair


def _across_pairs(means: Means, metric: str, reference: str, pair_count: int) -> list[Compared]:
    """Return the methods compared with a reference over the pairs in which both are done, if there are two."""
    of_base = means.get(reference, {})
    compared = []
    for label, of_row in means.items():
        pairs = [pair for pair in of_row if pair in of_base]
        if label not in (reference, NONE) and len(pairs) > 1:
            gained = gain([of_row[pair] for pair in pairs], [of_base[pair] for pair in pairs])
            compared.append((label, gained, len(pairs) == pair_count))
    return _corrected(ALL, metric, reference, compared)


def _corrected(pair: str, metric: str, reference: str, compared: Sequence[tuple[str, Gain, bool]]) -> list[Compared]:
    corrected = holm([one.p for _, one, _ in compared])
    return [
        Compared(pair, metric, label, reference, one, p, complete)
        for (label, one, complete), p in zip(compared, corrected, strict=True)
    ]


def _improvements(means: Means, ours: str) -> dict[str, Improvement]:
    """Return the relative improvement of a row over each other one, on the pairs in which both and the student are."""
    of_ours, of_student = means.get(ours, {}), means.get(NONE, {})
    improvements = {}
    for label, of_row in means.items():
        pairs = [pair for pair in of_row if pair in of_ours and pair in of_student]
        if label not in (ours, NONE) and pairs:
            columns = ([of_one[pair] for pair in pairs] for of_one in (of_ours, of_row, of_student))
            improvements[label] = relative_improvement(*columns)
    return improvements


def _students(frame: Frame, metric: str) -> list[Summary]:
    """Return the students' results of a metric."""
    students = (one for one in frame.tabled if one.network == STUDENT and one.cell.method != TEACHER)
    return [one for one in students if one.metric == metric]


def _means(frame: Frame, metric: str) -> dict[str, dict[str, float]]:
    """Return the means of the students' finished cells by label and pair."""
    means: dict[str, dict[str, float]] = {}
    for one in _students(frame, metric):
        if one.status == "done" and one.mean is not None:
            means.setdefault(one.label, {})[one.pair] = one.mean
    return means


def rankings(frame: Frame) -> dict[str, tuple[Ranking | str, list[str]]]:
    """Return, by metric, the ranking of rows over pairs or why there is none, and what is left out."""
    return {metric: _ranked(frame, metric) for metric in dict.fromkeys(metric for _, metric in frame.columns)}


def _ranked(frame: Frame, metric: str) -> tuple[Ranking | str, list[str]]:
    """Return a ranking or why there is none, and what is left out of it.

    A pair counts if nothing remains to be trained in it and a method has a number: none has one if the teacher failed.
    A row counts if it has a number in each of these pairs.
    """
    students = _students(frame, metric)
    all_pairs = list(dict.fromkeys(one.pair for one in students))
    all_labels = list(dict.fromkeys(one.label for one in students))
    open_pairs = {one.pair for one in students if one.is_open}
    means = _means(frame, metric)
    taught_pairs = {pair for label, of_row in means.items() if label != NONE for pair in of_row}
    pairs = [pair for pair in all_pairs if pair in taught_pairs and pair not in open_pairs]
    labels = [label for label in all_labels if pairs and all(pair in means.get(label, {}) for pair in pairs)]
    if len(pairs) < 2 or len(labels) < 3:
        missing = (
            "Ranks need two pairs in which nothing is left to be trained, and three rows that have a number in each: "
            f"there are {len(pairs)} and {len(labels)}."
        )
        return missing, []
    left_out = [label for label in all_labels if label not in labels]
    left_out += [pair for pair in all_pairs if pair not in pairs]
    return ranking(labels, [[means[label][pair] for label in labels] for pair in pairs]), left_out
