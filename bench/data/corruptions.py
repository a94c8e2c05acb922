"""Corrupted test images: a few kinds of Hendrycks and Dietterich (ICLR 2019), each at one strength.

The strengths are this project's own, the same for images of every size. The numbers compare rows of one table, and are
not those of CIFAR-10-C. Every image is corrupted on the CPU with a seed of its own, so that it depends neither on the
device nor on the batches.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from bench.data.images import ResidentImages, Split
from bench.spec import seed_from

if TYPE_CHECKING:
    from bench.data.images import Images

NOISE = 0.08  # standard deviation; values are in [0, 1]
BLUR = 0.7, 5  # standard deviation and width of the kernel in pixels
BRIGHTNESS = 1.4  # factor of all values
CONTRAST = 0.4  # factor of the distances from the image's mean grey
JPEG_QUALITY = 50  # of 1 to 100
MAX_KEPT_BYTES = 256 << 20


class CorruptedImages:
    """Images with one kind of corruption, applied to the stored values before a network's view of them."""

    def __init__(self, images: Images, kind: str, device: torch.device) -> None:
        self.images, self.kind, self.device = images, kind, device

    def __len__(self) -> int:
        return len(self.images)

    def batches(self, positions: Sequence[Tensor], seeds: Sequence[Tensor] = ()) -> Iterator[Tensor]:
        """Yield each batch's images (B, 3, H, W) uint8; see `Images.batches`."""
        for places, batch in zip(positions, self.images.batches(positions, seeds), strict=True):
            yield corrupted(batch.cpu(), self.kind, places.tolist()).to(self.device)


def can_corrupt(images: Images) -> bool:
    """Return whether images are of red, green and blue with 8 bits; images with depth are not corrupted."""
    (first,) = images.batches([torch.zeros(1, dtype=torch.int64)])
    return first.dtype == torch.uint8 and first.shape[1] == 3


def corrupted_split(split: Split, kind: str, device: torch.device, max_bytes: int = MAX_KEPT_BYTES) -> Split:
    """Return a test split with one kind of corruption: kept in memory, or made batch by batch if it takes more."""
    images = CorruptedImages(split.images, kind, device)
    parts = torch.arange(len(split)).split(256)
    first = next(images.batches(parts[:1]))
    if first[0].numel() * len(split) > max_bytes:
        return Split(images, split.targets)
    return Split(ResidentImages(torch.cat(list(images.batches(parts))), device), split.targets)


def corrupted(images: Tensor, kind: str, numbers: Sequence[int]) -> Tensor:
    """Return corrupted images (B, 3, H, W) uint8, on the CPU.

    Args:
        images: in the same form.
        kind: a name of `bench.tasks.objectives.CORRUPTIONS`.
        numbers: (B,) of the images in the split, which decide their noise.
    """
    from torchvision.transforms.v2 import functional as F  # takes a second to import

    if kind == "noise":
        return torch.stack([_noisy(image, number) for image, number in zip(images, numbers, strict=True)])
    if kind == "blur":
        deviation, width = BLUR
        return F.gaussian_blur(images, [width, width], [deviation, deviation])
    if kind == "brightness":
        return F.adjust_brightness(images, BRIGHTNESS)
    if kind == "contrast":
        return F.adjust_contrast(images, CONTRAST)
    assert kind == "jpeg", kind
    return torch.stack([_compressed(image) for image in images])


def _compressed(image: Tensor) -> Tensor:
    """Return an image (3, H, W) after JPEG compression, by Pillow, since torchvision's own is deprecated."""
    file = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, "JPEG", quality=JPEG_QUALITY)
    with Image.open(file) as read:
        return torch.from_numpy(np.array(read)).permute(2, 0, 1)


def _noisy(image: Tensor, number: int) -> Tensor:
    """Return an image with Gaussian noise that depends only on its number in the split."""
    generator = torch.Generator().manual_seed(seed_from("corruption", "noise", number))
    noise = torch.randn(image.shape, generator=generator)
    return (image + 255 * NOISE * noise).round().clamp(0, 255).byte()
