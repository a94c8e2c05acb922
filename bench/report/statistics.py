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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scikit_posthocs
import scipy.stats
from statsmodels.stats.multitest import multipletests

from bench.report.frame import Column, Frame, Summary
from bench.report.layout import INCOMPLETE
from bench.report.paper import CRD, KD, Improvement, relative_improvement, row_named
from bench.spec import STUDENT
from bench.suite import NONE, TEACHER
from bench.suite.tuning import TUNED

ALL = "all pairs"
INCOMPLETE_PAIRS = "not all pairs are finished; see n"
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
    left_out: Sequence[str] = ()  # rows and pairs


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
class Statistics:
    """The statistics of a suite."""

    gains: list[dict[str, Any]]  # rows of statistics.csv, in percentage points, in one pair or over all pairs
    rankings: dict[str, Ranking | str]  # see `rankings`
    ours: str | None  # the row CRD, whose improvements these are
    improvements: dict[tuple[str, str], Improvement]  # by metric and the other row's label


Values = Mapping[str, Mapping[Any, float]]  # of rows by label, in turn by what is compared: seeds, or pairs


def statistics(frame: Frame) -> Statistics:
    """Return the statistics of a suite's current results."""
    kd, ours = (row_named(frame.plan.cells, name) for name in (KD, CRD))
    references = [NONE] if kd is None else [kd, NONE]
    gains: list[dict[str, Any]] = []
    by_column: dict[Column, dict[str, Mapping[int, float]]] = {column: {} for column in frame.columns}
    for metric in dict.fromkeys(metric for _, metric in frame.columns):
        for one in _students(frame, metric):
            by_column[one.pair, metric][one.label] = one.by_seed
    for (pair, metric), by_seed in by_column.items():
        for reference, rows in _compared(by_seed, references):
            gains += _gains(rows, pair, metric, reference, len(frame.plan.suite.seed_list), at_least=1)
    improvements: dict[tuple[str, str], Improvement] = {}
    for metric, pair_count in Counter(metric for _, metric in frame.columns).items():
        means = _means(frame, metric)
        for reference, rows in _compared(means, references):
            gains += _gains(rows, ALL, metric, reference, pair_count, at_least=2)
        if ours in means and NONE in means:
            for label in means:
                pairs = [pair for pair in means[label] if pair in means[ours] and pair in means[NONE]]
                if label not in (ours, NONE) and pairs:
                    columns = ([means[row][pair] for pair in pairs] for row in (ours, label, NONE))
                    improvements[metric, label] = relative_improvement(*columns)
    return Statistics(gains, rankings(frame), ours, improvements)


def _compared(values: Values, references: Sequence[str]) -> Iterator[tuple[str, Values]]:
    """Yield each reference with the rows that are compared with it: tuned rows with a tuned reference, others not."""
    for suffix in ("", TUNED):
        rows = {label: own for label, own in values.items() if label.endswith(TUNED) == bool(suffix)}
        yield from ((f"{reference}{suffix}", rows) for reference in references)


def _gains(
    values: Values, pair: str, metric: str, reference: str, count: int, at_least: int
) -> Iterator[dict[str, Any]]:
    """Yield the methods compared with a reference, on the seeds or pairs that both have, of `count` requested ones."""
    base = values.get(reference, {})
    common = {label: [key for key in own if key in base] for label, own in values.items()}
    gains = {
        label: gain([values[label][key] for key in keys], [base[key] for key in keys])
        for label, keys in common.items()
        if label not in (reference, NONE, f"{NONE}{TUNED}") and len(keys) >= at_least
    }
    for (label, one), p_holm in zip(gains.items(), holm([one.p for one in gains.values()]), strict=True):
        low, high = one.interval or (None, None)
        names = {"statistic": "gain", "metric": metric, "pair": pair, "label": label, "reference": reference}
        numbers = {"n": one.n, "value": one.mean, "low": low, "high": high, "p": one.p, "p_holm": p_holm}
        missing = INCOMPLETE_PAIRS if pair == ALL else INCOMPLETE
        yield {**names, **numbers, "note": "" if one.n == count else missing}


def _students(frame: Frame, metric: str) -> list[Summary]:
    students = (one for one in frame.tabled if one.cell.network == STUDENT and one.cell.method != TEACHER)
    return [one for one in students if one.metric == metric]


def _means(frame: Frame, metric: str) -> dict[str, dict[str, float]]:
    """Return the means of the students' finished cells by label and pair."""
    means: dict[str, dict[str, float]] = {}
    for one in _students(frame, metric):
        if one.status == "done" and one.mean is not None:
            means.setdefault(one.label, {})[one.pair] = one.mean
    return means


def rankings(frame: Frame) -> dict[str, Ranking | str]:
    """Return, by metric, the ranking of rows over pairs or why there is none."""
    return {metric: _ranked(frame, metric) for metric in dict.fromkeys(metric for _, metric in frame.columns)}


def _ranked(frame: Frame, metric: str) -> Ranking | str:
    """Return a ranking or why there is none.

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
        return (
            "Ranks need two pairs in which nothing is left to be trained, and three rows that have a number in each: "
            f"there are {len(pairs)} and {len(labels)}."
        )
    ranked = ranking(labels, [[means[label][pair] for label in labels] for pair in pairs])
    left_out = [label for label in all_labels if label not in labels]
    left_out += [pair for pair in all_pairs if pair not in pairs]
    return replace(ranked, left_out=left_out)
