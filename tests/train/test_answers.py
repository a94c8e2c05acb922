"""What classifiers leave of their answers to the test images, held against the same numbers computed the slow way."""

import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import save
from torch import nn
from torch.testing import assert_close
from torchmetrics.functional.classification import multiclass_calibration_error

from bench.data.images import ResidentImages, Split
from bench.store import ANSWERS, Store
from bench.store.answers import compared, stored_answers
from bench.tasks.objectives import BINS, class_accuracies, scores
from bench.train.answers import answers, halved, packed, smallest
from tests.stores import cell_of, plan_of
from tests.train.conftest import CPU, Bench, document
from tests.train.test_outputs import DATA

CLASSES = 6


@pytest.fixture
def sample():
    """Return logits (200, 6) of a student and of a teacher, and labels (200,)."""
    generator = torch.Generator().manual_seed(0)
    logits, teacher = (2 * torch.randn(200, CLASSES, generator=generator) for _ in range(2))
    return logits, teacher, torch.randint(0, CLASSES, (200,), generator=generator)


def probabilities(logits):
    exponentials = np.exp(logits.double().numpy())
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def test_the_likelihood_is_that_of_the_labels(sample):
    logits, _, labels = sample
    own = probabilities(logits)
    expected = -np.mean([math.log(own[i, label]) for i, label in enumerate(labels.tolist())])
    assert scores(logits, labels)["nll"] == pytest.approx(expected)


def test_the_calibration_error_is_a_weighted_mean_over_bins_of_equal_width(sample):
    logits, _, labels = sample
    own = probabilities(logits)
    confidence, hits = own.max(axis=1), own.argmax(axis=1) == labels.numpy()
    expected = 0.0
    for number in range(BINS):
        inside = (confidence > number / BINS) & (confidence <= (number + 1) / BINS)
        if inside.any():
            expected += inside.mean() * abs(hits[inside].mean() - confidence[inside].mean())
    theirs = multiclass_calibration_error(logits.double().softmax(dim=1), labels, CLASSES, n_bins=BINS, norm="l1")
    assert scores(logits, labels)["ece"] == pytest.approx(100 * expected)
    assert scores(logits, labels)["ece"] == pytest.approx(100 * theirs.item())


def test_the_adaptive_error_has_bins_of_equally_many_images(sample):
    logits, _, labels = sample
    own = probabilities(logits)
    confidence, hits = own.max(axis=1), own.argmax(axis=1) == labels.numpy()
    parts = np.array_split(np.argsort(confidence, kind="stable"), BINS)
    expected = sum(len(part) / 200 * abs(hits[part].mean() - confidence[part].mean()) for part in parts)
    assert scores(logits, labels)["ece_adaptive"] == pytest.approx(100 * expected)


def test_each_class_has_its_accuracy_and_a_class_without_images_none(sample):
    logits, _, labels = sample
    labels = labels.clamp(max=CLASSES - 2)
    right = logits.argmax(dim=1) == labels
    expected = [100 * right[labels == label].double().mean().item() for label in range(CLASSES - 1)]
    found = class_accuracies(logits, labels)
    assert found == [*(pytest.approx(value, abs=1e-3) for value in expected), None]
    assert scores(logits, labels)["class_min"] == min(found[:-1])


def test_a_student_is_compared_with_its_teachers_predictions_and_probabilities(sample):
    logits, teacher, _ = sample
    own, taught = probabilities(logits), probabilities(teacher)
    found = compared(logits.numpy(), teacher.numpy())
    assert found["agreement"] == pytest.approx(100 * np.mean(own.argmax(axis=1) == taught.argmax(axis=1)))
    assert found["teacher_kl"] == pytest.approx((taught * np.log(taught / own)).sum(axis=1).mean())
    assert compared(teacher.numpy(), teacher.numpy()) == {
        "agreement": 100.0,
        "teacher_kl": pytest.approx(0.0, abs=1e-12),
    }


def test_logits_that_half_precision_holds_are_kept_as_they_are():
    logits = torch.tensor([[1.5, -65504.0], [0.25, 3.0]])
    half, scale = halved(logits)
    assert_close(half.float(), logits, rtol=0, atol=0)
    assert scale.tolist() == [1.0]


def test_logits_that_overflow_are_scaled_and_keep_their_order():
    logits = torch.tensor([[70000.0, 80000.0, -1e6]])
    half, scale = halved(logits)
    assert half.isfinite().all()
    assert_close(half.float() * scale, logits, rtol=2**-11, atol=0)
    assert half.argmax(dim=1).tolist() == [1]


def test_a_probability_of_zero_is_kept_and_what_is_no_number_is_refused():
    assert halved(torch.tensor([[0.0, -math.inf]]))[0].float().softmax(dim=1).tolist() == [[1.0, 0.0]]
    with pytest.raises(ValueError, match="not finite"):
        halved(torch.tensor([[0.0, math.nan]]))


