"""A suite's statistics: gains over KD and `none`, mean ranks, relative improvement.

Imports no torch. Seeds are paired: all rows of a seed start from the same weights and see the same batches.
`statistics_files` writes the results; only reports and figures import this module, since it imports scipy.stats.

Gain:     mean over seeds of a method's accuracy minus the reference's (KD's, or that of `none`), with the interval and
          p-values of the row-by-seed model in `inference`, which corrects p for all methods of the column.
          Over pairs, the samples are the pairs' means: Student's t interval, Wilcoxon's signed-rank test, Holm.
Over pairs and seeds: the probability that a method is above the reference, and the interquartile mean of its gains
          (Agarwal et al., NeurIPS 2021). Interval: Student's t with the standard error of a jackknife over pairs.
Ranks:    Friedman's test over at least six pairs, Nemenyi's critical difference at 5 % (Demsar, JMLR 7, 2006).
Relative: sum over pairs of acc(CRD) - acc(X), divided by that of acc(X) - acc(student), with Fieller's interval; and
          the mean of the pairs' ratios, as in the CRD paper, whose 57 % is that over KD on its tables 1 and 2.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy.stats
from scipy import special

from bench.plan import Cell
from bench.report.correction import holm
from bench.report.crossed import CrossedModel
from bench.report.frame import Frame
from bench.report.improvement import Improvement, relative_improvement
from bench.report.inference import EQUAL, LEVEL, MIN_SEEDS, Contrast, Model
from bench.report.layout import ALL_PAIRS, INCOMPLETE
from bench.report.paper import CRD, KD, row_named
from bench.report.summary import Contest, Summary
from bench.spec import STUDENT
from bench.suite import NONE, TEACHER
from bench.suite.tuning import TUNED

INCOMPLETE_PAIRS = "not all pairs are finished; see n"
MIN_PAIRS = 6  # of ranks, and of statistics over pairs and seeds


def gain_over_pairs(values: Sequence[float], reference: Sequence[float]) -> Contrast:
    """Return the gain of values over those of a reference at the same pairs."""
    differences = np.asarray(values, dtype=float) - np.asarray(reference, dtype=float)
    n, mean = len(differences), float(differences.mean())
    if n == 1 or np.ptp(differences) < EQUAL:
        return Contrast(n, mean)
    test = scipy.stats.ttest_1samp(differences, 0.0)
    low, high = map(float, test.confidence_interval(LEVEL))
    return Contrast(
        n=n,
        value=mean,
        error=float(scipy.stats.sem(differences)),
        df=n - 1,
        interval=(low, high) if n >= MIN_SEEDS else None,
        p=float(scipy.stats.wilcoxon(differences).pvalue),
    )


@dataclass(frozen=True)
class Estimate:
    """A number with its interval."""

    value: float
    interval: tuple[float, float]


def over_pairs_and_seeds(differences: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray]) -> Estimate:
    """Return a statistic of the differences between a row and a reference, of shape (pairs, seeds).

    `statistic` reduces the last two axes of (..., pairs, seeds). Interval: Student's t with the standard error of the
    jackknife, which leaves out one pair after another with all of its seeds (Efron, The Jackknife, the Bootstrap and
    Other Resampling Plans, 1982). The spread of pairs includes that of their seeds; a bootstrap that draws pairs and
    then seeds counts the latter twice.
    """
    pairs, value = len(differences), float(statistic(differences))
    without = statistic(np.stack([np.delete(differences, pair, axis=0) for pair in range(pairs)]))
    error = math.sqrt((pairs - 1) / pairs * float(((without - without.mean()) ** 2).sum()))
    reach = float(special.stdtrit(pairs - 1, (1 + LEVEL) / 2)) * error
    return Estimate(value, (value - reach, value + reach))


def probability_of_improvement(differences: np.ndarray) -> np.ndarray:
    """Return the mean over pairs of the share of seeds in which the row is above the reference; equal counts half."""
    return np.asarray(((differences > 0) + 0.5 * (differences == 0)).mean(axis=(-2, -1)))


def interquartile_mean(differences: np.ndarray) -> np.ndarray:
    """Return the mean of the middle half of all pairs' and seeds' differences."""
    return np.asarray(scipy.stats.trim_mean(differences.reshape(*differences.shape[:-2], -1), 0.25, axis=-1))


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
    import scikit_posthocs  # imports matplotlib, which comparisons do not need

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
    together: list[dict[str, Any]]  # rows of statistics.csv over pairs and seeds
    rankings: dict[str, Ranking | str]  # see `rankings`
    ours: str | None  # the row CRD, whose improvements these are
    improvements: dict[tuple[str, str], Improvement]  # by metric and the other row's label


Means = Mapping[str, Mapping[str, float]]  # by label and pair


def statistics(frame: Frame) -> Statistics:
    """Return the statistics of a suite's current results."""
    kd, ours = (row_named(frame.plan.cells, name) for name in (KD, CRD))
    references = [NONE] if kd is None else [kd, NONE]
    gains: list[dict[str, Any]] = []
    for pair, metric in frame.columns:
        for contest in (Contest(pair, metric), Contest(pair, metric, is_tuned=True)):
            model = frame.models.get(contest)
            if model is not None:
                for reference in references:
                    gains += _gains_of_pair(frame, model, contest, reference)
                gains += _gains_over_controls(frame, model, contest)
    together: list[dict[str, Any]] = []
    improvements: dict[tuple[str, str], Improvement] = {}
    for metric, pair_count in Counter(metric for _, metric in frame.columns).items():
        controls = {one.label for one in _students(frame, metric) if one.cell.is_control}
        means = {label: own for label, own in _means(frame, metric).items() if label not in controls}
        for reference, rows in _compared(means, references):
            gains += _gains_over_pairs(rows, metric, reference, pair_count)
            together += _together(frame, rows, metric, reference)
        for label in means:
            if ours in means and label not in (ours, NONE) and not label.endswith(TUNED):
                improvement = _improvement(frame, means, metric, ours, label)
                if improvement is not None:
                    improvements[metric, label] = improvement
    return Statistics(gains, together, rankings(frame), ours, improvements)


