"""Checks that a network keeps to the contract of all networks, and tells its author what is wrong with it."""

import itertools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from bench.models.base import Network
from bench.types import Features

BATCH = 3  # images, so that batch norm has statistics
TOLERANCE = 1e-6  # in float64, of values about 1


def problems(build: Callable[[], Network], classes: int, channels: int, height: int, width: int) -> Iterator[str]:
    """Yield what is wrong with a network, for random images; checks that later ones rely on come first.

    Args:
        build: returns the network, with weights from torch's default generator.
        classes: K, for which it is built.
        channels: of the images, for which it is built.
        height: of the images, in pixels.
        width: of the images, in pixels.
    """
    network = build().double()
    images = torch.randn(BATCH, channels, height, width, dtype=torch.float64)
    try:
        features = network.train().features(images, preactivations=True)
    except Exception as error:  # a user's code may raise anything
        yield f"features: raises {type(error).__name__}: {' '.join(str(error).split())}"
        return
    if not isinstance(features, Features):
        yield f"features: returns a {type(features).__name__}, not bench.types.Features"
        return
    if wrong := list(_misshaped(features, classes)):
        yield from wrong
        return
    try:
        network.trunk()
    except NotImplementedError:
        yield "trunk: is missing: return the modules up to the last stage's output"
        return
    if not all(one.isfinite().all() for one in (*features.preactivations, *_plain(features))):
        yield "a feature is not finite on random images with its first weights"
    if any(a[2] < b[2] or a[3] < b[3] for a, b in itertools.pairwise([one.shape for one in features.stages])):
        yield "stages: a later stage is larger than the one before it: return them stem first, from large to small maps"
    network.eval()
    with torch.no_grad():
        one, again = network.features(images), network.features(images, preactivations=True)
        if not all(torch.equal(a, b) for a, b in zip(_plain(one), _plain(again), strict=True)):
            yield "features: two passes in eval mode differ: draw no random numbers in eval mode, and change no state"
        atol = TOLERANCE * (float(one.logits.abs().max()) + 1)
        if not torch.allclose(network(images), one.logits):
            yield "forward: gives other logits than features"
        if not torch.allclose(network.features(images[:1]).logits[0], one.logits[0], atol=atol):
            yield "features: in eval mode, an image's logits depend on the other images of the batch"
        if (one.classifier is None) != (network.linear_classifier() is None):
            yield "linear_classifier: must return the layer that features give as their classifier, or None without one"
        if one.classifier is not None:
            bias = 0 if one.classifier.bias is None else one.classifier.bias
            if not torch.allclose(one.embedding @ one.classifier.weight.T + bias, one.logits, atol=atol):
                yield "classifier: weight and bias applied to the embedding do not give the logits"
        if one.final is not None and not torch.allclose(one.final.mean((2, 3)), one.embedding, atol=atol):
            yield "final: its mean over positions is not the embedding"
    yield from _of_gradients(network, images)


def _misshaped(features: Features, classes: int) -> Iterator[str]:
    """Yield which features have another shape than they must have."""
    if not features.stages:
        yield "stages: there are none"
    for name in ("stages", "preactivations"):
        for place, maps in enumerate(getattr(features, name)):
            if maps.ndim != 4 or len(maps) != BATCH:
                yield f"{name}[{place}]: of shape {tuple(maps.shape)}; maps are (B, C, H, W), here B = {BATCH}"
    if len(features.preactivations) != len(features.stages):
        yield (
            f"preactivations: {len(features.preactivations)} for {len(features.stages)} stages; when they are asked "
            "for, return one for each stage: the maps before its last ReLU, or the stage itself"
        )
    expected = [maps.shape[:2] for maps in features.stages]
    shapes = [token.shape for token in features.class_tokens]
    if shapes and not (features.of_tokens and shapes == expected):
        yield "class_tokens: return one (B, C) for each stage, with the stage's channels, and of_tokens=True, or none"
    if features.embedding.ndim != 2 or len(features.embedding) != BATCH:
        yield f"embedding: of shape {tuple(features.embedding.shape)}; it is (B, D), here B = {BATCH}"
    if features.logits.shape != (BATCH, classes):
        yield f"logits: of shape {tuple(features.logits.shape)}; they are (B, num_classes), here {(BATCH, classes)}"


def _of_gradients(network: Network, images: Tensor) -> Iterator[str]:
    """Yield the parameters that gradients of logits or of the last stage should reach and do not, or the reverse."""
    network.train()
    network.features(images).stages[-1].square().sum().backward()
    reached = {parameter for parameter in network.parameters() if parameter.grad is not None}
    trunk = {parameter for module in network.trunk() for parameter in module.parameters()}
    if missing := [name for name, one in network.named_parameters() if one in reached - trunk]:
        yield f"trunk: leaves out {missing[0]}, which the last stage depends on"
    if beyond := [name for name, one in network.named_parameters() if one in trunk - reached]:
        yield f"trunk: has {beyond[0]}, which the last stage does not depend on"
    network.zero_grad()
    network.features(images).logits.square().sum().backward()
    if idle := [name for name, one in network.named_parameters() if one.requires_grad and one.grad is None]:
        yield f"parameters: the logits do not depend on {', '.join(idle[:3])}"


def _plain(features: Features) -> list[Tensor]:
    return [*features.stages, features.embedding, features.logits]