@pytest.mark.parametrize(
    ("largest", "expected"),
    [(0, torch.uint8), (255, torch.uint8), (256, torch.int16), (32_767, torch.int16), (32_768, torch.int32)],
)
def test_whole_numbers_are_kept_in_the_smallest_type_that_holds_them(largest, expected):
    kept = smallest(torch.tensor([0, largest]))
    assert (kept.dtype, kept.tolist()) == (expected, [0, largest])


def test_the_answers_to_cifar_100_take_three_bytes_per_image_more_than_their_logits():
    split = Split(ResidentImages(torch.zeros(10_000, 1, 1, 1).byte(), CPU), torch.arange(10_000) % 100)
    assert 0 < len(save(packed({"student": torch.zeros(10_000, 100)}, split))) - 10_000 * (2 * 100 + 3) < 500


@pytest.mark.parametrize("kind", [torch.uint8, torch.int16, torch.int32])  # earlier versions wrote 32 bits
def test_answers_are_read_alike_whatever_the_type_of_their_labels_and_indices(tmp_path, kind):
    run, store = cell_of(plan_of(tmp_path), "none").runs[0], Store(tmp_path / "results")
    store.begin(run)
    numbers = torch.tensor([0, 2, 1], dtype=kind)
    tensors = {
        "logits": torch.zeros(3, 4).half(),
        "scale": torch.ones(1),
        "labels": numbers,
        "indices": numbers.clone(),
    }
    store.write(run.id, ANSWERS, save(tensors))
    found = stored_answers(store, run.id)
    assert (found.labels.dtype, found.labels.tolist()) == (np.int32, [0, 2, 1])
    assert (found.indices.dtype, found.indices.tolist()) == (np.int32, [0, 2, 1])


class Mean(nn.Module):
    """A classifier of images of one colour."""

    def forward(self, x):
        return x.mean(dim=(2, 3)) @ torch.eye(3, DATA.classes)


def test_the_answers_do_not_depend_on_the_batches():
    images = torch.randint(0, 256, (11, 3, 4, 4), generator=torch.Generator().manual_seed(0)).byte()
    split = Split(ResidentImages(images, CPU), torch.arange(11) % DATA.classes)
    one, other = (answers({"student": Mean()}, split, DATA, CPU, "fp32", size) for size in (2, 11))
    assert one["logits"].shape == (11, DATA.classes)
    assert one["logits"].dtype == torch.float16
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_every_classifier_leaves_answers_that_its_record_covers_and_that_give_its_accuracy(tiny):
    store, plan = tiny.store(), tiny.plan()
    for run in plan.runs:
        record, kept = store.record(run), stored_answers(store, run)
        hits = kept.logits["student"].argmax(axis=1) == kept.labels
        assert ANSWERS in record["files_sha256"]
        assert 100 * hits.mean() == pytest.approx(record["metrics"]["top1"])
        assert kept.indices.tolist() == list(range(len(hits)))
        assert {"nll", "ece", "ece_adaptive", "class_min"} <= record["scores"].keys()


def test_the_answers_are_those_of_the_last_evaluation_without_another_pass(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("bench.train.answers.answers", lambda *arguments: asked.append(arguments))
    plan, store, _ = Bench(tmp_path, document()).run(only=["none"])
    assert asked == []
    assert "nll" in store.record(plan.cells[1].runs[0].id)["scores"]


def test_where_logits_would_take_too_much_memory_the_networks_answer_again_and_alike(tmp_path, monkeypatch, tiny):
    asked = []
    monkeypatch.setattr("bench.train.loop.MAX_LOGIT_BYTES", 0)
    monkeypatch.setattr("bench.train.answers.answers", lambda *all_: asked.append(all_) or answers(*all_))
    plan, store, _ = Bench(tmp_path, document()).run(only=["none"])
    run = plan.cells[1].runs[0].id
    assert len(asked) == len(store.run_ids())
    assert store.content(run, ANSWERS) == tiny.store().content(run, ANSWERS)


def test_a_distilled_run_is_compared_with_the_run_that_taught_it(tiny):
    store, plan = tiny.store(), tiny.plan()
    for run in plan.runs.values():
        assert list(store.record(run.id)["to_teacher"]) == list(run.teachers)


def test_a_run_whose_answers_cannot_be_kept_has_its_result_and_says_why(tmp_path, monkeypatch):
    def torn(logits):
        raise ValueError("logits that are not finite")

    monkeypatch.setattr("bench.train.answers.halved", torn)
    plan, store, _ = Bench(tmp_path, document()).run(only=["none"])
    record = store.record(plan.cells[1].runs[0].id)
    assert record["answers"] == "left out: ValueError: logits that are not finite"
    assert record["metrics"]["top1"] >= 0
    assert "scores" not in record
    json.dumps(record)
