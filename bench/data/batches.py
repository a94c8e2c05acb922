"""From images to batches: the order, the augmentation and the normalisation, in batch on the device.

Everything random is drawn for a whole epoch from (seed, data, stage, epoch), by place in the order: a batch is the same
for every cohort, device and number of workers.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.data.images import Split
from bench.spec import FEWEST_SAMPLES, DataSpec, seed_from
from bench.types import Batch, DataInfo

PADDING = 4  # pixels of zeros on each side before a crop, as the paper trains


@dataclass(frozen=True)
class Draws:
    """An epoch's random choices, one row a place in its order.

    Attributes:
        order: (n,) int64, which sample comes when.
        offsets: (n, 2) int64 in [0, 2 * PADDING], top and left edge of the crop in the padded image.
        flips: (n,) bool, whether the crop is mirrored.
    """

    order: Tensor
    offsets: Tensor
    flips: Tensor


class Normaliser:
    """Maps uint8 images to (x / 255 - mean) / std."""

    def __init__(self, spec: DataSpec, device: torch.device) -> None:
        self.mean = torch.tensor(spec.mean, device=device).view(1, -1, 1, 1)
        self.std = torch.tensor(spec.std, device=device).view(1, -1, 1, 1)

    def __call__(self, images: Tensor) -> Tensor:
        """Return float32 images (B, C, H, W), channels last in memory, of uint8 ones."""
        return ((images.float() / 255 - self.mean) / self.std).contiguous(memory_format=torch.channels_last)


@dataclass(frozen=True)
class TrainingData:
    """A cohort's training set.

    Attributes:
        spec: what it is.
        split: images and labels.
        device: where batches live.
        teacher_spec: what the teacher was trained on, whose mean and deviation its view has.
        processes: how many share every batch out among them.
        process: which of them this is, from 0; it loads its own share alone.
    """

    spec: DataSpec
    split: Split
    device: torch.device
    teacher_spec: DataSpec
    processes: int = 1
    process: int = 0

    @property
    def info(self) -> DataInfo:
        """Return what methods are told of the training set, with labels of their own: the split's serve all lanes."""
        return DataInfo(n=len(self.split), classes=self.spec.classes, targets=self.split.targets.clone())

    def epoch(self, seed: int, stage: int, epoch: int, batch_size: int, first: int = 0) -> Iterator[Batch]:
        """Yield the process's share of an epoch's batches, the last partial one included.

        Args:
            seed: the cohort's.
            stage: 0 for the initial stage, 1 for the main one: each has orders of its own.
            epoch: counts from 1.
            batch_size: images a batch, of all processes together.
            first: the batch to begin with, from 0, when an epoch goes on.
        """
        draws = draw(len(self.split), seed_from("batches", seed, self.spec.key, stage, epoch))
        whole = batch_sizes(len(self.split), batch_size, self.processes)
        sizes = [share for size in whole for share in shares(size, self.processes)]

        def own(rows: Tensor) -> tuple[Tensor, ...]:
            return rows.split(sizes)[self.process :: self.processes][first:]

        normalise, teachers_normalise = Normaliser(self.spec, self.device), Normaliser(self.teacher_spec, self.device)
        same_view = (self.spec.mean, self.spec.std) == (self.teacher_spec.mean, self.teacher_spec.std)
        targets = own(self.split.targets[draws.order].to(self.device, non_blocking=True))
        indices = own(draws.order.to(self.device, non_blocking=True))
        offsets = own(draws.offsets.to(self.device, non_blocking=True))
        flips = own(draws.flips.to(self.device, non_blocking=True))
        fetched = self.split.images.batches(own(draws.order))
        for images, *drawn, labels, places in zip(fetched, offsets, flips, targets, indices, strict=True):
            if self.spec.augment != "none":
                images = crop(images, drawn[0], drawn[1] if self.spec.augment == "crop_flip" else None)
            view = normalise(images)
            yield Batch(view, view if same_view else teachers_normalise(images), labels, places)


def draw(n: int, seed: int) -> Draws:
    """Return an epoch's random choices for n samples."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(n, generator=generator)
    offsets = torch.randint(0, 2 * PADDING + 1, (n, 2), generator=generator)
    flips = torch.rand(n, generator=generator) < 0.5
    return Draws(order, offsets, flips)


def batch_sizes(n: int, batch_size: int, processes: int = 1) -> list[int]:
    """Return the sizes of an epoch's batches: the last may be partial, but one that is too small joins its neighbour.

    CC and RKD compare the samples of a batch and are not defined for one, so each process must have two.
    """
    sizes = [batch_size] * (n // batch_size)
    rest = n % batch_size
    if 0 < rest < FEWEST_SAMPLES * processes and sizes:
        sizes[-1] += rest
    elif rest:
        sizes.append(rest)
    return sizes


def shares(size: int, processes: int) -> list[int]:
    """Return how many of a batch's samples each process takes, one after the other: equally many, or one less."""
    bounds = [size * process // processes for process in range(processes + 1)]
    return [end - start for start, end in itertools.pairwise(bounds)]


def crop(images: Tensor, offsets: Tensor, flips: Tensor | None) -> Tensor:
    """Return each image padded with zeros, cropped to its size at its own offset and mirrored if its flip says so.

    Args:
        images: (B, C, H, W) uint8.
        offsets: (B, 2), top and left edge in the padded image, from 0 to 2 * PADDING.
        flips: (B,) bool, or None for no flips.
    """
    B, C, H, W = images.shape
    padded = F.pad(images, (PADDING,) * 4)
    rows = offsets[:, :1] + torch.arange(H, device=images.device)
    columns = torch.arange(W, device=images.device).expand(B, W)
    if flips is not None:
        columns = torch.where(flips[:, None], columns.flip(1), columns)
    columns = offsets[:, 1:] + columns
    sample = torch.arange(B, device=images.device).view(B, 1, 1, 1)
    channel = torch.arange(C, device=images.device).view(1, C, 1, 1)
    return padded[sample, channel, rows.view(B, 1, H, 1), columns.view(B, 1, 1, W)]
