"""What is said over pairs, held against simulations with a known truth: coverage of intervals, errors of tests."""

import math

import numpy as np
import pytest

from bench.report.improvement import relative_improvement
from bench.report.statistics import (
    gain_over_pairs,
    holm,
    interquartile_mean,
    over_pairs_and_seeds,
    probability_of_improvement,
)

SHARE = 0.5  # the true relative improvement


def fieller(samples: int, gain: float, trials: int) -> float:
    """Return how many of Fieller's intervals hold the truth; the method is above the student by `gain` deviations."""
    rng = np.random.default_rng(0)
    intervals = []
    for _ in range(trials):
        student, other, ours = rng.standard_normal((3, samples))
        found = relative_improvement(ours + (1 + SHARE) * gain, other + gain, student)
        if found.interval is not None:
            intervals.append(found.interval)
    return float(np.mean([low <= SHARE <= high for low, high in intervals]))


def over_pairs(statistic, pairs: int, seeds: int, of_pairs: float, trials: int) -> float:
    """Return how many intervals over pairs and seeds hold the truth.

    The gain is 0.5 on average, with a deviation of `of_pairs` between pairs and of 1 between the seeds of a pair.
    """
    many = np.random.default_rng(1).normal(0.5, math.hypot(of_pairs, 1.0), (200_000, 1))
    truth, rng, covered = float(statistic(many)), np.random.default_rng(0), 0
    for _ in range(trials):
        gains = rng.normal(0.5, of_pairs, (pairs, 1)) + rng.standard_normal((pairs, seeds))
        low, high = over_pairs_and_seeds(gains, statistic).interval
        covered += low <= truth <= high
    return covered / trials


def null_rates(pairs: int, methods: int, tables: int) -> dict[str, float]:
    """Return rates over tables in which no method differs from the reference.

    `covered`: intervals of the gain that hold the truth; `single`: Wilcoxon's p below 0.05; `family`: tables in which a
    p is below 0.05 after Holm's correction.
    """
    rng, found = np.random.default_rng(0), {"covered": 0.0, "single": 0.0, "family": 0.0}
    for _ in range(tables):
        reference, *rows = rng.standard_normal((methods + 1, pairs))
        gains = [gain_over_pairs(row, reference) for row in rows]
        found["covered"] += np.mean([low <= 0 <= high for low, high in (one.interval for one in gains)])
        found["single"] += np.mean([one.p < 0.05 for one in gains])
        p = [one.p for one in gains]
        found["family"] += min(p) < 0.05 and min(holm(p)) < 0.05  # a correction makes no p smaller
    return {name: count / tables for name, count in found.items()}


def check(rates: dict[str, float], tables: int) -> None:
    """Check rates of `null_rates`: errors are at most the level, up to two standard errors of the simulation."""
    assert rates["covered"] == pytest.approx(0.95, abs=0.02)
    assert rates["single"] <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / tables)
    assert rates["family"] <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / tables)


def test_fiellers_interval_covers_as_often_as_it_says():
    assert fieller(5, 8.0, 1000) == pytest.approx(0.95, abs=0.02)


@pytest.mark.parametrize("statistic", [probability_of_improvement, interquartile_mean])
def test_an_interval_over_pairs_and_seeds_covers_as_often_as_it_says(statistic):
    assert over_pairs(statistic, 13, 3, 0.5, 2000) == pytest.approx(0.95, abs=0.02)


def test_tests_over_pairs_err_no_more_often_than_their_level():
    check(null_rates(8, 4, 100), 100)


@pytest.mark.slow
@pytest.mark.parametrize(("samples", "gain"), [(3, 8.0), (5, 4.0), (6, 4.0), (13, 2.0), (13, 8.0)])
def test_fiellers_interval_covers_in_many_simulations(samples, gain):
    found = fieller(samples, gain, 4000)
    print(f"fieller, {samples} samples, gain {gain:g}: {found:.1%}")  # noqa: T201
    assert found == pytest.approx(0.95, abs=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("statistic", [probability_of_improvement, interquartile_mean])
@pytest.mark.parametrize(("pairs", "seeds", "of_pairs"), [(6, 3, 0.0), (6, 3, 0.5), (13, 3, 0.5), (13, 5, 1.0)])
def test_an_interval_over_pairs_and_seeds_covers_in_many_simulations(statistic, pairs, seeds, of_pairs):
    found = over_pairs(statistic, pairs, seeds, of_pairs, 4000)
    print(f"{statistic.__name__}, {pairs} pairs, {seeds} seeds, {of_pairs:g}: {found:.1%}")  # noqa: T201
    assert found == pytest.approx(0.95, abs=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("pairs", [6, 10, 13])
def test_tests_over_pairs_keep_their_level_in_many_simulations(pairs):
    rates = null_rates(pairs, 12, 400)
    print(f"{pairs} pairs: {rates}")  # noqa: T201
    check(rates, 400)
