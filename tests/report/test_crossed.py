"""The model of crossed seeds: its components, and what its intervals hold, on numbers with a known truth."""

import itertools
import math
from collections.abc import Iterator, Mapping

import numpy as np
import pytest
import scipy.stats
from scipy import special

from bench.report.crossed import CrossedModel, components, paired
from bench.spec import Crossed

TABLES = 600


def runs(sizes: tuple[int, int, int], deviations: tuple[float, float, float], rng: np.random.Generator):
    """Return a row whose residual has the deviation 1, with effects of the given deviations."""
    effects = [deviation * rng.standard_normal(size) for deviation, size in zip(deviations, sizes, strict=True)]
    return {
        Crossed(*seeds): float(sum(own[seed] for own, seed in zip(effects, seeds, strict=True)) + rng.standard_normal())
        for seeds in itertools.product(*map(range, sizes))
    }


def simulated(sizes: tuple[int, int, int], deviations: tuple[float, float, float]) -> Iterator[Mapping[Crossed, float]]:
    rng = np.random.default_rng(0)
    return (runs(sizes, deviations, rng) for _ in range(TABLES))


def test_of_an_additive_table_the_components_are_the_variances_of_its_margins():
    init, order = [70.0, 72.0, 71.0], [0.0, 0.5, 1.5, 1.0]
    found = components({Crossed(i, o, None): a + b for i, a in enumerate(init) for o, b in enumerate(order)})
    assert found.seeds == {"init": 3, "order": 4}
    assert found.residual == pytest.approx(0, abs=1e-9)
    assert found.variance("init") == pytest.approx(np.var(init, ddof=1))
    assert found.variance("order") == pytest.approx(np.var(order, ddof=1))


def test_components_are_right_on_average():
    found = [components(values) for values in simulated((3, 3, 2), (2.0, 0.5, 1.0))]
    means = [np.mean([one.variance(source) for one in found]) for source in ("init", "order", "teacher")]
    assert means == pytest.approx([4.0, 0.25, 1.0], abs=0.3)
    assert np.mean([one.residual for one in found]) == pytest.approx(1.0, abs=0.05)


def held(sizes: tuple[int, int, int], deviations: tuple[float, float, float], tables: int) -> float:
    """Return the share of intervals that hold the truth, over simulated tables.

    A table's mean is independent of its interval's width, so the share is known for each width.
    """
    rng = np.random.default_rng(0)
    error = math.sqrt(1 / math.prod(sizes) + sum(own**2 / size for own, size in zip(deviations, sizes, strict=True)))
    contrasts = [components(runs(sizes, deviations, rng)).contrast() for _ in range(tables)]
    reaches = np.array([one.interval[1] - one.value for one in contrasts])
    return float(special.erf(reaches / error / math.sqrt(2)).mean())


@pytest.mark.parametrize("sizes", [(3, 3, 1), (3, 3, 2), (5, 5, 1), (3, 3, 3)])
@pytest.mark.parametrize("deviations", [(0, 0), (0, 0.6), (0.6, 0.6), (0, 2), (2, 2)])
def test_from_92_to_98_and_a_half_percent_of_intervals_hold_the_truth(sizes, deviations):
    assert 0.92 <= held(sizes, (*deviations, 0), 200) <= 0.985


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [(3, 3, 1), (3, 3, 2), (5, 5, 1), (5, 3, 2), (10, 3, 1), (3, 3, 3), (4, 4, 3)])
def test_91_to_98_and_a_half_percent_do_so_whatever_the_ratios_of_the_deviations(sizes):
    sources = sum(size >= 3 for size in sizes)
    grid = itertools.product((0, 0.6, 1.5, 6), repeat=sources)
    shares = {own: held(sizes, (*own, 0, 0)[:3], 1000) for own in grid}
    lowest, highest = min(shares, key=shares.__getitem__), max(shares, key=shares.__getitem__)
    assert shares[lowest] >= 0.91, lowest
    assert shares[highest] <= 0.985, highest


@pytest.mark.parametrize("deviation", [0, 0.6, 2])
def test_of_a_single_source_with_three_seeds_95_percent_of_intervals_hold_the_truth(deviation):
    assert held((3, 2, 1), (deviation, 0, 0), 300) == pytest.approx(0.95, abs=0.02)


