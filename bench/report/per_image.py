"""Compares two rows image by image: McNemar's test, and an interval over seeds and images. Imports no torch.

A test split is a sample too. McNemar's test asks whether two networks differ by more than its images explain; the
interval over seeds and images holds for other seeds and other images. Only reports import this module, since it imports
scipy and statsmodels.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from scipy import special
from statsmodels.stats.contingency_tables import mcnemar as exact_mcnemar

from bench.report.correction import holm
from bench.report.crossed import paired
from bench.report.frame import Frame
from bench.report.inference import EQUAL, LEVEL, MIN_SEEDS
from bench.report.paper import KD, row_named
from bench.report.summary import Summary
from bench.spec import STUDENT, Crossed, Seed
from bench.store.answers import Answers, stored_answers
from bench.suite import NONE, TEACHER


def mcnemar(own: np.ndarray, other: np.ndarray) -> float:
    """Return the p-value of McNemar's exact test (Psychometrika 12, 1947), two-sided.

    Args:
        own: (n,) bool, whether a network is right about each image.
        other: (n,) bool, the same of another network.
    """
    only_own, only_other = int((own & ~other).sum()), int((other & ~own).sum())
    table = [[int((own & other).sum()), only_own], [only_other, int((~own & ~other).sum())]]
    return float(exact_mcnemar(table, exact=True).pvalue)


def hits_of(answers: Answers) -> np.ndarray:
    """Return whether a student is right about each image: (n,) bool."""
    return np.asarray(answers.logits[STUDENT].argmax(axis=1) == answers.labels)


def interval(own: np.ndarray, other: np.ndarray) -> tuple[float, float] | None:
    """Return the 95 % interval of the mean difference in percentage points, over seeds and images.

    The difference at a seed and an image is mean + seed + image + residual, all independent. Its mean over S seeds and
    n images has the variance (M_seed + M_image - M_residual) / (S n), with the mean squares of a two-way table
    (Searle, Casella and McCulloch, Variance Components, 1992, chapter 4). A bootstrap of seeds and images would count
    the residual up to three times (Owen, Annals of Applied Statistics 1, 2007). There are few seeds and many images, so
    the seeds' part counts with Student's quantile of S - 1 degrees of freedom, and the images' with the normal one
    (Banerjee, Sankhya 22, 1960).

    Args:
        own: (S, n) bool, whether each of S runs is right about each of n images.
        other: (S, n) bool, the same of another row, with equal seeds in equal places.

    Returns:
        Lower and upper end; None if neither seeds nor images explain any difference.
    """
    differences = own.astype(np.float64) - other
    seeds, n = differences.shape
    by_seed, by_image, mean = differences.mean(axis=1), differences.mean(axis=0), differences.mean()
    of_seed, of_image = n * by_seed.var(ddof=1), seeds * by_image.var(ddof=1)
    residual = ((differences - by_seed[:, None] - by_image + mean) ** 2).sum() / ((seeds - 1) * (n - 1))
    reach = special.stdtrit(seeds - 1, (1 + LEVEL) / 2) ** 2 * of_seed
    reach += special.ndtri((1 + LEVEL) / 2) ** 2 * max(of_image - residual, 0.0)
    if reach < EQUAL:
        return None
    reach = np.sqrt(reach / (seeds * n))
    return 100 * float(mean - reach), 100 * float(mean + reach)


def rows(frame: Frame) -> Iterator[dict[str, Any]]:
    """Yield rows of statistics.csv: each method against KD and `none`, where their runs have left answers.

    `mcnemar` is of the first seed that both have. `difference_over_images` is the mean difference over seeds.
    """
    kd = row_named(frame.plan.cells, KD)
    columns: dict[tuple[str, str], dict[str, Hits]] = {}  # by pair and metric, then by label
    for one in frame.primary:
        is_student = one.cell.network == STUDENT and one.cell.method != TEACHER
        if one.recorded == "top1" and is_student and (hits := _hits(one, frame)):
            columns.setdefault((one.pair, one.metric), {})[one.label] = hits
    for (pair, metric), answered in columns.items():
        by_label = _of_equal_length(answered)
        for reference in (kd, NONE):
            if reference in by_label:
                yield from _compared(by_label, pair, metric, reference)


Hits = Mapping[Seed, np.ndarray]  # by seed: (n,) bool, whether a run is right about each image


def _hits(one: Summary, frame: Frame) -> Hits:
    """Return the hits of a row's finished runs, by seed."""
    by_seed: dict[Seed, np.ndarray] = {}
    for run in one.cell.runs:
        if (seed := frame.plan.seed_of(run)) in one.by_seed and (
            answers := stored_answers(frame.store, run.id)
        ) is not None:
            by_seed[seed] = hits_of(answers)
    return by_seed


def _of_equal_length(by_label: Mapping[str, Hits]) -> dict[str, Hits]:
    """Return the hits of as many images as the first run has: a data set that was incomplete has fewer."""
    n = len(next(iter(next(iter(by_label.values())).values())))
    equal = {label: {seed: own for seed, own in of.items() if len(own) == n} for label, of in by_label.items()}
    return {label: of for label, of in equal.items() if of}


def has_interval(hits: Hits) -> bool:
    """Return whether a row has an interval over seeds: crossed ones are not independent of each other."""
    return len(hits) >= MIN_SEEDS and not any(isinstance(seed, Crossed) for seed in hits)


def _compared(by_label: Mapping[str, Hits], pair: str, metric: str, reference: str) -> Iterator[dict[str, Any]]:
    """Yield rows of statistics.csv that compare all rows of a pair with one of them."""
    common = {"metric": metric, "pair": pair, "reference": reference}
    base = by_label[reference]
    tests: list[dict[str, Any]] = []
    differences: list[dict[str, Any]] = []
    for label, own in by_label.items():
        seeds = paired(own, base)
        if label in (reference, NONE) or not seeds:
            continue
        row = {**common, "label": label}
        gaps = [100 * float(own[seed].mean() - base[other].mean()) for seed, other in seeds]
        seed, other = seeds[0]
        test = {"statistic": "mcnemar", "n": 1, "value": gaps[0], "p": mcnemar(own[seed], base[other])}
        tests.append({**row, **test, "note": f"seed {seed}"})
        if has_interval(own) and len(seeds) >= MIN_SEEDS:
            ours = np.stack([own[seed] for seed, _ in seeds])
            theirs = np.stack([base[other] for _, other in seeds])
            low, high = interval(ours, theirs) or (None, None)
            over_images = {"statistic": "difference_over_images", "n": len(seeds), "value": sum(gaps) / len(gaps)}
            differences.append({**row, **over_images, "low": low, "high": high})
    corrected = holm([test["p"] for test in tests])
    yield from ({**test, "p_adjusted": p} for test, p in zip(tests, corrected, strict=True))
    yield from differences
