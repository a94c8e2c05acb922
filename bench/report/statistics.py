"""Whether differences in a suite's table are more than its seeds' spread: statistics.csv and statistics.md.

Seeds are paired: all rows of a seed start from the same weights and see the same batches. Imports no torch, but scipy
and scikit-posthocs: it is imported where a report is written and nowhere else.

Gain:     mean over seeds of a method's accuracy less the reference's (KD's, or that of `none`), its 95 % percentile
          bootstrap interval, and Student's paired t-test, two-sided. Holm's correction is over the methods of one pair
          and metric that are compared with one reference. Across pairs the samples are the pairs' means, not seeds.
Ranks:    Friedman's test over pairs and Nemenyi's critical difference at 5 % (Demsar, JMLR 7, 2006).
Relative: mean over pairs of (acc(CRD) - acc(X)) / (acc(X) - acc(student)), as in the CRD paper, whose 57 % is that over
          KD on its tables 1 and 2.
"""

import csv
import io
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, median
from typing import Any

import numpy as np
import scikit_posthocs
import scipy.stats
from statsmodels.stats.multitest import multipletests

from bench.plan import Plan
from bench.report.tables import (
    INCOMPLETE,
    MARKDOWN,
    MISSING,
    STATISTICS,
    Outcome,
    columns_of,
    comparable,
    digest,
    row_named,
    tabled,
)
from bench.store import Store, write_whole
from bench.suite import NONE, TEACHER

COLUMNS = ("statistic", "metric", "pair", "label", "reference", "n", "value", "low", "high", "p", "p_holm", "note")
ALL = "all pairs"
INCOMPLETE_PAIRS = "not all pairs are there; see n"
LEVEL = 0.95  # of intervals; tests and the critical difference are at 1 - LEVEL
RESAMPLES = 9999
FEWEST_RESAMPLED = 3  # of two samples the bootstrap knows no more than their range
OURS = "CRD"  # whose relative improvement the paper reports


@dataclass(frozen=True)
class Gain:
    """How much one sample's paired values are above another's.

    Attributes:
        n: number of pairs of values.
        mean: of the differences.
        interval: the bootstrap's for that mean; None for fewer than three values, or differences without spread.
        p: of Student's paired t-test; None for one value, or differences without spread.
    """

    n: int
    mean: float
    interval: tuple[float, float] | None
    p: float | None


def gain(values: Sequence[float], reference: Sequence[float]) -> Gain:
    """Return how much values are above those of a reference at the same places."""
    differences = np.asarray(values, dtype=float) - np.asarray(reference, dtype=float)
    n = len(differences)
    if np.ptp(differences) < 1e-9:  # rounding of equal ones
        return Gain(n, float(differences.mean()), None, None)
    interval = None
    if n >= FEWEST_RESAMPLED:
        # percentile: BCa's acceleration is undefined or wild for the three to five seeds that a suite has
        found = scipy.stats.bootstrap(
            (differences,),
            np.mean,
            n_resamples=RESAMPLES,
            confidence_level=LEVEL,
            method="percentile",
            rng=np.random.default_rng(0),  # the same store gives the same file
        ).confidence_interval
        interval = (float(found.low), float(found.high))
    return Gain(n, float(differences.mean()), interval, float(scipy.stats.ttest_rel(values, reference).pvalue))


def holm(found: Sequence[float | None]) -> list[float | None]:
    """Return p-values after Holm's correction for all that there are."""
    known = [p for p in found if p is not None]
    corrected = iter(multipletests(known, method="holm")[1] if known else [])
    return [None if p is None else float(next(corrected)) for p in found]


@dataclass(frozen=True)
class Improvement:
    """The paper's average relative improvement over a method, as shares (1 is 100 %).

    Attributes:
        mean: over pairs; None if there is none.
        median: likewise.
        n: pairs that count.
        left_out: pairs in which the method is not above the student.
    """

    mean: float | None
    median: float | None
    n: int
    left_out: int


