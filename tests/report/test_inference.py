"""The row-by-seed model, on numbers with a known truth and on real ones."""

import csv
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from scipy import special

from bench.report.inference import KEEPS_OWN, any_as_small, common_variance, fit, inverse_trigamma
from tests.few import short_or_whole

GOLDEN = Path(__file__).parents[1] / "golden"


def rows_of(table: np.ndarray) -> dict[str, dict[int, float]]:
    return {f"row {number}": dict(enumerate(map(float, values))) for number, values in enumerate(table)}


def fashion_mnist() -> dict[str, dict[int, float]]:
    """Return top-1 accuracies of 13 rows after 12 epochs of 10,000 images, without FT, which is far noisier."""
    values: dict[str, dict[int, float]] = {}
    with (GOLDEN / "rows_by_seed.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["row"] != "FT":
                values.setdefault(row["row"], {})[int(row["seed"])] = float(row["top1"])
    return values


def test_on_fashion_mnist_the_residual_deviation_is_0_30_and_8_of_12_rows_differ_from_none():
    model = fit(fashion_mnist())
    assert math.sqrt(model.residual_variance) == pytest.approx(0.30, abs=0.005)
    assert model.residual_df == pytest.approx(24)
    contrasts = model.family(model.values, "none")
    assert len(contrasts) == 12
    assert sum(one.p_adjusted < 0.05 for one in contrasts.values()) == 8


def test_two_rows_are_compared_by_the_paired_t_test():
    values, reference = [75.0, 76.0, 74.5, 75.2], [74.0, 74.8, 73.9, 74.1]
    found = fit(rows_of(np.array([reference, values]))).contrast("row 1", "row 0")
    expected = scipy.stats.ttest_rel(values, reference)
    assert (found.p, found.df) == (pytest.approx(expected.pvalue), pytest.approx(3))
    assert found.interval == pytest.approx(tuple(expected.confidence_interval(0.95)))


def test_the_correction_is_dunnetts():
    samples = [np.random.default_rng(seed).standard_normal(5) for seed in range(4)]
    expected = scipy.stats.dunnett(*samples[1:], control=samples[0], rng=np.random.default_rng(0))
    p = 2 * scipy.stats.t.sf(np.abs(expected.statistic), 16)
    assert any_as_small(p, [0.5] * 3, [16] * 3) == pytest.approx(expected.pvalue, abs=2e-3)


def test_the_correction_of_a_small_p_is_that_of_the_multivariate_t():
    (found,) = any_as_small([1e-4], [0.5] * 3, [10] * 3)
    t = scipy.stats.t.isf(0.5e-4, 10)
    known = {"shape": np.eye(3) / 2 + 0.5, "df": 10, "maxpts": 200_000, "random_state": np.random.default_rng(0)}
    expected = 1 - scipy.stats.multivariate_t.cdf([t] * 3, lower_limit=[-t] * 3, **known)
    assert found == pytest.approx(expected, rel=0.1)


def test_what_a_seed_adds_to_all_rows_changes_no_contrast():
    table = np.random.default_rng(0).standard_normal((5, 3))
    before, after = (
        fit(rows_of(one)).contrast("row 1", "row 0") for one in (table, table + np.array([10.0, -20.0, 30.0]))
    )
    assert (after.value, after.p) == (pytest.approx(before.value), pytest.approx(before.p))


def test_a_comparison_uses_the_seeds_that_both_rows_have():
    found = fit({"a": {1: 1.0, 2: 2.0, 3: 9.0}, "b": {1: 0.0, 2: 0.5}, "c": {1: 0.1, 2: 1.0, 3: 1.5}}).contrast(
        "a", "b"
    )
    assert (found.n, found.value, found.interval) == (2, 1.25, None)
    assert 0 < found.p < 1


def test_one_seed_or_differences_without_spread_give_no_test():
    assert fit({"a": {1: 1.0}, "b": {1: 0.0}}).contrast("a", "b").p is None
    assert fit({"a": {1: 1.0, 2: 2.0}, "b": {1: 0.0, 2: 1.0}}).contrast("a", "b").p is None
    assert fit({"a": {1: 1.0}, "b": {2: 0.0}}).contrast("a", "b") is None


def test_a_noisy_row_neither_widens_the_others_intervals_nor_counts_as_the_best():
    rows = fashion_mnist()
    model = fit(rows | {"FT": {1: 83.00, 2: 80.87, 3: 82.97}})
    alone = fit(rows).contrast("KD", "none")
    assert model.contrast("KD", "none").error == pytest.approx(alone.error, rel=0.15)
    assert "FT" not in model.may_be_best([row for row in model.values if row != "none"])


def test_a_reference_that_is_noisier_than_the_others_keeps_its_own_variance():
    table = np.random.default_rng(0).standard_normal((14, 3))
    table[0] = [-1.2, 0.0, 1.2]  # by chance
    model = fit(rows_of(table))
    assert "row 0" not in model.noisy
    assert model.variances_as_reference["row 0"] > model.variances["row 0"]
    assert model.contrast("row 1", "row 0").error > model.contrast("row 0", "row 1").error


@pytest.mark.parametrize("noisy", ["row 0", "row 1"])  # as the reference, or as the row
def test_a_comparison_with_a_row_noisier_than_chance_has_its_own_noise_and_few_degrees_of_freedom(noisy):
    table = np.array([np.roll([-1.0, 0.0, 1.0], row) for row in range(14)])
    table[int(noisy[-1])] = [-4.0, 1.0, 3.0]
    model = fit(rows_of(table))
    assert model.noisy == {noisy}
    assert model.variances[noisy] == pytest.approx(13.0, rel=0.1)
    assert model.contrast("row 1", "row 0").df == pytest.approx(2, abs=0.1)
    assert model.contrast("row 3", "row 2").df == pytest.approx(24, abs=0.1)


def test_several_far_noisier_rows_do_not_hide_each_other():
    table = np.array([np.roll([-1.0, 0.0, 1.0], row) for row in range(14)])
    for row, scale in ((1, 5), (2, 6), (3, 12)):
        table[row] = scale * np.roll([-0.9, -0.1, 1.0], row)
    model = fit(rows_of(table))
    assert model.noisy == {"row 1", "row 2", "row 3"}
    alone = fit({row: own for row, own in rows_of(table).items() if row not in model.noisy})
    assert model.contrast("row 4", "row 0").interval == pytest.approx(alone.contrast("row 4", "row 0").interval, 0.02)


def test_at_most_half_of_the_rows_are_far_noisier():
    table = np.array([0.01 * np.roll([-1.0, 0.0, 1.0], row) for row in range(2)] + [[-3.0, 1.0, 2.0]] * 3)
    table[3:] = [[2.0, -3.0, 1.0], [1.0, 2.0, -3.0]]
    assert len(fit(rows_of(table)).noisy) <= 2


def test_a_row_of_equal_values_changes_no_other_contrast():
    rows = rows_of(np.random.default_rng(0).standard_normal((4, 3)) + np.array([5.0, -5.0, 0.0]))
    collapsed = {name: {0: 10.0, 1: 10.0, 2: 10.0} for name in ("collapsed", "another")}
    before, after = (fit(own).contrast("row 1", "row 0") for own in (rows, rows | collapsed))
    assert after == before


def test_the_trigamma_function_is_inverted():
    values = np.logspace(-9, 4, 27)
    assert special.polygamma(1, inverse_trigamma(values)) == pytest.approx(values)


def test_variances_from_a_known_prior_give_its_variance_and_degrees_of_freedom():
    rng = np.random.default_rng(0)
    truth, dfs = 3.0 * 8 / rng.chisquare(8, 4000), np.full(4000, 4.0)
    own = truth * rng.chisquare(4, 4000) / 4
    assert common_variance(own, dfs, own > 0) == (pytest.approx(8, rel=0.1), pytest.approx(3.0, rel=0.05))


def test_the_common_variance_of_some_rows_is_that_of_these_rows_alone():
    own, dfs = np.array([1.0, 2.0, 30.0, 0.5, 4.0]), np.array([2.0, 2.0, 1.5, 2.0, 3.0])
    counted = np.array([[True, True, True, True, False], [True, False, True, True, True]])
    found = np.array(common_variance(own, dfs, counted)).T
    alone = [np.array(common_variance(own[some], dfs[some], some[some])) for some in counted]
    assert found == pytest.approx(np.array(alone))


def test_in_a_small_table_a_row_is_compared_with_the_noise_of_the_others_alone():
    table = np.array([[-1.0, 0.0, 1.0], [0.0, 1.0, -1.0], [1.0, -1.0, 0.0], [-4.0, 1.0, 3.0]])
    assert fit(rows_of(table)).noisy == {"row 3"}


def test_all_comparisons_with_a_noisy_reference_share_the_estimate_of_its_noise():
    table = np.random.default_rng(0).standard_normal((14, 3))
    table[0], table[1] = [-4.0, 1.0, 3.0], [-2.5, 0.5, 2.0]
    model = fit(rows_of(table))
    assert {"row 0", "row 1"} <= set(model.noisy)
    family = model.family(model.values, "row 0")
    shares = [model.variances["row 0"] / (model.variances["row 0"] + model.variances[row]) for row in family]
    p, dfs = [one.p for one in family.values()], [one.df for one in family.values()]
    together = any_as_small(p, shares, dfs, is_pooled=True)
    assert [one.p_adjusted for one in family.values()] == pytest.approx(together.tolist())


def simulated(
    rows: int,
    seeds: int,
    repeats: int,
    shift: float = 0.0,
    prior_df: float = math.inf,
    deviations: Mapping[int, float] | None = None,
) -> dict[str, float]:
    """Return rates over simulated tables in which all rows but the last have the same mean.

    Each row's noise variance is 1, or drawn from a scaled inverse chi-squared distribution; `deviations` are those of
    single rows. The last row is `shift` above the others. `errors`: tables in which another row seems to differ from
    the first; `covered`: intervals that hold the truth; `covered_least`: those of the row that has fewest such
    intervals; `power`: tables in which the last row seems to differ; `best`: in which it is among the best, counted
    where all rows are equally noisy.
    """
    rng = np.random.default_rng(0)
    is_equal = math.isinf(prior_df) and not deviations
    found = {"errors": 0.0, "power": 0.0, "best": 0.0}
    covered = np.zeros(rows - 1)
    for _ in range(repeats):
        scale = np.ones(rows) if math.isinf(prior_df) else np.sqrt(prior_df / rng.chisquare(prior_df, rows))
        for row, deviation in (deviations or {}).items():
            scale[row] = deviation
        table = rng.standard_normal((rows, seeds)) * scale[:, None] + rng.standard_normal(seeds)
        table[-1] += shift
        model = fit(rows_of(table))
        *same, last = model.family(model.values, "row 0").values()
        found["errors"] += min(one.p_adjusted for one in same) < 0.05
        truths = [0.0] * len(same) + [shift]
        intervals = [one.interval for one in [*same, last]]
        covered += [low < truth < high for (low, high), truth in zip(intervals, truths, strict=True)]
        found["power"] += last.p_adjusted < 0.05
        found["best"] += is_equal and f"row {rows - 1}" in model.may_be_best(model.values)
    shares = {"covered": covered.mean(), "covered_least": covered.min()}
    return {name: float(count / repeats) for name, count in (found | shares).items()}


def test_in_simulated_tables_intervals_cover_and_errors_stay_at_the_level():
    rates = simulated(rows=6, seeds=3, repeats=200, shift=3.0)
    print(rates)  # noqa: T201
    assert rates["covered"] == pytest.approx(0.95, abs=0.02)
    assert rates["errors"] < 0.05 + 2 * math.sqrt(0.05 * 0.95 / 200)
    assert rates["best"] > 0.95 - 2 * math.sqrt(0.05 * 0.95 / 200)


@pytest.mark.slow
@pytest.mark.parametrize(("rows", "seeds", "repeats", "shift"), [(14, 3, 400, 3.0), (14, 5, 250, 2.0)])
def test_in_many_simulated_tables_too(rows, seeds, repeats, shift):
    rates = simulated(rows, seeds, repeats, shift)
    print(rates)  # noqa: T201
    assert rates["covered"] == pytest.approx(0.95, abs=0.02)
    assert rates["errors"] < 0.05 + 2 * math.sqrt(0.05 * 0.95 / repeats)
    assert rates["best"] > 0.95 - 2 * math.sqrt(0.05 * 0.95 / repeats)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("seeds", "shift", "noise", "errors"),
    [
        # docs/statistics.md says where 5 % is not reached
        (3, 3.0, {"deviations": {0: 2.0}}, 0.06),
        (3, 3.0, {"deviations": {1: 4.0}}, 0.05),
        (3, 3.0, {"deviations": {1: 4.0, 2: 4.0, 3: 8.0}}, 0.08),
        (3, 3.0, {"prior_df": 4}, 0.05),
        (5, 2.0, {"deviations": {0: 2.0}}, 0.05),
        (5, 2.0, {"deviations": {1: 4.0, 2: 4.0, 3: 8.0}}, 0.05),
        (5, 2.0, {"prior_df": 4}, 0.05),
    ],
    ids=["reference", "row", "three rows", "all", "reference 5", "three rows 5", "all 5"],
)
def test_in_tables_whose_rows_are_not_equally_noisy_too(seeds, shift, noise, errors):
    rates = simulated(14, seeds, 1500, shift, **noise)
    print(rates)  # noqa: T201
    assert rates["covered"] == pytest.approx(0.95, abs=0.02)
    assert rates["covered_least"] > 0.90
    assert rates["errors"] < errors + 2 * math.sqrt(0.05 * 0.95 / 1500)


