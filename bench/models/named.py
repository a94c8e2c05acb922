"""The networks that are known by name, and the function that creates one. A new one is an entry here. No torch."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bench.models import own
from bench.models.timm_names import TIMM
from bench.models.torchvision_stages import TORCHVISION
from bench.types import RequestError, Shapes, suggest

if TYPE_CHECKING:
    from torch import Tensor

    from bench.models.base import Network

OTHERS = "torchvision.NAME, timm.NAME, MODULE:FACTORY"  # names of networks from elsewhere


@dataclass(frozen=True)
class NetworkEntry:
    """One registered network: the class `factory` of the module `file`, which is imported when it is created.

    Attributes:
        summary: one line for `list models`; its parameter count is for 100 classes and 3 input channels.
        settings: the class's keyword arguments besides `num_classes` and `in_channels`.
    """

    summary: str
    file: str
    factory: str
    settings: Mapping[str, Any] = field(default_factory=dict)


def _resnet(summary: str, depth: int, widths: Sequence[int] = (16, 16, 32, 64)) -> NetworkEntry:
    return NetworkEntry(summary, "resnet", "ResNet", {"depth": depth, "widths": widths})


def _wrn(summary: str, depth: int, widen: int) -> NetworkEntry:
    return NetworkEntry(summary, "wrn", "WideResNet", {"depth": depth, "widen": widen})


def _vgg(summary: str, *convolutions: int) -> NetworkEntry:
    return NetworkEntry(summary, "vgg", "VGG", {"convolutions": convolutions})


NETWORKS: dict[str, NetworkEntry] = {
    "resnet8": _resnet("CIFAR ResNet, 8 layers, widths 16/32/64; 0.08 M parameters", 8),
    "resnet14": _resnet("CIFAR ResNet, 14 layers, widths 16/32/64; 0.18 M parameters", 14),
    "resnet20": _resnet("CIFAR ResNet, 20 layers, widths 16/32/64; 0.28 M parameters", 20),
    "resnet32": _resnet("CIFAR ResNet, 32 layers, widths 16/32/64; 0.47 M parameters", 32),
    "resnet44": _resnet("CIFAR ResNet, 44 layers, widths 16/32/64; 0.67 M parameters", 44),
    "resnet56": _resnet("CIFAR ResNet, 56 layers, widths 16/32/64; 0.86 M parameters", 56),
    "resnet110": _resnet("CIFAR ResNet, 110 layers, widths 16/32/64; 1.74 M parameters", 110),
    "resnet8x4": _resnet("CIFAR ResNet, 8 layers, widths 64/128/256; 1.23 M parameters", 8, (32, 64, 128, 256)),
    "resnet32x4": _resnet("CIFAR ResNet, 32 layers, widths 64/128/256; 7.43 M parameters", 32, (32, 64, 128, 256)),
    "ResNet50": NetworkEntry(
        "Bottleneck ResNet, 50 layers, 3x3 stem without max pool; 23.71 M parameters", "resnet", "ResNet50"
    ),
    "wrn_16_1": _wrn("Wide ResNet, 16 layers, widths 16/32/64; 0.18 M parameters", 16, 1),
    "wrn_16_2": _wrn("Wide ResNet, 16 layers, widths 32/64/128; 0.70 M parameters", 16, 2),
    "wrn_40_1": _wrn("Wide ResNet, 40 layers, widths 16/32/64; 0.57 M parameters", 40, 1),
    "wrn_40_2": _wrn("Wide ResNet, 40 layers, widths 32/64/128; 2.26 M parameters", 40, 2),
    "vgg8": _vgg("VGG with batch norm, 5 convolutions, 1 linear layer; 3.97 M parameters", 1, 1, 1, 1, 1),
    "vgg11": _vgg("VGG with batch norm, 8 convolutions, 1 linear layer; 9.28 M parameters", 1, 1, 2, 2, 2),
    "vgg13": _vgg("VGG with batch norm, 10 convolutions, 1 linear layer; 9.46 M parameters", 2, 2, 2, 2, 2),
    "vgg16": _vgg("VGG with batch norm, 13 convolutions, 1 linear layer; 14.77 M parameters", 2, 2, 3, 3, 3),
    "vgg19": _vgg("VGG with batch norm, 16 convolutions, 1 linear layer; 20.09 M parameters", 2, 2, 4, 4, 4),
    "MobileNetV2": NetworkEntry(
        "MobileNetV2, half width, expansion 6; 0.81 M parameters", "mobilenetv2", "MobileNetV2", {"width": 0.5}
    ),
    "ShuffleV1": NetworkEntry(
        "ShuffleNet, 3 groups, widths 240/480/960; 0.95 M parameters", "shufflenetv1", "ShuffleNetV1"
    ),
    "ShuffleV2": NetworkEntry("ShuffleNetV2, widths 116/232/464; 1.36 M parameters", "shufflenetv2", "ShuffleNetV2"),
    "conv5": NetworkEntry("Five 3x3 convolutions with norm, AlexNet's widths; 2.28 M parameters", "conv5", "Conv5"),
}


def library(name: str) -> str | None:
    """Return how the names of a network's library begin, `torchvision.` or `timm.`; None for other networks."""
    return next((one for one in (TORCHVISION, TIMM) if name.startswith(one) and ":" not in name), None)