def by_seed(table: np.ndarray) -> dict[Crossed, float]:
    """Return the runs of a table with a row per initialisation and a column per order."""
    return {Crossed(*seeds, None): float(value) for seeds, value in np.ndenumerate(table)}


LATIN = np.array([[1.0, 2.0, 3.0], [2.0, 3.0, 1.0], [3.0, 1.0, 2.0]])  # no source has an effect


def test_without_a_source_that_stands_out_all_runs_are_one_sample():
    values = LATIN.ravel()
    expected = scipy.stats.t.interval(0.95, 8, values.mean(), scipy.stats.sem(values))
    assert components(by_seed(LATIN)).contrast().interval == pytest.approx(expected)


def test_if_one_source_stands_out_the_means_of_its_seeds_are_the_sample():
    means = np.array([70.0, 74.0, 75.0])
    found = components(by_seed(LATIN - LATIN.mean() + means[:, None])).contrast()
    assert found.interval == pytest.approx(scipy.stats.t.interval(0.95, 2, means.mean(), scipy.stats.sem(means)))


def test_runs_that_share_a_seed_do_not_count_as_independent():
    tables = list(simulated((3, 3, 1), (2, 2, 0)))
    values = np.array([list(own.values()) for own in tables])
    reach = scipy.stats.t.ppf(0.975, 8) * scipy.stats.sem(values, axis=1)
    as_independent = np.mean(np.abs(values.mean(axis=1)) <= reach)
    intervals = [components(own).contrast().interval for own in tables]
    assert as_independent < 0.8 < np.mean([low <= 0 <= high for low, high in intervals])


def test_a_single_source_gives_students_interval():
    values = [70.0, 71.5, 70.2, 72.0]
    found = components({Crossed(seed, 1, None): value for seed, value in enumerate(values)}).contrast()
    assert found.interval == pytest.approx(scipy.stats.t.interval(0.95, 3, np.mean(values), scipy.stats.sem(values)))


def test_two_teachers_are_taken_as_given():
    rng = np.random.default_rng(1)
    values = runs((3, 3, 2), (1, 1, 0), rng)
    apart = {seeds: value + 50 * seeds.teacher for seeds, value in values.items()}
    found, moved = components(values).contrast(), components(apart).contrast()
    assert moved.value == pytest.approx(found.value + 25)
    assert moved.error == pytest.approx(found.error)


def test_without_a_run_for_each_combination_there_are_no_components():
    values = runs((3, 3, 1), (1, 1, 0), np.random.default_rng(2))
    values.popitem()
    assert components(values) is None


def test_a_row_without_teachers_is_paired_with_each_teachers_runs():
    own = [Crossed(1, 1, 0), Crossed(1, 1, 1), Crossed(2, 1, 0)]
    base = [Crossed(1, 1, None)]
    assert paired(own, base) == [(own[0], base[0]), (own[1], base[0])]


def model(shift: float) -> CrossedModel:
    rng = np.random.default_rng(3)
    base = runs((3, 3, 1), (2, 2, 0), rng)
    rows = {name: {seeds: value + 0.1 * rng.standard_normal() for seeds, value in base.items()} for name in "abc"}
    return CrossedModel(rows | {"d": {seeds: value + shift for seeds, value in rows["a"].items()}})


def test_what_a_seed_does_to_both_rows_cancels_out():
    found = model(1.0)
    (row,) = found.family(["b"], "a").values()
    assert row.interval[1] - row.interval[0] < 1
    assert components(found.values["b"]).contrast().interval[1] > 1


def test_p_is_adjusted_by_holms_correction_and_the_best_row_stands_out():
    found = model(1.0)
    contrasts = found.family(["b", "c", "d"], "a")
    assert contrasts["d"].p is None  # the same distance everywhere
    tested = sorted((contrasts[row].p, contrasts[row].p_adjusted) for row in "bc")
    assert tested[0][1] == pytest.approx(min(1, 2 * tested[0][0]))
    assert found.may_be_best(list("bcd")) == {"d"}
