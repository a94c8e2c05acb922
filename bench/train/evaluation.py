"""Evaluates networks: their metrics on the images of a split, and their logits and embeddings where these are kept."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from bench.data.batches import batch_sizes
from bench.data.images import Split
from bench.data.views import ViewTransform
from bench.models.base import Network
from bench.models.ensemble import Ensemble
from bench.spec import DataSpec
from bench.tasks.objectives import CLASSIFICATION, Objective
from bench.train.memory import in_batches_that_fit
from bench.train.precision import Precision, arithmetic
from methods._errors import described, ends_process

EVALUATION_BATCH = {"cpu": 64, "cuda": 512}  # images; the fastest on each; a CPU takes no more than a training step


class NotFiniteError(ValueError):
    """A network's logits are not finite, so that its metrics mean nothing."""


def evaluate(
    networks: Mapping[str, Network],
    split: Split,
    data: DataSpec,
    device: torch.device,
    precision: Precision = "fp32",
    batch_size: int = EVALUATION_BATCH["cpu"],
    images: str = "test images",
) -> dict[str, dict[str, float]]:
    """Return each classifier's metrics in percent, by its name, as `sound` does and with its errors."""
    found = sound(networks, split, data, device, precision, batch_size, images)
    return {name: one.metrics for name, one in found.items()}


class Evaluated(NamedTuple):
    """A network's metrics in percent, and what is kept of its answers, on the CPU.

    `is_finite`: whether all logits are; if not, the metrics mean nothing. Those of an ensemble may be minus infinity,
    for a probability of 0. `logits` (n, K) float32 of all images; `embedding` (min(n, embedded), D) float16 of the
    first ones.
    """

    metrics: dict[str, float]
    is_finite: bool
    logits: Tensor | None
    embedding: Tensor | None


def sound(
    networks: Mapping[str, Network],
    split: Split,
    data: DataSpec,
    device: torch.device,
    precision: Precision,
    batch_size: int,
    images: str,
    keeps_logits: bool = False,
) -> dict[str, Evaluated]:
    """Return what `evaluated` does of classifiers, by name; the other arguments are the same.

    Raises:
        NotFiniteError: logits are not finite; the message names the networks and the images.
    """
    results = evaluated(
        list(networks.values()), split, data, device, precision, batch_size=batch_size, keeps_logits=keeps_logits
    )
    named = dict(zip(networks, results, strict=True))
    if wrong := [name for name, one in named.items() if not one.is_finite]:
        raise NotFiniteError(f"the logits of the {' and the '.join(wrong)} on the {images} are not finite")
    return named


@torch.no_grad()
def evaluated(
    networks: Sequence[Network],
    split: Split,
    data: DataSpec,
    device: torch.device,
    precision: Precision = "fp32",
    objective: Objective = CLASSIFICATION,
    batch_size: int = EVALUATION_BATCH["cpu"],
    keeps_logits: bool = False,
    embedded: int = 0,
) -> list[Evaluated]:
    """Evaluate networks, which are put into eval mode; each batch is loaded once for all.

    Args:
        networks: on `device`.
        split: the test images.
        data: what the networks were trained on; its normalisation is applied.
        device: of networks and batches.
        precision: of the forward passes; a run is evaluated as it was trained.
        objective: computes the metrics.
        batch_size: that of training; without gradients, as many images take less memory. A GPU, which says when its
            memory is full, begins with more. Where memory does not suffice, the batches get smaller.
        keeps_logits: whether the logits are also returned.
        embedded: number of first images whose embeddings are also returned.
    """
    for network in networks:
        network.eval()
    assert split.targets is not None  # what is evaluated has labels
    all_targets = split.targets.to(device)
    to_view = ViewTransform(data, device)

    def attempt(batch_size: int) -> list[Evaluated]:
        scores = [objective.score(data.classes, device) for _ in networks]
        kept: list[list[Tensor]] = [[] for _ in networks]
        embeddings: list[list[Tensor]] = [[] for _ in networks]
        finite = torch.ones(len(networks), dtype=torch.bool, device=device)
        sizes = batch_sizes(len(split), batch_size)
        batches = split.images.batches(torch.arange(len(split)).split(sizes))
        seen = 0
        for images, labels in zip(batches, all_targets.split(sizes), strict=True):
            view = to_view(images)
            for number, (network, score) in enumerate(zip(networks, scores, strict=True)):
                logits, embedding = kept[number], embeddings[number]
                with arithmetic(precision, device):
                    own, pooled = _answer(network, view, seen < embedded)
                score.update(own, labels)
                is_sound = own.isfinite() | own.isneginf() if isinstance(network, Ensemble) else own.isfinite()
                finite[number] &= is_sound.all()
                if keeps_logits:
                    logits.append(own.float().cpu())
                if pooled is not None:
                    embedding.append(pooled[: embedded - seen].half().cpu())
            seen += len(images)
        metrics = [{name: value.item() for name, value in score.compute().items()} for score in scores]
        return [
            Evaluated(numbers, sound, torch.cat(logits) if logits else None, torch.cat(own) if own else None)
            for numbers, sound, logits, own in zip(metrics, finite.tolist(), kept, embeddings, strict=True)
        ]

    return in_batches_that_fit(attempt, evaluation_batch(device, batch_size))


def _answer(network: Network, view: Tensor, embeds: bool) -> tuple[Tensor, Tensor | None]:
    """Return the logits of images, and their embedding if it is wanted; the maps are given up at once."""
    if not embeds:
        return network(view), None
    features = network.features(view)
    return features.logits, features.embedding


def evaluation_batch(device: torch.device, batch_size: int) -> int:
    """Return how many images are evaluated at a time on a device, for that batch size of training."""
    most = EVALUATION_BATCH[device.type]
    return min(most, batch_size) if device.type == "cpu" else most


def left_out(error: BaseException) -> str:
    """Return in one line why a finished run lacks something that it could keep; raise again what ends the process."""
    if ends_process(error):
        raise error
    return f"left out: {described(error)}"
