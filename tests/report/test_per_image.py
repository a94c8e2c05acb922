"""Comparisons image by image, held against simulations with a known truth."""

import numpy as np
import pytest
from safetensors.numpy import save
from scipy.stats import binomtest

from bench.report import per_image
from bench.report.frame import results_frame
from bench.report.per_image import interval, mcnemar
from bench.store import ANSWERS, Store
from tests.stores import cell_of, finish_all, plan_of


def answered(generator, seeds, images, gap, of_seeds, of_images=0.0):
    """Return whether two rows are right, (seeds, images) each: their accuracies differ by `gap`, and between seeds.

    Both rows find the same images hard, as trained networks do, but for what `of_images` adds to each.
    """
    hard = generator.normal(0.0, 0.25, images) + generator.normal(0.0, of_images, (2, images))
    good = 0.7 + generator.normal(0.0, of_seeds, (2, seeds))
    draws = generator.random((2, seeds, images))
    chances = good[:, :, None] + hard[:, None] + np.array([gap, 0.0])[:, None, None]
    return draws < chances


def test_mcnemar_is_a_test_of_the_images_that_one_network_alone_gets_right():
    own = np.array([True] * 30 + [False] * 12 + [True] * 50)
    other = np.array([False] * 30 + [True] * 12 + [True] * 50)
    assert mcnemar(own, other) == pytest.approx(binomtest(30, 42).pvalue)
    assert mcnemar(own, own) == 1.0


def test_mcnemar_rarely_tells_equal_networks_apart_and_often_different_ones():
    generator = np.random.default_rng(0)
    equal = [mcnemar(*(row[0] for row in answered(generator, 1, 400, 0.0, 0.0))) for _ in range(400)]
    better = [mcnemar(*(row[0] for row in answered(generator, 1, 400, 0.12, 0.0))) for _ in range(100)]
    assert np.mean(np.array(equal) < 0.05) <= 0.06  # 0.05, and one standard error of 400 trials
    assert np.mean(np.array(better) < 0.05) >= 0.8


def covered(seeds, images, of_seeds, of_images, trials):
    """Return in which share of simulated comparisons the interval holds the true difference."""
    many = np.random.default_rng(3)  # the truth is that of all images and seeds
    rights = [answered(many, 50, 20_000, 0.05, of_seeds, of_images).mean(axis=(1, 2)) for _ in range(10)]
    truth, generator, count = 100 * np.subtract(*np.mean(rights, axis=0)), np.random.default_rng(2), 0
    for _ in range(trials):
        low, high = interval(*answered(generator, seeds, images, 0.05, of_seeds, of_images)) or (np.inf, -np.inf)
        count += low <= truth <= high
    return count / trials


def test_the_interval_over_seeds_and_images_covers_the_true_difference_as_often_as_it_says():
    assert covered(3, 300, 0.01, 0.1, 600) == pytest.approx(0.95, abs=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("of_images", [0.0, 0.1])
@pytest.mark.parametrize(("seeds", "of_seeds"), [(3, 0.0), (3, 0.01), (5, 0.01), (10, 0.01), (10, 0.03)])
def test_the_interval_covers_whatever_varies(seeds, of_seeds, of_images):
    found = covered(seeds, 1000, of_seeds, of_images, 2000)
    print(f"{seeds} seeds, {100 * of_seeds:g} points between seeds, {of_images:g}: {found:.1%}")  # noqa: T201
    assert found == pytest.approx(0.95, abs=0.02)


def test_runs_that_are_right_about_the_same_images_have_no_interval():
    hits = np.random.default_rng(0).random((3, 50)) < 0.8
    assert interval(hits, hits) is None


def test_methods_are_compared_with_kd_and_none_where_their_runs_have_left_answers(tmp_path):
    plan, store = plan_of(tmp_path, seeds=3, methods=["kd", "at", "sp"]), Store(tmp_path / "results")
    top1 = {"none": 50.0, "KD": 60.0, "AT": 75.0}
    finish_all(store, plan, {label: [top1.get(label, 90.0)] * 3 for label in ("teacher", "none", "KD", "AT", "SP")})
    assert list(per_image.rows(results_frame(plan, store))) == []
    for label, accuracy in top1.items():
        logits = np.zeros((100, 2), dtype=np.float16)
        logits[: int(accuracy), 0] = logits[int(accuracy) :, 1] = 1  # all labels are 0
        tensors = {"logits": logits, "scale": np.ones(1, np.float32), "labels": np.zeros(100, np.int32)}
        for run in cell_of(plan, label).runs:
            store.write(run.id, ANSWERS, save(tensors | {"indices": np.arange(100, dtype=np.int32)}))
    rows = list(per_image.rows(results_frame(plan, store)))
    found = {(row["statistic"], row["label"], row["reference"]): row for row in rows}
    assert {key[1:] for key in found} == {("AT", "KD"), ("KD", "none"), ("AT", "none")}
    test = found["mcnemar", "AT", "none"]
    assert (test["value"], test["p"], test["p_adjusted"]) == (25.0, pytest.approx(2**-24), pytest.approx(2**-23))
    difference = found["difference_over_images", "AT", "KD"]
    assert (difference["value"], difference["n"]) == (pytest.approx(15.0), 3)
    assert 5 < difference["low"] < 15 < difference["high"] < 25
