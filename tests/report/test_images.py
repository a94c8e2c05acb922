"""Comparisons image by image, held against simulations with a known truth."""

import numpy as np
import pytest
from safetensors.numpy import save
from scipy.stats import binomtest

from bench.report import images
from bench.report.frame import results_frame
from bench.report.images import interval, mcnemar, resampled
from bench.store import ANSWERS, Store
from tests.stores import cell_of, finish_all, plan_of


def answered(generator, seeds, images, gap, of_seeds):
    """Return whether two rows are right, (seeds, images) each: their accuracies differ by `gap`, and between seeds.

    Both rows find the same images hard, and the same seeds good, as trained networks do.
    """
    hard = generator.normal(0.0, 0.25, images)
    good = 0.7 + generator.normal(0.0, of_seeds, (2, seeds))
    draws = generator.random((2, seeds, images))
    chances = good[:, :, None] + hard + np.array([gap, 0.0])[:, None, None]
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


def test_resampled_accuracies_spread_as_the_accuracy_of_other_images_would():
    hits = np.random.default_rng(1).random((1, 500)) < 0.8
    found = resampled(hits, np.random.default_rng(0))
    share = hits.mean()
    assert found.mean() == pytest.approx(100 * share, abs=0.2)
    assert found.std() == pytest.approx(100 * np.sqrt(share * (1 - share) / 500), rel=0.05)


@pytest.mark.parametrize(("seeds", "of_seeds", "least"), [(3, 0.0, 0.93), (10, 0.02, 0.91)])
def test_the_interval_over_seeds_and_images_covers_the_true_difference(seeds, of_seeds, least):
    generator, covered, trials = np.random.default_rng(2), 0, 200
    # the true difference on all images and seeds, with chances kept within [0, 1]
    truth = 100 * np.subtract(*(row.mean() for row in answered(np.random.default_rng(3), 400, 20_000, 0.05, of_seeds)))
    for _ in range(trials):
        own, other = answered(generator, seeds, 300, 0.05, of_seeds)
        accuracies = resampled(np.concatenate([own, other]), generator, resamples=400)
        low, high = interval(*np.split(accuracies, 2), generator)
        covered += low <= truth <= high
    assert covered / trials >= least


def test_methods_are_compared_with_kd_and_none_where_their_runs_have_left_answers(tmp_path):
    plan, store = plan_of(tmp_path, seeds=3, methods=["kd", "at", "sp"]), Store(tmp_path / "results")
    top1 = {"none": 50.0, "KD": 60.0, "AT": 75.0}
    finish_all(store, plan, {label: [top1.get(label, 90.0)] * 3 for label in ("teacher", "none", "KD", "AT", "SP")})
    assert list(images.rows(results_frame(plan, store), store)) == []
    for label, accuracy in top1.items():
        logits = np.zeros((100, 2), dtype=np.float16)
        logits[: int(accuracy), 0] = logits[int(accuracy) :, 1] = 1  # all labels are 0
        tensors = {"logits": logits, "scale": np.ones(1, np.float32), "labels": np.zeros(100, np.int32)}
        for run in cell_of(plan, label).runs:
            store.write(run.id, ANSWERS, save(tensors | {"indices": np.arange(100, dtype=np.int32)}))
    rows = list(images.rows(results_frame(plan, store), store))
    found = {(row["statistic"], row["label"], row["reference"]): row for row in rows}
    assert {key[1:] for key in found} == {("AT", "KD"), ("KD", "none"), ("AT", "none")}
    test = found["mcnemar", "AT", "none"]
    assert (test["value"], test["p"], test["p_holm"]) == (25.0, pytest.approx(2**-24), pytest.approx(2**-23))
    difference = found["difference_over_images", "AT", "KD"]
    assert (difference["value"], difference["n"]) == (pytest.approx(15.0), 3)
    assert 5 < difference["low"] < 15 < difference["high"] < 25
