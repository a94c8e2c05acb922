"""A finished classifier's outputs on the test images, reduced to the numbers that figures are drawn from."""

import torch
from torch import Tensor

from bench.data.batches import batch_sizes
from bench.data.images import Split
from bench.data.views import ViewTransform
from bench.models.base import Network
from bench.spec import DataSpec
from bench.train.precision import Precision, arithmetic

MAX_COMPARED = 256  # images of a Gram matrix, the first batch


class Moments:
    """Sums over logits in float64, on their device, after one sample's (K,) are subtracted: a constant sums to 0."""

    def __init__(self, origin: Tensor) -> None:
        self.origin = origin.double()
        self.samples = 0
        self.total = torch.zeros_like(self.origin)
        self.products = torch.outer(self.total, self.total)

    def add(self, logits: Tensor) -> None:
        """Add a batch of logits (B, K)."""
        shifted = logits.double() - self.origin
        self.samples += len(logits)
        self.total += shifted.sum(dim=0)
        self.products += shifted.T @ shifted

    def correlation(self) -> Tensor:
        """Return the correlation (K, K) of all pairs of logits over all samples; 0 where one is constant."""
        covariance = self.products - torch.outer(self.total, self.total) / self.samples
        scale = covariance.diagonal().clamp(min=0).sqrt()
        scales = torch.outer(scale, scale)
        return torch.where(scales > 0, covariance / scales, 0.0).clamp(-1, 1)


@torch.no_grad()
def outputs(
    network: Network,
    split: Split,
    data: DataSpec,
    device: torch.device,
    precision: Precision = "fp32",
    max_embedded: int = 1000,
) -> dict[str, Tensor]:
    """Return statistics of a network's outputs on a split of n images, on the CPU.

    Args:
        network: a classifier with logits (B, K) on `device`; put into eval mode.
        split: the test images.
        data: what the network was trained on; its normalisation is applied.
        device: of network and batches.
        precision: of the forward passes, as in training.
        max_embedded: number of images whose embeddings are kept.

    Returns:
        `correlation`: (K, K) float32, of the logits over all images.
        `embedding`: (min(n, max_embedded), D) float16, of the first images.
        `labels`: (min(n, max_embedded),) int16, their classes; absent for a split without labels.
        `gram0` ...: (b, b) float32 for each stage, stem first, of the first b = min(n, 256) images: inner products of
        their flattened maps, after their mean is subtracted. Linear CKA is <A, B> / (|A| |B|) of two of them.
    """
    network.eval()
    moments: Moments | None = None
    embeddings: list[Tensor] = []
    tensors: dict[str, Tensor] = {}
    viewer = ViewTransform(data, device)
    places = torch.arange(len(split)).split(batch_sizes(len(split), MAX_COMPARED))
    for images in split.images.batches(places):
        with arithmetic(precision, device):
            features = network.features(viewer(images))
        if moments is None:
            moments = Moments(features.logits[0])
            tensors = {f"gram{i}": gram(stage[:MAX_COMPARED]).float() for i, stage in enumerate(features.stages)}
        if moments.samples < max_embedded:
            embeddings.append(features.embedding)
        moments.add(features.logits)
    assert moments is not None  # a split has images
    tensors["correlation"] = moments.correlation().float()
    tensors["embedding"] = torch.cat(embeddings)[:max_embedded].half()
    if split.targets is not None:
        tensors["labels"] = split.targets[:max_embedded].short()
    return {name: value.contiguous().cpu() for name, value in tensors.items()}


def gram(maps: Tensor) -> Tensor:
    """Return the inner products (B, B) of flattened maps (B, ...), after their mean is subtracted, in float64."""
    flat = maps.flatten(1).double()
    flat = flat - flat.mean(dim=0)
    return flat @ flat.T
