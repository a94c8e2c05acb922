"""Images and labels as arrays, and how they are scaled to another size."""

import torch
from torch import Tensor
from torch.nn import functional as F

Part = tuple[Tensor, Tensor | None]  # images and targets
Arrays = tuple[Part, Part | None]  # the training split, and the test split or None if the run does not read it


def scaled(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Return images (n, C, h, w) as (n, C, H, W) of the same type: the first three channels bilinear and antialiased.

    Values are 0 to 255. A fourth channel is depth, which takes the nearest pixel's value: a mean of a near and a far
    depth is a depth at which there is nothing.
    """
    if images.shape[-2:] == size:
        return images
    colours = F.interpolate(images[:, :3].float(), size, mode="bilinear", antialias=True)
    resized = colours.round().clamp(0, 255).to(images.dtype)
    if images.shape[1] <= 3:
        return resized
    depth = nearest(images[:, 3], size)
    return torch.cat([resized, depth[:, None]], dim=1)


def nearest(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Return maps (n, h, w) of any type as (n, H, W), each pixel the one nearest to its centre."""
    old_sizes = maps.shape[-2:]
    rows, columns = (((torch.arange(n) + 0.5) * old / n).floor().long() for old, n in zip(old_sizes, size, strict=True))
    return maps[:, rows[:, None], columns]