def relative_improvement(ours: Sequence[float], other: Sequence[float], student: Sequence[float]) -> Improvement:
    """Return the mean over pairs of (ours - other) / (other - student), where the latter is positive."""
    shares = [(a - x) / (x - s) for a, x, s in zip(ours, other, student, strict=True) if x > s]
    return Improvement(
        mean=mean(shares) if shares else None,
        median=median(shares) if shares else None,
        n=len(shares),
        left_out=len(ours) - len(shares),
    )


@dataclass(frozen=True)
class Ranking:
    """How rows rank over pairs.

    Attributes:
        labels: the rows.
        ranks: the mean rank of each, 1 being the best.
        blocks: number of pairs.
        statistic: Friedman's.
        p: its p-value.
        critical_difference: of mean ranks, by Nemenyi.
        nemenyi: p-value of each two rows.
    """

    labels: Sequence[str]
    ranks: Sequence[float]
    blocks: int
    statistic: float
    p: float
    critical_difference: float
    nemenyi: np.ndarray


def ranking(labels: Sequence[str], table: Sequence[Sequence[float]]) -> Ranking:
    """Return how rows rank.

    Args:
        labels: at least three.
        table: of each pair, two at least, the accuracy of each row.
    """
    values = np.asarray(table, dtype=float)
    blocks, count = values.shape
    with np.errstate(invalid="ignore"):  # where all rows tie in all pairs, both are nan
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


HOW = (
    "Gains are in percentage points of the last epochs' accuracies, on equal seeds. Intervals: 95 % percentile "
    "bootstrap of the mean difference, from three samples on; of three to five they are too narrow. p: Student's "
    "paired t-test, two-sided; Holm's correction is over the rows of a table here. Over all pairs the samples are the "
    "pairs' means; pairs that share a network are not independent. † not all seeds, or not all "
    "pairs, are there."
)
IMPROVEMENT = (
    "Mean and median over pairs of (acc(CRD) - acc(X)) / (acc(X) - acc(student)); pairs in which X is not above the "
    "student are left out and counted. A pair in which X is barely above it can make the mean alone: see the median."
)

# from outcomes to these


@dataclass(frozen=True)
class Compared:
    """A row compared with a reference.

    Attributes:
        pair: or `all pairs`.
        metric: compared.
        label: the row.
        reference: the row it is compared with.
        gain: of the former over the latter, in percentage points.
        p_holm: its p-value after Holm's correction.
        complete: whether all seeds of both are there; over all pairs, whether all pairs are.
    """

    pair: str
    metric: str
    label: str
    reference: str
    gain: Gain
    p_holm: float | None
    complete: bool


@dataclass(frozen=True)
class Statistics:
    """All that is computed of a suite.

    Attributes:
        gains: by metric, pair and reference.
        rankings: by metric; where there is none, what is missing.
        left_out: by metric, rows without a number in a pair that the ranking is over, and pairs not finished or lost.
        ours: the row CRD, whose improvements these are; None if the suite has none.
        improvements: its over each other row, by metric and that row's label.
    """

    gains: list[Compared]
    rankings: dict[str, Ranking | str]
    left_out: dict[str, list[str]]
    ours: str | None
    improvements: dict[tuple[str, str], Improvement]


def statistics(plan: Plan, found: Sequence[Outcome]) -> Statistics:
    """Return the statistics of what a suite has so far."""
    by_place = tabled(found)
    columns = columns_of(found)
    kd = row_named(plan.cells, "KD")
    ours = row_named(plan.cells, OURS)
    references = [NONE] if kd is None else [kd, NONE]
    gains: list[Compared] = []
    for pair, metric in columns:
        for reference in references:
            gains += _of_pair(by_place, pair, metric, reference)
    ranked = rankings(found)
    pair_counts = Counter(metric for _, metric in columns)
    improvements: dict[tuple[str, str], Improvement] = {}
    for metric in ranked:
        means = _means(by_place, metric)
        for reference in references:
            gains += _across_pairs(means, metric, reference, pair_counts[metric])
        if ours is not None:
            improvements |= {(metric, label): one for label, one in _improvements(means, ours).items()}
    return Statistics(
        gains=gains,
        rankings={metric: ranks for metric, (ranks, _) in ranked.items()},
        left_out={metric: names for metric, (_, names) in ranked.items()},
        ours=ours,
        improvements=improvements,
    )