def _compared(means: Means, references: Sequence[str]) -> Iterator[tuple[str, Means]]:
    """Yield each reference with the rows that are compared with it: tuned rows with a tuned reference, others not."""
    for suffix in ("", TUNED):
        rows = {label: own for label, own in means.items() if label.endswith(TUNED) == bool(suffix)}
        yield from ((f"{reference}{suffix}", rows) for reference in references)


def _row(
    statistic: str, metric: str, pair: str, label: str, reference: str, contrast: Contrast, note: str
) -> dict[str, Any]:
    low, high = contrast.interval or (None, None)
    names = {"statistic": statistic, "metric": metric, "pair": pair, "label": label, "reference": reference}
    numbers = {"n": contrast.n, "value": contrast.value, "low": low, "high": high, "p": contrast.p}
    return {**names, **numbers, "p_adjusted": contrast.p_adjusted, "note": note}


def _gains_of_pair(
    frame: Frame, model: Model | CrossedModel, contest: Contest, reference: str
) -> Iterator[dict[str, Any]]:
    """Yield the methods compared with a reference on the seeds that both have.

    A control is compared with `none` in a family of its own, so that it does not change what is said of the methods.
    """
    reference = contest.named(reference)
    if reference not in model.values:
        return
    cells = frame.cells_of(contest)
    rows = [label for label in model.values if label != contest.named(NONE) and not cells[label].is_control]
    contrasts = model.family(rows, reference)
    if reference == contest.named(NONE):
        for label in cells:
            if cells[label].is_control:
                contrasts |= model.family([label], reference)
    yield from _gain_rows(contrasts, contest, reference, cells)


def _gains_over_controls(frame: Frame, model: Model | CrossedModel, contest: Contest) -> Iterator[dict[str, Any]]:
    """Yield the rows with an initial stage compared with the control that trains as many epochs without a teacher."""
    cells = frame.cells_of(contest)
    rows = [label for label, cell in cells.items() if cell.runs[0].trains and cell.runs[0].training.has_initial_stage]
    for control in (label for label, cell in cells.items() if cell.is_control):
        yield from _gain_rows(model.family(rows, control), contest, control, cells)


def _gain_rows(
    contrasts: Mapping[str, Contrast], contest: Contest, reference: str, cells: Mapping[str, Cell]
) -> Iterator[dict[str, Any]]:
    for label, one in contrasts.items():
        note = "" if one.n == len(cells[label].runs) else INCOMPLETE
        yield _row("gain", contest.metric, contest.pair, label, reference, one, note)


