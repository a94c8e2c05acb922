"""What labels ask of logits: the loss beside the methods' terms, and the metrics of a test split."""

from collections.abc import Mapping
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.spec import IGNORED, METRICS, Task


class Score(Protocol):
    """Metrics of one network, summed up batch by batch on the device."""

    def update(self, logits: Tensor, targets: Tensor) -> None:
        """Add a batch."""

    def compute(self) -> Mapping[str, Tensor]:
        """Return each metric in percent, the objective's `metrics` in their order."""


class Objective(Protocol):
    """How logits are judged by labels."""

    metrics: tuple[str, ...]  # of one network, as in `bench.spec.METRICS`
    hit: str  # which of them `hits` is of a batch

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss of a batch, a scalar."""

    def hits(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the share of a batch's labels that are met, in percent, a scalar."""

    def score(self, classes: int, device: torch.device) -> Score:
        """Return an empty score."""


class Classification:
    """One label an image: logits (B, K), targets (B,)."""

    metrics = METRICS["compression"]
    hit = "top1"

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the mean cross-entropy."""
        return F.cross_entropy(logits, targets)

    def hits(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the top-1 accuracy in percent."""
        return 100 * (logits.argmax(dim=1) == targets).double().mean()

    def score(self, classes: int, device: torch.device) -> Score:
        """Return an empty count of top-1 and top-5 hits."""
        return TopK(device)


class TopK:
    """The share of images whose label is the likeliest class, and among the five likeliest."""

    def __init__(self, device: torch.device) -> None:
        self.hits = torch.zeros(2, dtype=torch.float64, device=device)
        self.n = 0

    def update(self, logits: Tensor, targets: Tensor) -> None:
        """Add a batch: logits (B, K), targets (B,)."""
        best = logits.topk(min(5, logits.shape[1]), dim=1).indices == targets[:, None]
        self.hits += torch.stack([best[:, 0].sum(), best.sum()])
        self.n += len(targets)

    def compute(self) -> Mapping[str, Tensor]:
        """Return top1 and top5 in percent."""
        return dict(zip(Classification.metrics, 100 * self.hits / self.n, strict=True))


class Segmentation:
    """One label a pixel: logits (B, K, H, W), targets (B, H, W), where `IGNORED` is no label."""

    metrics = METRICS["segmentation"]
    hit = "pixel_accuracy"

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the cross-entropy, a mean over labelled pixels; 0 where there are none."""
        total = F.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="sum")
        return total / (targets != IGNORED).sum().clamp(min=1)

    def hits(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the share of labelled pixels whose likeliest class is theirs, in percent."""
        labelled = targets != IGNORED
        return 100 * (logits.argmax(dim=1) == targets).sum().double() / labelled.sum().clamp(min=1)

    def score(self, classes: int, device: torch.device) -> Score:
        """Return an empty count of pixels by true and likeliest class."""
        return Overlap(classes, device)


class Overlap:
    """Pixel accuracy, and the intersection of a class's true and found pixels over their union.

    The mean is over the classes that the split has or the network finds; others have no union.
    """

    def __init__(self, classes: int, device: torch.device) -> None:
        from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex  # takes a second to import

        settings: dict[str, Any] = {"num_classes": classes, "ignore_index": IGNORED, "validate_args": False}
        self.miou = MulticlassJaccardIndex(average="macro", **settings).to(device)
        self.accuracy = MulticlassAccuracy(average="micro", **settings).to(device)

    def update(self, logits: Tensor, targets: Tensor) -> None:
        """Add a batch: logits (B, K, H, W), targets (B, H, W)."""
        found = logits.argmax(dim=1)
        self.miou.update(found, targets)
        self.accuracy.update(found, targets)

    def compute(self) -> Mapping[str, Tensor]:
        """Return miou and pixel_accuracy in percent."""
        return {"miou": 100 * self.miou.compute(), "pixel_accuracy": 100 * self.accuracy.compute()}


CLASSIFICATION: Objective = Classification()
OBJECTIVES: Mapping[Task, Objective | None] = {  # None where labels are not looked at
    "compression": CLASSIFICATION,
    "cross_modal": None,
    "mutual": CLASSIFICATION,
    "probe": CLASSIFICATION,
    "finetune": CLASSIFICATION,
    "segmentation": Segmentation(),
}