def known() -> dict[str, str]:
    """Return the networks of the project and of plug-in files by name, each with a line that describes it."""
    return {name: entry.summary for name, entry in NETWORKS.items()} | {
        name: f"from {path}" for name, path in sorted(own.FILES.items())
    }


def build(
    name: str,
    *,
    num_classes: int,
    in_channels: int = 3,
    image_size: tuple[int, int] = (224, 224),
    stages: Sequence[Any] | None = None,
    classifier: str | None = None,
    preactivations: Sequence[str] | None = None,
) -> Network:
    """Return a new network with weights drawn from torch's default generator.

    Args:
        name: one of `NETWORKS`, `torchvision.NAME` or `timm.NAME` for one of their classifiers, or a user's network.
        num_classes: K, the number of logits.
        in_channels: channels of the images.
        image_size: (height, width) of the images, for timm's networks that take images of one size only.
        stages: for torchvision's classifiers, paths of modules, see `HookedNetwork`; for timm's, indices, see
            `TimmNetwork`. By default, those at which the resolution changes.
        classifier: for torchvision's classifiers only.
        preactivations: for torchvision's classifiers only.

    Raises:
        RequestError: the name or a module is unknown, or stages are given for a network whose stages are fixed.
    """
    if library(name) == TORCHVISION:
        from bench.models.hooked import HookedNetwork
        from bench.models.torchvision_network import torchvision_network

        network = torchvision_network(name.removeprefix(TORCHVISION), num_classes, in_channels)
        with _naming(name):
            return HookedNetwork(network, stages or (), classifier, preactivations or ())
    if library(name) == TIMM:
        from bench.models.timm_network import timm_network

        with _naming(name):
            return timm_network(name.removeprefix(TIMM), num_classes, in_channels, image_size, stages or ())
    if own.file_of(name) is not None:
        return _own(name, num_classes, in_channels, stages, classifier, preactivations)
    if name not in NETWORKS:
        raise RequestError(f"unknown network {name!r}. {suggest(name, NETWORKS)}, {OTHERS}")
    if stages or classifier or preactivations:
        raise RequestError(
            f"network {name!r}: its stages, classifier and pre-activations are fixed; "
            "leave them out, they are named for torchvision.NAME only"
        )
    entry = NETWORKS[name]
    factory = getattr(importlib.import_module(f"bench.models.{entry.file}"), entry.factory)
    return factory(num_classes, in_channels, **entry.settings)


def _own(
    name: str,
    num_classes: int,
    in_channels: int,
    stages: Sequence[str] | None,
    classifier: str | None,
    preactivations: Sequence[str] | None,
) -> Network:
    """Return a user's network; one that is no `Network` is read through hooks."""
    from torch import nn

    from bench.models.base import Network
    from bench.models.hooked import HookedNetwork

    factory = own.factory_of(name)
    try:
        network = factory(num_classes=num_classes, in_channels=in_channels)
    except (Exception, SystemExit) as error:  # a user's code may raise anything, or exit
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise RequestError(
            f"network {name!r}: its factory, called with num_classes and in_channels, raises {reason}"
        ) from error
    if isinstance(network, Network):
        if stages or classifier or preactivations:
            raise RequestError(f"network {name!r}: it says itself what its stages are; leave them out")
        return network
    if not isinstance(network, nn.Module):
        raise RequestError(f"network {name!r}: its factory returns a {type(network).__name__}, not an nn.Module")
    with _naming(name):
        return HookedNetwork(network, stages or (), classifier, preactivations or ())


@contextmanager
def _naming(name: str) -> Iterator[None]:
    """Name a network in the errors that are raised within."""
    try:
        yield
    except RequestError as error:
        raise RequestError(f"network {name!r}: {error}") from None


def shapes(network: Network, name: str, in_channels: int, height: int, width: int) -> Shapes:
    """Return the shapes of a network's features for images (C, H, W), from one eval-mode forward pass.

    The network is left unchanged, including its modes and statistics. On the meta device nothing is computed.
    """
    import torch

    from bench.models.base import evaluating

    weight = next(network.parameters())
    image = torch.zeros(1, in_channels, height, width, device=weight.device, dtype=weight.dtype)
    with evaluating(network), torch.no_grad():
        features = network.features(image, preactivations=True)

    def sizes(maps: Sequence[Tensor]) -> tuple[tuple[int, int, int], ...]:
        return tuple((c, h, w) for _, c, h, w in (each.shape for each in maps))

    return Shapes(
        network=name,
        stages=sizes(features.stages),
        preactivations=sizes(features.preactivations),
        embedding=features.embedding.shape[1],
        classes=features.logits.shape[1],
        final=None if features.final is None else sizes([features.final])[0],
        has_classifier=features.classifier is not None,
        has_norms=bool(features.norms),
        of_tokens=features.of_tokens,
        has_class_tokens=bool(features.class_tokens),
    )
