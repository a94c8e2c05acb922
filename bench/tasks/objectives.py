"""Objectives: the loss with labels and all metrics of a test split. Imports no torch until something is computed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from bench.spec import DEV, IGNORED

if TYPE_CHECKING:
    import torch
    from torch import Tensor

CORRUPTIONS = {  # by name; bench/data/corruptions.py makes them
    "noise": "Gaussian noise",
    "blur": "Gaussian blur",
    "brightness": "brightness",
    "contrast": "contrast",
    "jpeg": "JPEG compression",
}
BINS = 15  # of both calibration errors, as Guo et al. (ICML 2017) use
Labels = Literal["image", "pixel"]  # what has a label


@dataclass(frozen=True)
class Metric:
    """A metric of a test split, in percent unless it says otherwise. docs/metrics.md defines each."""

    name: str  # in records and table.csv
    title: str  # on axes and in captions
    in_tables: bool = True  # whether table.md, table.tex and the page's first table have a column for it
    unit: str = "%"
    lower_is_better: bool = False

    @property
    def on_dev(self) -> Metric:
        """Return the same metric of the dev images."""
        return replace(self, name=f"{DEV}{self.name}", title=f"{self.title} on dev", in_tables=False)


ANSWERED = (  # from a classifier's stored answers, see `scores`, or from its weights on corrupted images
    Metric("nll", "negative log-likelihood", in_tables=False, unit="nats", lower_is_better=True),
    Metric("ece", "calibration error", in_tables=False, lower_is_better=True),
    Metric("ece_adaptive", "adaptive calibration error", in_tables=False, lower_is_better=True),
    Metric("class_min", "accuracy of the worst class", in_tables=False),
    Metric("agreement", "agreement with the teacher", in_tables=False),
    Metric("teacher_kl", "KL divergence from the teacher", in_tables=False, unit="nats", lower_is_better=True),
    *(Metric(f"top1_{name}", f"top-1 accuracy, {what}", in_tables=False) for name, what in CORRUPTIONS.items()),
)


class Objective(Protocol):
    """How logits are learned and evaluated with labels."""

    labels: ClassVar[Labels]  # the kind that it needs
    metrics: ClassVar[tuple[Metric, ...]]  # of one network; the first, the primary one, decides the best epoch
    answered: ClassVar[tuple[Metric, ...]] = ()  # of one network, from its stored answers
    hit: ClassVar[str]  # the metric that `hits` returns for a batch

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss of a batch, a scalar."""

    def hits(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the percentage of a batch's labels that are predicted, a scalar."""

    def score(self, classes: int, device: torch.device) -> TopK | Overlap:
        """Return an empty score, which sums the metrics of one network batch by batch on the device."""


class Classification(Objective):
    """One label per image: logits (B, K), targets (B,)."""

    labels = "image"
    metrics = (Metric("top1", "top-1 accuracy"), Metric("top5", "top-5 accuracy", in_tables=False))
    answered = ANSWERED
    hit = "top1"

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the mean cross-entropy."""
        from torch.nn import functional as F

        return F.cross_entropy(logits, targets)

    def hits(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the top-1 accuracy in percent."""
        return 100 * (logits.argmax(dim=1) == targets).double().mean()

    def score(self, classes: int, device: torch.device) -> TopK:
        """Return an empty count of top-1 and top-5 hits."""
        return TopK(device)


class TopK:
    """The percentage of images whose label is the likeliest class, or among the five likeliest."""

    def __init__(self, device: torch.device) -> None:
        import torch

        self.hits = {name: torch.zeros((), dtype=torch.float64, device=device) for name in ("top1", "top5")}
        self.n = 0

    def update(self, logits: Tensor, targets: Tensor) -> None:
        """Add a batch: logits (B, K), targets (B,)."""
        best = logits.topk(min(5, logits.shape[1]), dim=1).indices == targets[:, None]
        self.hits["top1"] += best[:, 0].sum()
        self.hits["top5"] += best.sum()
        self.n += len(targets)

    def compute(self) -> Mapping[str, Tensor]:
        """Return top1 and top5 in percent."""
        return {name: 100 * hits / self.n for name, hits in self.hits.items()}


class PixelClassification(Objective):
    """One label per pixel: logits (B, K, H, W), targets (B, H, W), where `IGNORED` marks a pixel without a label."""

    labels = "pixel"
    metrics = (Metric("miou", "mIoU"), Metric("pixel_accuracy", "pixel accuracy"))
    hit = "pixel_accuracy"

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the cross-entropy, a mean over labelled pixels; 0 where there are none."""
        from torch.nn import functional as F

        total = F.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="sum")
        return total / (targets != IGNORED).sum().clamp(min=1)

    def hits(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the percentage of labelled pixels that are classified correctly."""
        labelled = targets != IGNORED
        return 100 * (logits.argmax(dim=1) == targets).sum().double() / labelled.sum().clamp(min=1)

    def score(self, classes: int, device: torch.device) -> Overlap:
        """Return an empty count of pixels by true and predicted class."""
        return Overlap(classes, device)


class Overlap:
    """Pixel accuracy and the intersection over union of a class's true and predicted pixels.

    The mean is over the classes that the split contains or the network predicts; others have no union.
    """

    def __init__(self, classes: int, device: torch.device) -> None:
        from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex  # takes a second to import

        settings: dict[str, Any] = {"num_classes": classes, "ignore_index": IGNORED, "validate_args": False}
        self.miou = MulticlassJaccardIndex(average="macro", **settings).to(device)
        self.accuracy = MulticlassAccuracy(average="micro", **settings).to(device)

    def update(self, logits: Tensor, targets: Tensor) -> None:
        """Add a batch: logits (B, K, H, W), targets (B, H, W)."""
        predicted = logits.argmax(dim=1)
        self.miou.update(predicted, targets)
        self.accuracy.update(predicted, targets)

    def compute(self) -> Mapping[str, Tensor]:
        """Return miou and pixel_accuracy in percent."""
        return {"miou": 100 * self.miou.compute(), "pixel_accuracy": 100 * self.accuracy.compute()}


CLASSIFICATION = Classification()
PIXEL_CLASSIFICATION = PixelClassification()


def scores(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Return the metrics of one classifier from its answers to the test images.

    Args:
        logits: (n, K) float32.
        labels: (n,) int64.

    Returns:
        `nll` in nats; `ece`, `ece_adaptive` and `class_min` in percent.
    """
    from torch.nn import functional as F

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
    gaps = bins.bincount(weights=hits - confidence, minlength=BINS)
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
    images = labels.bincount(minlength=classes)
    right = labels.bincount(weights=hits, minlength=classes)
    pairs = zip(right.tolist(), images.tolist(), strict=True)
    return [round(100 * of_class / count, 4) if count else None for of_class, count in pairs]
