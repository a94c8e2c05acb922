"""Comparisons of two rows image by image, from the stored answers of their runs. Imports no torch.

A test split is a sample too. McNemar's test asks whether two networks differ by more than its images explain; the
bootstrap resamples seeds and images, so that its interval holds for other seeds and other images. Only reports import
this module, since it imports scipy and statsmodels.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from statsmodels.stats.contingency_tables import mcnemar as exact_mcnemar

from bench.plan import Plan
from bench.report.crossed import paired
from bench.report.frame import Frame, Summary
from bench.report.paper import KD, row_named
from bench.report.statistics import LEVEL, holm
from bench.spec import STUDENT, Crossed, Seed
from bench.store import Store
from bench.store.answers import stored_answers
from bench.suite import NONE, TEACHER

RESAMPLES = 2000
AT_ONCE = 50  # resamples of images: 4 MB for 10,000 of them
MIN_SEEDS = 3  # with fewer, resampled seeds say nothing of others


def mcnemar(own: np.ndarray, other: np.ndarray) -> float:
    """Return the p-value of McNemar's exact test (Psychometrika 12, 1947), two-sided.

    Args:
        own: (n,) bool, whether a network is right about each image.
        other: (n,) bool, the same of another network.
    """
    only_own, only_other = int((own & ~other).sum()), int((other & ~own).sum())
    table = [[int((own & other).sum()), only_own], [only_other, int((~own & ~other).sum())]]
    return float(exact_mcnemar(table, exact=True).pvalue)


def resampled(hits: np.ndarray, generator: np.random.Generator, resamples: int = RESAMPLES) -> np.ndarray:
    """Return the accuracies in percent (runs, resamples) of runs on images drawn with replacement, the same for all.

    `hits` (runs, n) says whether each run is right about each of n images.
    """
    n = hits.shape[1]
    values = hits.astype(np.float32)
    parts = []
    for first in range(0, resamples, AT_ONCE):
        size = min(AT_ONCE, resamples - first)
        counts = [np.bincount(generator.integers(0, n, n), minlength=n) for _ in range(size)]
        parts.append(values @ np.asarray(counts, dtype=np.float32).T)
    return 100 * np.concatenate(parts, axis=1) / n


def interval(own: np.ndarray, other: np.ndarray, generator: np.random.Generator) -> tuple[float, float]:
    """Return the 95 % percentile interval of the mean difference in percentage points, over seeds and images.

    Both (seeds, resamples) are of `resampled`, with equal seeds in equal places. The seeds are drawn with replacement
    too, as in the pigeonhole bootstrap (Owen, Annals of Applied Statistics 1, 2007); the deviations of their weights
    are times sqrt(S / (S - 1)), without which the variance of S seeds is too small by that factor's square.
    """
    differences = own - other
    seeds, resamples = differences.shape
    weights = generator.multinomial(seeds, np.full(seeds, 1 / seeds), size=resamples) / seeds
    weights = 1 / seeds + (weights - 1 / seeds) * np.sqrt(seeds / (seeds - 1))
    low, high = np.quantile((weights.T * differences).sum(axis=0), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def rows(frame: Frame, store: Store) -> Iterator[dict[str, Any]]:
    """Yield rows of statistics.csv: each method against KD and `none`, where their runs have left answers.

    `mcnemar` is of the first seed that both have. `difference_over_images` is the mean difference over seeds.
    """
    kd = row_named(frame.plan.cells, KD)
    columns: dict[tuple[str, str], dict[str, Hits]] = {}  # by pair and metric, then by label
    for one in frame.primary:
        is_student = one.cell.network == STUDENT and one.cell.method != TEACHER
        if one.recorded == "top1" and is_student and (hits := _hits(one, frame.plan, store)):
            columns.setdefault((one.pair, one.metric), {})[one.label] = hits
    for (pair, metric), found in columns.items():
        by_label = _of_equal_length(found)
        draws = _draws(by_label)
        for reference in (kd, NONE):
            if reference in by_label:
                yield from _compared(by_label, draws, pair, metric, reference)


Hits = Mapping[Seed, np.ndarray]  # by seed: (n,) bool, whether a run is right about each image
Draws = Mapping[tuple[str, Seed], np.ndarray]  # by label and seed: (resamples,) accuracies in percent, see `resampled`


def _hits(one: Summary, plan: Plan, store: Store) -> Hits:
    """Return the answers of a row's finished runs, by seed."""
    found: dict[Seed, np.ndarray] = {}
    for run in one.cell.runs:
        if (seed := plan.seed_of(run)) in one.by_seed and (answers := stored_answers(store, run.id)) is not None:
            found[seed] = answers.logits[STUDENT].argmax(axis=1) == answers.labels
    return found


def _of_equal_length(by_label: Mapping[str, Hits]) -> dict[str, Hits]:
    """Return what has as many images as the first run: a data set that was incomplete once has fewer."""
    n = len(next(iter(next(iter(by_label.values())).values())))
    equal = {label: {seed: own for seed, own in of.items() if len(own) == n} for label, of in by_label.items()}
    return {label: of for label, of in equal.items() if of}


def has_interval(hits: Hits) -> bool:
    """Return whether a row's seeds can be resampled: crossed ones are not independent of each other."""
    return len(hits) >= MIN_SEEDS and not any(isinstance(seed, Crossed) for seed in hits)


def _draws(by_label: Mapping[str, Hits]) -> Draws:
    """Return the resampled accuracies of all rows of a pair that have enough seeds."""
    enough = {label: hits for label, hits in by_label.items() if has_interval(hits)}
    places = {(label, seed): own for label, hits in enough.items() for seed, own in hits.items()}
    if not places:
        return {}
    generator = np.random.default_rng(0)  # the same store gives the same file
    return dict(zip(places, resampled(np.stack(list(places.values())), generator), strict=True))


def _compared(
    by_label: Mapping[str, Hits], draws: Draws, pair: str, metric: str, reference: str
) -> Iterator[dict[str, Any]]:
    """Yield the rows of all rows of a pair against one of them."""
    common = {"metric": metric, "pair": pair, "reference": reference}
    base, generator = by_label[reference], np.random.default_rng(1)
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
            ours = np.stack([draws[label, seed] for seed, _ in seeds])
            theirs = np.stack([draws[reference, other] for _, other in seeds])
            low, high = interval(ours, theirs, generator)
            found = {"statistic": "difference_over_images", "n": len(seeds), "value": sum(gaps) / len(gaps)}
            differences.append({**row, **found, "low": low, "high": high})
    corrected = holm([test["p"] for test in tests])
    yield from ({**test, "p_adjusted": p} for test, p in zip(tests, corrected, strict=True))
    yield from differences
