"""Computes metrics from a classifier's logits: NLL, ECE, accuracy by class. See docs/metrics.md."""

import torch
from torch import Tensor
from torch.nn import functional as F

BINS = 15  # of both calibration errors, as Guo et al. (ICML 2017) use


def scores(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Return the metrics of one classifier.

    Args:
        logits: (n, K) float32.
        labels: (n,) int64.

    Returns:
        `nll` in nats; `ece`, `ece_adaptive` and `class_min` in percent.
    """
    confidence, predicted = logits.double().softmax(dim=1).max(dim=1)
    hits = (predicted == labels).double()
    return {
        "nll": F.cross_entropy(logits.double(), labels).item(),
        "ece": 100 * equal_width_error(confidence, hits),
        "ece_adaptive": 100 * equal_mass_error(confidence, hits),
        "class_min": min(value for value in class_accuracies(logits, labels) if value is not None),
    }


def equal_width_error(confidence: Tensor, hits: Tensor) -> float:
    """Return the expected calibration error in [0, 1] over bins of equal width: (0, 1/15], (1/15, 2/15], ...

    Naeini, Cooper and Hauskrecht, AAAI 2015: sum over bins of (images in it / n) * |accuracy - mean confidence|.
    `hits` (n,) are 1 where the prediction is right, and 0 elsewhere. torchmetrics has it too, but its import takes
    longer than a short run's last epoch.
    """
    bins = (confidence * BINS).ceil().long() - 1
    gaps = torch.bincount(bins, weights=hits - confidence, minlength=BINS)
    return gaps.abs().sum().item() / len(confidence)


def equal_mass_error(confidence: Tensor, hits: Tensor) -> float:
    """Return the expected calibration error in [0, 1] over bins with equally many images, sorted by confidence (n,).

    Nguyen and O'Connor, EMNLP 2015. With equal width nearly all images of a good classifier are in the last bin. `hits`
    (n,) are 1 where the prediction is right, and 0 elsewhere.
    """
    gaps = (hits - confidence)[confidence.argsort(stable=True)]
    return sum(part.sum().abs().item() for part in gaps.tensor_split(BINS)) / len(gaps)


def class_accuracies(logits: Tensor, labels: Tensor) -> list[float | None]:
    """Return each class's accuracy in percent, of logits (n, K) and labels (n,); None where a class has no image."""
    classes = logits.shape[1]
    hits = (logits.argmax(dim=1) == labels).double()
    images = torch.bincount(labels, minlength=classes)
    right = torch.bincount(labels, weights=hits, minlength=classes)
    pairs = zip(right.tolist(), images.tolist(), strict=True)
    return [round(100 * of_class / count, 4) if count else None for of_class, count in pairs]