@pytest.mark.slow
def test_in_tables_of_four_rows_the_intervals_of_a_noisy_row_hold_the_truth_too():
    rates = simulated(4, 3, 1500, 3.0, deviations={1: 6.0})
    print(rates)  # noqa: T201
    assert rates["covered_least"] == pytest.approx(0.95, abs=0.02)
    assert rates["errors"] < 0.05 + 2 * math.sqrt(0.05 * 0.95 / 1500)


@pytest.mark.parametrize(("seeds", "deviations"), [(3, {}), (5, {}), (5, {0: 2.0})])
def test_a_new_row_of_the_smallest_detectable_difference_is_found_in_about_80_percent_of_tables(seeds, deviations):
    rng = np.random.default_rng(0)
    scale = np.array([deviations.get(row, 1.0) for row in range(8)])
    repeats, found = short_or_whole(200, 1000), 0
    for _ in range(repeats):
        table = rng.standard_normal((8, seeds)) * scale[:, None]
        before = fit(rows_of(table[:-1]))
        table[-1] += before.detectable(before.values, "row 0")
        after = fit(rows_of(table))
        found += after.family(after.values, "row 0")["row 7"].p_adjusted < 0.05
    assert found / repeats == pytest.approx(0.8, abs=short_or_whole(0.08, 0.06))


@pytest.mark.parametrize("noisy", ["row 1", "row 2"])
def test_the_smallest_detectable_difference_is_found_by_the_noncentral_t_with_its_probability(noisy):
    table = np.array([np.roll([-1.0, 0.0, 1.0], row) for row in range(3)])
    table[int(noisy[-1])] *= 20
    model = fit(rows_of(table))
    shift = model.detectable(["row 1"], "row 0")
    one = model.family(["row 1"], "row 0")["row 1"]
    critical = scipy.stats.t.isf(0.025, one.df)
    found = scipy.stats.nct.sf(critical, one.df, shift / one.error)
    assert found == pytest.approx(0.8 if "row 1" in model.noisy else 0.8 / (1 - KEEPS_OWN), abs=1e-3)