def _improvements(means: Mapping[str, Mapping[str, float]], ours: str) -> dict[str, Improvement]:
    """Return the relative improvement of a row over each other one, on the pairs that both and the student have."""
    of_ours = means.get(ours, {})
    of_student = means.get(NONE, {})
    found = {}
    for label, by_pair in means.items():
        if label in (ours, NONE):
            continue
        pairs = [pair for pair in by_pair if pair in of_ours and pair in of_student]
        if pairs:
            found[label] = relative_improvement(
                ours=[of_ours[pair] for pair in pairs],
                other=[by_pair[pair] for pair in pairs],
                student=[of_student[pair] for pair in pairs],
            )
    return found


def rankings(found: Sequence[Outcome]) -> dict[str, tuple[Ranking | str, list[str]]]:
    """Return how rows rank over pairs, or what is missing for that, and what is left out, by metric."""
    by_place = tabled(found)
    metrics = dict.fromkeys(metric for _, metric in columns_of(found))
    return {metric: _ranked(by_place, metric) for metric in metrics}


Places = Mapping[tuple[str, str, str], Outcome]  # by pair, metric and label


def _of_pair(by_place: Places, pair: str, metric: str, reference: str) -> list[Compared]:
    """Return a pair's methods compared with a reference, on the seeds that both have."""
    base = by_place[pair, metric, reference]
    of_base = dict(zip(base.seeds, base.values[metric], strict=True))
    found = []
    for (one_pair, one_metric, label), outcome in by_place.items():
        if (one_pair, one_metric) != (pair, metric) or label == reference:
            continue
        if not _is_method(outcome, base, metric):
            continue
        of_row = dict(zip(outcome.seeds, outcome.values[metric], strict=True))
        seeds = [seed for seed in of_row if seed in of_base]
        if seeds:
            gained = gain([of_row[seed] for seed in seeds], [of_base[seed] for seed in seeds])
            complete = outcome.status == "done" and base.status == "done"
            found.append((label, gained, complete))
    return _corrected(pair, metric, reference, found)


def _across_pairs(
    means: Mapping[str, Mapping[str, float]], metric: str, reference: str, pair_count: int
) -> list[Compared]:
    """Return the methods compared with a reference over the pairs in which both are done; from two pairs on."""
    of_base = means.get(reference, {})
    found = []
    for label, by_pair in means.items():
        if label in (reference, NONE):
            continue
        pairs = [pair for pair in by_pair if pair in of_base]
        if len(pairs) > 1:
            gained = gain([by_pair[pair] for pair in pairs], [of_base[pair] for pair in pairs])
            found.append((label, gained, len(pairs) == pair_count))
    return _corrected(ALL, metric, reference, found)


def _corrected(pair: str, metric: str, reference: str, found: Sequence[tuple[str, Gain, bool]]) -> list[Compared]:
    corrected = holm([one.p for _, one, _ in found])
    return [
        Compared(pair, metric, label, reference, one, p, complete)
        for (label, one, complete), p in zip(found, corrected, strict=True)
    ]


def _is_method(outcome: Outcome, base: Outcome, metric: str) -> bool:
    return outcome.cell.method not in (TEACHER, NONE) and comparable(outcome, base, metric)


def _means(by_place: Places, metric: str) -> dict[str, dict[str, float]]:
    """Return the means of the students' finished cells by row and pair."""
    found: dict[str, dict[str, float]] = {}
    for (pair, label), outcome in _of_students(by_place, metric).items():
        if outcome.status == "done":
            found.setdefault(label, {})[pair] = mean(outcome.values[metric])
    return found


