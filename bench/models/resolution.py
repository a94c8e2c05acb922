"""Finds the stages of any classifier: the modules that end a resolution, along the forward pass."""

import math
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call

from bench.models.base import evaluating
from bench.types import RequestError

EXAMINED = [(192, 256), (256, 352)]  # (H, W) of the two images that show which dimensions change
NEW = 0.75  # a map at most so many times as high begins a stage; convolutions without padding shorten maps by less
MAX_WITHIN = 2  # resolutions within a sequence that counts as one step
CHANNELS_FIRST = [False, False, True, True]  # which dimensions of maps (B, C, H, W) change with the image
CHANNELS_LAST = [False, True, True, False]  # which of maps (B, H, W, C)


def stages_by_resolution(network: nn.Module) -> tuple[str, ...]:
    """Return the paths of the modules that end a resolution: along the forward pass, the last output at each.

    These are children of the network or, of a child that is a sequence (`nn.Sequential`) and passes more than two
    resolutions, its members. Modules inside a block do not count, nor do modules whose output does not grow with the
    image, such as a global pooling. A resolution is new if its height is less than `NEW` times the one before.

    Raises:
        RequestError: the network takes images of one size only, or none of its modules gives maps.
    """
    outputs = _examined(network, [path for path, _ in network.named_modules() if path])
    if outputs is None:
        sizes = " and ".join(f"{height}x{width}" for height, width in EXAMINED)
        raise RequestError(
            f"stages: it does not take images of both {sizes} pixels, which show where the resolution changes: name "
            "the modules whose outputs are the stages, stem first"
        )
    heights = {path: height for path, pair in outputs.items() if (height := _height(*pair)) is not None}
    ends: list[str] = []
    begun = math.inf  # the height at which the last stage begins
    for path in sorted(_steps(network, heights), key=list(heights).index):
        if heights[path] < NEW * begun:
            ends.append(path)
            begun = heights[path]
        else:
            ends[-1] = path
    if not ends:
        raise RequestError("stages: none of its modules gives maps (B, C, H, W) that grow with the image: name some")
    return tuple(ends)


def _steps(parent: nn.Module, heights: Mapping[str, int], path: str = "") -> Iterator[str]:
    """Yield the paths of the modules among which stages are looked for, in the order in which they are registered."""
    for name, child in parent.named_children():
        whole = f"{path}{name}"
        passed = {heights.get(f"{whole}.{member}") for member, _ in child.named_children()} - {None}
        if isinstance(child, nn.Sequential) and len(passed) > MAX_WITHIN:
            yield from _steps(child, heights, f"{whole}.")
        elif whole in heights:
            yield whole


def channels_last(network: nn.Module, paths: Collection[str]) -> set[str] | None:
    """Return the paths of the modules that give maps (B, H, W, C); None if the network takes images of one size only.

    Only networks with a norm over the last dimension have such maps.
    """
    if not any(isinstance(module, nn.LayerNorm | nn.RMSNorm) for module in network.modules()):
        return set()
    outputs = _examined(network, paths)
    if outputs is None:
        return None
    return {path for path, (one, other) in outputs.items() if _changed(one, other) == CHANNELS_LAST}


def _examined(network: nn.Module, paths: Collection[str]) -> dict[str, tuple[Tensor, Tensor]] | None:
    """Return the outputs of modules that have 4 dimensions, for images of two sizes, in the order of the forward pass.

    They are on the device meta: nothing is computed. Of a module that is used several times, the last use counts.
    None if the network does not take both sizes.
    """
    channels = next((module.in_channels for module in network.modules() if isinstance(module, nn.Conv2d)), 3)
    state = {name: value.to("meta") for name, value in (*network.named_parameters(), *network.named_buffers())}
    outputs: list[dict[str, Tensor]] = []
    try:
        with evaluating(network), ExitStack() as hooks, torch.no_grad():
            for path in paths:
                keep = partial(_keep_output, outputs, path)
                hooks.enter_context(network.get_submodule(path).register_forward_hook(keep))
            for height, width in EXAMINED:
                outputs.append({})
                functional_call(network, state, torch.zeros(1, channels, height, width, device="meta"))
    except (RuntimeError, AssertionError, ValueError):
        return None
    first, second = outputs
    return {path: (output, second[path]) for path, output in first.items() if path in second}


def _keep_output(outputs: list[dict[str, Tensor]], path: str, _: nn.Module, __: object, output: object) -> None:
    outputs[-1].pop(path, None)  # a dict keeps the place of the first use
    if isinstance(output, Tensor) and output.ndim == 4:
        outputs[-1][path] = output


def _changed(one: Tensor, other: Tensor) -> list[bool]:
    """Return which of the dimensions of two outputs differ."""
    return [a != b for a, b in zip(one.shape, other.shape, strict=True)]


def _height(one: Tensor, other: Tensor) -> int | None:
    """Return the height of a module's first maps, in either layout; None if its outputs do not grow with the image."""
    changed = _changed(one, other)
    if changed == CHANNELS_FIRST:
        return one.shape[2]
    return one.shape[1] if changed == CHANNELS_LAST else None
