"""Describes a network by the shapes of its features; checks a user's own."""

from contextlib import nullcontext
from typing import Any

import torch

from bench.models import build, shapes
from bench.models.contract import problems
from bench.models.hooked import HookedNetwork
from bench.models.quick import without_content
from bench.models.timm_network import TimmNetwork  # imports no timm
from bench.types import RequestError


def described(name: str, classes: int, pixels: int, is_checked: bool) -> dict[str, Any]:
    """Return the shapes of a network's features, and what else methods can read.

    Args:
        name: see `build`.
        classes: for which it is built.
        pixels: height and width of the images.
        is_checked: whether to check that it keeps to the contract of networks.

    Raises:
        RequestError: there is no such network, it cannot take such images, or it does not keep to the contract.
    """
    size = (pixels, pixels)
    if is_checked:
        torch.manual_seed(0)
        faults = problems(lambda: build(name, num_classes=classes), classes, 3, *size)
        if wrong := [f"{name}: {problem}" for problem in faults]:
            raise RequestError("\n".join(wrong))
    try:
        with nullcontext() if is_checked else without_content():
            network = build(name, num_classes=classes, image_size=size)
            shape = shapes(network, name, 3, *size)
    except (RuntimeError, AssertionError, ValueError) as error:
        raise RequestError(f"{name} cannot take images of {pixels}x{pixels} pixels: {error}") from error
    names = [""] * len(shape.stages)
    if isinstance(network, HookedNetwork):
        names = list(network.stage_paths)
    elif isinstance(network, TimmNetwork):
        names = [str(index) for index in network.indices]
    return {
        "pixels": pixels,
        "stages": [list(stage) for stage in shape.stages],
        "names": names,
        "embedding": shape.embedding,
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "final": shape.final is not None,
        "linear": shape.has_classifier,
    }