def _of_students(by_place: Places, metric: str) -> dict[tuple[str, str], Outcome]:
    """Return a metric's outcomes that are about students, by pair and label."""
    return {
        (pair, label): outcome
        for (pair, one_metric, label), outcome in by_place.items()
        if one_metric == metric
        and outcome.cell.method != TEACHER
        and comparable(outcome, by_place[pair, metric, NONE], metric)
    }


def _ranked(by_place: Places, metric: str) -> tuple[Ranking | str, list[str]]:
    """Return a ranking or what it lacks, and what is left out of it.

    A pair counts when nothing is left to be trained in it and a method has a number: none has where the teacher is
    lost. A row counts when it has a number in each of those pairs.
    """
    cells = _of_students(by_place, metric)
    all_pairs = list(dict.fromkeys(pair for pair, _ in cells))
    all_labels = list(dict.fromkeys(label for _, label in cells))
    open_pairs = {pair for (pair, _), outcome in cells.items() if outcome.is_open}
    known = _means(by_place, metric)
    taught_pairs = {pair for label, by_pair in known.items() if label != NONE for pair in by_pair}
    pairs = [pair for pair in all_pairs if pair in taught_pairs and pair not in open_pairs]
    labels = []
    if pairs:
        labels = [label for label in all_labels if all(pair in known.get(label, {}) for pair in pairs)]
    if len(pairs) < 2 or len(labels) < 3:
        missing = (
            "Ranks need two pairs in which nothing is left to be trained, and three rows that have a number in each: "
            f"there are {len(pairs)} and {len(labels)}."
        )
        return missing, []
    left_out = [label for label in all_labels if label not in labels]
    left_out += [pair for pair in all_pairs if pair not in pairs]
    return ranking(labels, [[known[label][pair] for label in labels] for pair in pairs]), left_out


def write(plan: Plan, store: Store, found: Sequence[Outcome]) -> None:
    """Write the statistics of a suite's outcomes."""
    computed = statistics(plan, found)
    text = f"{to_markdown(plan, computed)}\n<!-- of table.csv {digest(plan, found)} -->\n"
    folder = store.suite_folder(plan.name)
    for name, content in zip(STATISTICS, (to_csv(computed), text), strict=True):
        write_whole(folder / name, content)