def _gains_over_pairs(means: Means, metric: str, reference: str, count: int) -> Iterator[dict[str, Any]]:
    """Yield the methods compared with a reference on the pairs that both have, at least two of `count`."""
    base = means.get(reference, {})
    common = {label: [pair for pair in own if pair in base] for label, own in means.items()}
    contrasts = {
        label: gain_over_pairs([means[label][pair] for pair in pairs], [base[pair] for pair in pairs])
        for label, pairs in common.items()
        if label not in (reference, NONE, f"{NONE}{TUNED}") and len(pairs) > 1
    }
    for (label, one), p in zip(contrasts.items(), holm([one.p for one in contrasts.values()]), strict=True):
        note = "" if one.n == count else INCOMPLETE_PAIRS
        yield _row("gain", metric, ALL_PAIRS, label, reference, replace(one, p_adjusted=p), note)


def _together(frame: Frame, means: Means, metric: str, reference: str) -> Iterator[dict[str, Any]]:
    """Yield the statistics of each method over pairs and seeds, if it has `MIN_PAIRS` finished pairs."""
    for label in means:
        if label in (reference, NONE, f"{NONE}{TUNED}"):
            continue
        pairs = [pair for pair in means[label] if pair in means.get(reference, {})]
        rows = [(frame.at(pair, metric, label).by_seed, frame.at(pair, metric, reference).by_seed) for pair in pairs]
        if len(rows) < MIN_PAIRS or frame.plan.suite.crossed:  # crossed seeds are not independent of each other
            continue
        differences = np.array([[own[seed] - base[seed] for seed in own] for own, base in rows])  # all are finished
        for statistic in (probability_of_improvement, interquartile_mean):
            one = over_pairs_and_seeds(differences, statistic)
            low, high = one.interval
            if statistic is probability_of_improvement:
                low, high = max(low, 0.0), min(high, 1.0)
            contrast = Contrast(len(rows), one.value, interval=(low, high))
            yield _row(statistic.__name__, metric, ALL_PAIRS, label, reference, contrast, "")


def _improvement(frame: Frame, means: Means, metric: str, ours: str, label: str) -> Improvement | None:
    """Return the relative improvement over a method on the pairs that both and `none` have; None without any."""
    if NONE not in means:
        return None
    pairs = [pair for pair in means[label] if pair in means[ours] and pair in means[NONE]]
    if not pairs:
        return None
    if len(pairs) > 1:
        own, other, student = ([means[row][pair] for pair in pairs] for row in (ours, label, NONE))
        return relative_improvement(own, other, student)
    if frame.plan.suite.crossed:
        return None  # its interval takes seeds for independent of each other
    by_seed = [frame.at(pairs[0], metric, row).by_seed for row in (ours, label, NONE)]
    seeds = [seed for seed in by_seed[0] if all(seed in row for row in by_seed)]
    own, other, student = ([row[seed] for seed in seeds] for row in by_seed)
    return relative_improvement(own, other, student, unit="seed")


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
    """Return, by metric, the ranking of rows over pairs, or why there is none."""
    return {metric: _ranked(frame, metric) for metric in dict.fromkeys(metric for _, metric in frame.columns)}


def _ranked(frame: Frame, metric: str) -> Ranking | str:
    """Return a ranking or why there is none.

    A pair counts if nothing remains to be trained in it and a method has a number: none has one if the teacher failed.
    A row counts if it has a number in each of these pairs. Controls are not ranked.
    """
    students = [one for one in _students(frame, metric) if not one.cell.is_control]
    all_pairs = list(dict.fromkeys(one.pair for one in students))
    all_labels = list(dict.fromkeys(one.label for one in students))
    open_pairs = {one.pair for one in students if one.is_open}
    means = {label: of_row for label, of_row in _means(frame, metric).items() if label in all_labels}
    taught_pairs = {pair for label, of_row in means.items() if label != NONE for pair in of_row}
    pairs = [pair for pair in all_pairs if pair in taught_pairs and pair not in open_pairs]
    labels = [label for label in all_labels if pairs and all(pair in means.get(label, {}) for pair in pairs)]
    if len(pairs) < MIN_PAIRS or len(labels) < 3:
        return (
            "Ranks need six pairs in which nothing is left to be trained, and three rows that have a number in each: "
            f"there are {len(pairs)} and {len(labels)}."
        )
    ranked = ranking(labels, [[means[label][pair] for label in labels] for pair in pairs])
    left_out = [label for label in all_labels if label not in labels]
    left_out += [pair for pair in all_pairs if pair not in pairs]
    return replace(ranked, left_out=left_out)
