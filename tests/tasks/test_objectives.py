"""What labels ask of logits, against values made another way."""

import numpy as np
import pytest
import torch

from bench.spec import IGNORED
from bench.tasks import TASKS

SEGMENTATION = TASKS["segmentation"].objective
CPU = torch.device("cpu")


@pytest.fixture
def scene():
    """Return logits (4, 5, 6, 7) and labels of 4 of the 5 classes; some pixels have none."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 5, 6, 7, generator=generator)
    logits[:, 4] = -9.0  # neither there nor found: no union
    targets = torch.randint(0, 4, (4, 6, 7), generator=generator)
    targets[:, :2, :3] = IGNORED
    return logits, targets


def test_segmentation_metrics_are_those_of_a_confusion_matrix_made_by_hand(scene):
    logits, targets = scene
    score = SEGMENTATION.score(5, CPU)
    for start in (0, 2):
        score.update(logits[start : start + 2], targets[start : start + 2])
    matrix = np.zeros((5, 5))
    for true, found in zip(targets.flatten().tolist(), logits.argmax(dim=1).flatten().tolist(), strict=True):
        if true != IGNORED:
            matrix[true, found] += 1
    both = matrix.diagonal()
    union = matrix.sum(axis=0) + matrix.sum(axis=1) - both
    numbers = {name: value.item() for name, value in score.compute().items()}
    assert numbers == {
        "miou": pytest.approx(100 * (both[:4] / union[:4]).mean(), rel=1e-6),
        "pixel_accuracy": pytest.approx(100 * both.sum() / matrix.sum(), rel=1e-6),
    }
    assert list(numbers) == [metric.name for metric in SEGMENTATION.metrics]


def test_pixels_without_a_label_do_not_count_in_the_loss(scene):
    logits, targets = scene
    changed = torch.where((targets == IGNORED)[:, None], logits.flip(1), logits)
    wanted = torch.nn.functional.cross_entropy(logits, targets, ignore_index=IGNORED)
    torch.testing.assert_close(SEGMENTATION.loss(logits, targets), wanted)
    torch.testing.assert_close(SEGMENTATION.loss(changed, targets), wanted)
    assert SEGMENTATION.hits(logits, targets) == SEGMENTATION.hits(changed, targets)


def test_a_batch_without_any_label_has_no_loss(scene):
    logits, targets = scene
    assert SEGMENTATION.loss(logits, torch.full_like(targets, IGNORED)) == 0


@pytest.mark.parametrize("task", ["compression", "segmentation"])
def test_a_training_batchs_hits_are_named_after_the_metric_that_they_are(task, scene):
    objective = TASKS[task].objective
    logits, targets = scene if task == "segmentation" else (scene[0][..., 0, 0], scene[1][:, -1, 0])
    score = objective.score(5, CPU)
    score.update(logits, targets)
    assert objective.hits(logits, targets).item() == pytest.approx(score.compute()[objective.hit].item())