def to_csv(found: Statistics) -> str:
    """Return the statistics as comma-separated values: gains in percentage points, improvements as shares."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for row in _rows(found):
        writer.writerow({key: _shown(value) for key, value in row.items()})
    return text.getvalue()


def _shown(value: object) -> object:
    if isinstance(value, float):
        return f"{value:.6g}" if math.isfinite(value) else ""
    return value


def _rows(found: Statistics) -> Iterator[dict[str, Any]]:
    for one in found.gains:
        low, high = one.gain.interval or (None, None)
        missing = INCOMPLETE_PAIRS if one.pair == ALL else INCOMPLETE
        yield {
            "statistic": "gain",
            "metric": one.metric,
            "pair": one.pair,
            "label": one.label,
            "reference": one.reference,
            "n": one.gain.n,
            "value": one.gain.mean,
            "low": low,
            "high": high,
            "p": one.gain.p,
            "p_holm": one.p_holm,
            "note": "" if one.complete else missing,
        }
    for metric, ranks in found.rankings.items():
        for row in _rank_rows(ranks, found.left_out[metric]):
            yield {"metric": metric, "pair": ALL, **row}
    for (metric, label), share in found.improvements.items():
        common = {
            "metric": metric,
            "pair": ALL,
            "label": found.ours,
            "reference": label,
            "n": share.n,
            "note": f"{share.left_out} pair(s) left out: not above the student" if share.left_out else "",
        }
        yield {**common, "statistic": "relative_improvement_mean", "value": share.mean}
        yield {**common, "statistic": "relative_improvement_median", "value": share.median}


def _rank_rows(ranks: Ranking | str, left_out: Sequence[str]) -> Iterator[dict[str, Any]]:
    if isinstance(ranks, str):
        yield {"statistic": "friedman", "note": ranks}
        return
    n = ranks.blocks
    note = f"left out: {', '.join(left_out)}" if left_out else ""
    yield {"statistic": "friedman", "n": n, "value": ranks.statistic, "p": ranks.p, "note": note}
    yield {"statistic": "critical_difference", "n": n, "value": ranks.critical_difference}
    for label, rank in zip(ranks.labels, ranks.ranks, strict=True):
        yield {"statistic": "mean_rank", "n": n, "label": label, "value": rank}
    for i, label in enumerate(ranks.labels):
        for j, other in enumerate(ranks.labels[:i]):
            p = float(ranks.nemenyi[i, j])
            yield {"statistic": "nemenyi", "n": n, "label": label, "reference": other, "p": p}


def to_markdown(plan: Plan, found: Statistics) -> str:
    """Return the statistics as people read them."""
    lines = [f"# {MARKDOWN.text(plan.suite.title)}: statistics", ""]
    lines.append(HOW if found.gains else "No gains yet: they need a method and KD or none with a seed in common.")
    of_columns: dict[tuple[str, str, str], list[Compared]] = {}
    for one in found.gains:
        of_columns.setdefault((one.reference, one.pair, one.metric), []).append(one)
    for (reference, pair, metric), gains in of_columns.items():
        heading = MARKDOWN.text(f"Gain over {reference} in {metric}, {pair}")
        samples = "pairs" if pair == ALL else "seeds"
        lines += ["", f"## {heading}", ""]
        lines += [f"| method | {samples} | gain | 95 % interval | p | p (Holm) |", "|---|---|---|---|---|---|"]
        lines += [_gain_line(one) for one in gains]
    for metric, ranks in found.rankings.items():
        lines += ["", f"## Ranks over pairs in {MARKDOWN.text(metric)}", ""]
        lines += _rank_lines(ranks, found.left_out[metric])
    if found.improvements:
        ours = MARKDOWN.text(found.ours or "")
        lines += ["", f"## Relative improvement of {ours}", "", IMPROVEMENT, ""]
        lines += ["| over | metric | pairs | left out | mean | median |", "|---|---|---|---|---|---|"]
        lines += [
            f"| {MARKDOWN.text(label)} | {MARKDOWN.text(metric)} | {share.n} | {share.left_out} "
            f"| {_percent(share.mean)} | {_percent(share.median)} |"
            for (metric, label), share in found.improvements.items()
        ]
    return "\n".join(lines) + "\n"


def _gain_line(one: Compared) -> str:
    n = str(one.gain.n)
    if not one.complete:
        n += MARKDOWN.mark("†")
    interval = MISSING
    if one.gain.interval is not None:
        low, high = one.gain.interval
        interval = f"{low:+z.2f} to {high:+z.2f}"
    texts = [MARKDOWN.text(one.label), n, f"{one.gain.mean:+z.2f}", interval, _p(one.gain.p), _p(one.p_holm)]
    return f"| {' | '.join(texts)} |"


def _rank_lines(ranks: Ranking | str, left_out: Sequence[str]) -> Iterator[str]:
    if isinstance(ranks, str):
        yield ranks
        return
    if left_out:
        yield MARKDOWN.text(
            f"Left out (rows without a number in each pair, pairs not finished or lost): {', '.join(left_out)}."
        )
        yield ""
    yield (
        f"Over {ranks.blocks} pairs. Friedman: chi-squared {ranks.statistic:.2f}, p {_p(ranks.p)}. Mean ranks that are "
        f"{ranks.critical_difference:.2f} apart differ at 5 % (Nemenyi)."
    )
    yield ""
    yield "| row | mean rank |"
    yield "|---|---|"
    for rank, label in sorted(zip(ranks.ranks, ranks.labels, strict=True)):
        yield f"| {MARKDOWN.text(label)} | {rank:.2f} |"


def _p(value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return MISSING
    return f"{value:.3f}" if value >= 0.001 else "< 0.001"


def _percent(share: float | None) -> str:
    return MISSING if share is None else f"{100 * share:.1f} %"
