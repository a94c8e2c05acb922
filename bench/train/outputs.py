"""Reduces a finished network's outputs on the test images to what t-SNE, CKA and correlation figures draw."""

import logging
from collections.abc import Callable, Iterator, Sequence

import torch
from safetensors.torch import save
from torch import Tensor

from bench.data.batches import batch_sizes
from bench.data.images import Split
from bench.data.views import ViewTransform
from bench.models.base import Network
from bench.models.own import users_network
from bench.spec import DataSpec, RunSpec
from bench.store import OUTPUTS, Store
from bench.train.evaluation import Evaluated, left_out
from bench.train.memory import in_batches_that_fit
from bench.train.precision import Precision, arithmetic
from bench.types import Features
from methods._settings import kept_settings

MAX_EMBEDDED = 1000  # images whose embeddings are kept, the first ones
MAX_COMPARED = 256  # images of a Gram matrix, the first ones
PART = 2**15  # values of a map that are multiplied at a time: 64 MB in float64 for that many images
HELD = 2**19  # values of an image's maps that are held at a time: 512 MB for that many images

logger = logging.getLogger(__name__)


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


def keep_outputs(
    store: Store,
    run: RunSpec,
    network: Network,
    split: Split,
    device: torch.device,
    batch_size: int,
    precision: Precision = "fp32",
    known: Evaluated | None = None,
) -> dict[str, str]:
    """Write the `outputs` of a run's network; return what its record says about them.

    If they cannot be computed, the run still has its result. Then there is no file, and the record has the reason under
    `outputs`.
    """
    try:
        with kept_settings(users_network(run.network_names) is not None):
            content = save(outputs(network, split, run.data, device, precision, batch_size, known=known))
    except BaseException as error:  # a user's network may exit
        reason = left_out(error)
        logger.warning("outputs that figures are drawn from are %s", reason)
        return {"outputs": reason}
    store.write(run.id, OUTPUTS, content)
    return {}


def outputs(
    network: Network,
    split: Split,
    data: DataSpec,
    device: torch.device,
    precision: Precision = "fp32",
    batch_size: int = MAX_COMPARED,
    max_embedded: int = MAX_EMBEDDED,
    known: Evaluated | None = None,
    held: int = HELD,
) -> dict[str, Tensor]:
    """Return statistics of a network's outputs on a split of n images, on the CPU.

    Args:
        network: a classifier with logits (B, K) on `device`; put into eval mode.
        split: the test images.
        data: what the network was trained on; its normalisation is applied.
        device: of network and batches.
        precision: of the forward passes, as in training.
        batch_size: images at a time, at most `MAX_COMPARED`, and fewer where memory does not suffice.
        max_embedded: number of images whose embeddings are kept.
        known: what was kept of the last evaluation; without logits and embeddings, the network is run on all images.
        held: values of an image's maps that are held at a time, see `grams`; fewer in smaller batches.

    Returns:
        `correlation`: (K, K) float32, of the logits over all images.
        `embedding`: (min(n, max_embedded), D) float16, of the first images.
        `labels`: (min(n, max_embedded),) int16, their classes; absent for a split without labels.
        `gram0` ...: (b, b) float32 for each stage, stem first, of the first b = min(n, 256) images: inner products of
        their flattened maps, after their mean is subtracted. Linear CKA is <A, B> / (|A| |B|) of two of them.
    """
    network.eval()
    view = ViewTransform(data, device)

    @torch.no_grad()
    def features(size: int, first: int | None = None) -> Iterator[Features]:
        places = torch.arange(len(split))[:first]
        for images in split.images.batches(places.split(batch_sizes(len(places), size))):
            with arithmetic(precision, device):
                yield network.features(view(images))

    def attempt(size: int) -> dict[str, Tensor]:
        if known is None or known.logits is None or known.embedding is None:
            moments, embedding = _pooled(features(size), max_embedded)
        else:
            moments, embedding = Moments(known.logits[0]), known.embedding[:max_embedded]
            moments.add(known.logits)
        maps = grams(lambda: (one.stages for one in features(size, MAX_COMPARED)), held * size // most)
        tensors = {f"gram{i}": gram for i, gram in enumerate(maps)}
        tensors |= {"correlation": moments.correlation().float(), "embedding": embedding}
        if split.targets is not None:
            tensors["labels"] = split.targets[:max_embedded].short()
        return {name: value.contiguous().cpu() for name, value in tensors.items()}

    most = min(batch_size, MAX_COMPARED)
    return in_batches_that_fit(attempt, most)


def _pooled(features: Iterator[Features], max_embedded: int) -> tuple[Moments, Tensor]:
    """Return the moments of the logits and the first images' embeddings in float16."""
    moments: Moments | None = None
    embeddings: list[Tensor] = []
    for one in features:
        moments = moments or Moments(one.logits[0])
        if moments.samples < max_embedded:
            embeddings.append(one.embedding.half())
        moments.add(one.logits)
    assert moments is not None  # a split has images
    return moments, torch.cat(embeddings)[:max_embedded]


def grams(maps: Callable[[], Iterator[Sequence[Tensor]]], held: int, part: int = PART) -> list[Tensor]:
    """Return the Gram matrix (n, n) of each stage's maps in float32; see `gram`.

    `maps` yields the stages (B, ...) of one batch after another, n images in all. The maps of all images may not fit
    into memory, so `maps` is called once for every `held` values of an image, which are multiplied in parts of `part`.
    """
    widths = [stage[0].numel() for stage in next(maps())]
    parts = [(stage, start) for stage, width in enumerate(widths) for start in range(0, width, part)]
    at_once = max(1, held // part)
    sums: list[Tensor | float] = [0.0] * len(widths)
    for first in range(0, len(parts), at_once):
        some = parts[first : first + at_once]
        columns: list[list[Tensor]] = [[] for _ in some]  # of each part, batch by batch
        for stages in maps():
            flat = {stage: stages[stage].flatten(1) for stage, _ in some}
            for column, (stage, start) in zip(columns, some, strict=True):
                column.append(flat[stage][:, start : start + part].clone())
        for column, (stage, _) in zip(columns, some, strict=True):
            sums[stage] += gram(torch.cat(column))
            column.clear()
    return [total.float() for total in sums if isinstance(total, Tensor)]


def gram(maps: Tensor) -> Tensor:
    """Return the inner products (B, B) of flattened maps (B, ...), after their mean is subtracted, in float64."""
    flat = maps.flatten(1).double()
    flat -= flat.mean(dim=0)
    return flat @ flat.T
