"""Fits a logistic regression to the features of a frozen network by L-BFGS; dev images choose its penalty.

The loss is the mean cross-entropy of n images plus l2 / 2 times the sum of the squared weights; biases are free.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.data.batches import batch_sizes
from bench.data.images import Split
from bench.data.views import ViewTransform
from bench.models.heads import Probe
from bench.spec import DataSpec

PENALTIES = tuple(10.0**power for power in range(0, -5, -1))  # 1 to 1e-4, the strongest first
MAX_STEPS = 1_000  # of L-BFGS
SMALLEST = 1e-6  # standard deviation by which a feature is divided


def fit_on_dev(probe: Probe, train: Split, dev: Split, data: DataSpec, device: torch.device, batch_size: int) -> float:
    """Give a probe the weights of a logistic regression and return its penalty.

    For each penalty, a classifier is fitted to the training images. The one with the best accuracy on the dev images is
    taken; among equal ones, the one with the strongest penalty. Images are seen without augmentation. The mean and the
    standard deviation of each feature, over the training images, become part of the weights.
    """
    x, y = _features(probe, train, data, device, batch_size)
    x_dev, y_dev = _features(probe, dev, data, device, batch_size)
    mean, scale = x.mean(dim=0), x.std(dim=0).clamp_min(SMALLEST)
    x, x_dev = (x - mean) / scale, (x_dev - mean) / scale
    fits = [(l2, regression(x, y, data.classes, l2)) for l2 in PENALTIES]
    hits = [int((layer(x_dev).argmax(dim=1) == y_dev).sum()) for _, layer in fits]
    l2, best = fits[hits.index(max(hits))]
    with torch.no_grad():
        weight = best.weight / scale
        probe.classifier.weight.copy_(weight)
        probe.classifier.bias.copy_(best.bias - weight @ mean)
    return l2


def regression(x: Tensor, y: Tensor, classes: int, l2: float) -> nn.Linear:
    """Return the logistic regression of features (n, D), float64, on labels (n,), from weights of zero."""
    layer = nn.Linear(x.shape[1], classes, device=x.device, dtype=x.dtype)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    optimizer = torch.optim.LBFGS(
        layer.parameters(),
        max_iter=MAX_STEPS,
        tolerance_grad=1e-9,
        tolerance_change=1e-12,
        line_search_fn="strong_wolfe",
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(layer(x), y) + l2 / 2 * layer.weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    return layer.requires_grad_(False)


@torch.no_grad()
def _features(
    probe: Probe, split: Split, data: DataSpec, device: torch.device, batch_size: int
) -> tuple[Tensor, Tensor]:
    """Return what a probe reads of all images of a split, (n, D) in float64, and their labels (n,)."""
    assert split.targets is not None  # what is evaluated has labels
    to_view = ViewTransform(data, device)
    places = torch.arange(len(split)).split(batch_sizes(len(split), batch_size))
    read = [probe.features(to_view(images)).embedding.double() for images in split.images.batches(places)]
    return torch.cat(read), split.targets.to(device)
