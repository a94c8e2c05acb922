"""Makes batches from images: their order, augmentation and views, computed on the device.

All random choices of an epoch are drawn from (seed, data, stage, epoch), one row per position in the order, so that a
batch is the same for every cohort, device and number of workers.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.data.images import Split
from bench.data.mixing import draw_mix, mixed
from bench.data.views import ViewTransform
from bench.schedule import MIN_SAMPLES, Recipe
from bench.spec import IGNORED, Augment, DataSpec, seed_from
from bench.types import Batch, DataInfo

PADDING = 4  # pixels of zeros on each side before a crop, as the paper trains


@dataclass(frozen=True)
class Draws:
    """An epoch's random choices, one row per position in its order."""

    order: Tensor  # (n,) int64, the samples in their order
    offsets: Tensor  # (n, 2) int64 in [0, 2 * PADDING], top and left edge of the crop in the padded image
    flips: Tensor  # (n,) bool, whether the crop is mirrored
    seeds: Tensor  # (n,) int64, for the part that is cut from an image when it is read


@dataclass(frozen=True)
class TrainingData:
    """A cohort's training set."""

    spec: DataSpec  # of the student's data
    split: Split
    device: torch.device  # of the batches
    teacher_spec: DataSpec  # of the teacher's data, which defines its view of the same crops
    processes: int = 1  # number of processes that share each batch
    process: int = 0  # this process's number, from 0; it loads only its own share
    recipe: Recipe | None = None  # further augmentation: RandAugment, random erasing, mixup and cutmix; None for none

    @property
    def info(self) -> DataInfo:
        """Return the training set as methods receive it, with one copy of the labels, which all lanes share."""
        targets = self.split.targets
        own = targets.clone() if targets is not None and targets.ndim == 1 else None
        return DataInfo(len(self.split), self.spec.classes, own)

    def epoch(
        self, seed: int, stage: int, epoch: int, batch_size: int, first: int = 0, second_view: bool = False
    ) -> Iterator[Batch]:
        """Yield this process's share of an epoch's batches, including a last partial one.

        Args:
            seed: of order and augmentation.
            stage: 0 for the initial stage, 1 for the main one; each has its own orders.
            epoch: counts from 1.
            batch_size: of all processes together.
            first: the batch that a resumed epoch begins with, counted from 0.
            second_view: whether batches have a second view of the same images, cropped and mirrored anew and distorted.
        """
        draws = draw(len(self.split), seed_from("batches", seed, self.spec.key, stage, epoch))
        whole = batch_sizes(len(self.split), batch_size, self.processes)
        sizes = [share for size in whole for share in batch_shares(size, self.processes)]
        view = ViewTransform(self.spec, self.device)
        teachers_view = ViewTransform(self.teacher_spec, self.device)
        same_view = self.spec.has_view_of(self.teacher_spec)

        def own(drawn: Tensor) -> tuple[Tensor, ...]:
            # `sizes` lists each batch's shares, process by process
            return drawn.split(sizes)[self.process :: self.processes][first:]

        def on_device(drawn: Tensor) -> tuple[Tensor, ...]:
            return own(drawn.to(self.device, non_blocking=True))

        labels: Sequence[Tensor | None] = [None] * (len(whole) - first)
        if self.split.targets is not None:
            labels = on_device(self.split.targets[draws.order])
        fetched = self.split.images.batches(own(draws.order), own(draws.seeds))
        drawn = (on_device(draws.offsets), on_device(draws.flips), on_device(draws.order))
        again: Sequence[tuple[Tensor, ...] | None] = [None] * (len(whole) - first)
        if second_view:
            from bench.data.distortions import distorted  # imports torchvision, which takes a second

            redrawn = draw(len(self.split), seed_from("second view", seed, self.spec.key, stage, epoch))
            again = list(zip(on_device(redrawn.offsets), on_device(redrawn.flips), own(redrawn.seeds), strict=True))
        varied: Sequence[Tensor | None] = [None] * (len(whole) - first)
        if self.recipe is not None and (self.recipe.randaugment is not None or self.recipe.random_erasing is not None):
            varied = own(draw(len(self.split), seed_from("recipe", seed, self.spec.key, stage, epoch)).seeds)
        batches = zip(fetched, labels, *drawn, again, varied, strict=True)
        for number, (stored, label, offsets, flips, places, other, seeds_of_recipe) in enumerate(batches, start=first):
            images = self._randaugmented(augmented(stored, self.spec.augment, offsets, flips), seeds_of_recipe)
            if label is not None and label.ndim == 3:
                label = augmented(label[:, None], self.spec.augment, offsets, flips, outside=IGNORED)[:, 0].long()
            students = self._erased(view(images), seeds_of_recipe)
            teachers = students if same_view else self._erased(teachers_view(images), seeds_of_recipe)
            second, teachers_second = None, None
            if other is not None:
                second_offsets, second_flips, seeds = other
                images = distorted(augmented(stored, self.spec.augment, second_offsets, second_flips), seeds)
                second = view(images)
                teachers_second = second if same_view else teachers_view(images)
            batch = Batch(students, teachers, label, places, second, teachers_second)
            if self.recipe is not None and self.recipe.mixes:
                mix = draw_mix(self.recipe, self.spec.size, seed_from("mix", seed, self.spec.key, stage, epoch, number))
                batch = mixed(batch, mix, self.spec.classes)
            yield batch

    def _randaugmented(self, images: Tensor, seeds: Tensor | None) -> Tensor:
        """Return images (B, 3, H, W) uint8 as RandAugment leaves them, if the recipe has it."""
        if self.recipe is None or self.recipe.randaugment is None:
            return images
        from bench.data.distortions import randaugmented  # imports torchvision, which takes a second

        assert seeds is not None  # `epoch` has drawn them
        return randaugmented(images, seeds, self.recipe.randaugment, self.recipe.randaugment_std or 0.0)

    def _erased(self, images: Tensor, seeds: Tensor | None) -> Tensor:
        """Return normalised images (B, C, H, W) after random erasing, if the recipe has it."""
        if self.recipe is None or self.recipe.random_erasing is None:
            return images
        from bench.data.distortions import erased  # imports torchvision, which takes a second

        assert seeds is not None  # `epoch` has drawn them
        return erased(images, seeds, self.recipe.random_erasing)


def draw(n: int, seed: int) -> Draws:
    """Return an epoch's random choices for n samples."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(n, generator=generator)
    offsets = torch.randint(0, 2 * PADDING + 1, (n, 2), generator=generator)
    flips = torch.rand(n, generator=generator) < 0.5
    seeds = torch.randint(0, 2**62, (n,), generator=generator)
    return Draws(order, offsets, flips, seeds)


def batch_sizes(n: int, batch_size: int, processes: int = 1) -> list[int]:
    """Return the sizes of an epoch's batches; the last one may be smaller, or is joined to the one before it.

    CC and RKD compare the samples of a batch and are not defined for a single one, so each process needs two.
    """
    sizes = [batch_size] * (n // batch_size)
    rest = n % batch_size
    if 0 < rest < MIN_SAMPLES * processes and sizes:
        sizes[-1] += rest
    elif rest:
        sizes.append(rest)
    return sizes


def batch_shares(size: int, processes: int) -> list[int]:
    """Return how many of a batch's samples each process takes; the numbers differ by at most one."""
    bounds = [size * process // processes for process in range(processes + 1)]
    return [end - start for start, end in itertools.pairwise(bounds)]


def augmented(images: Tensor, augment: Augment, offsets: Tensor, flips: Tensor, outside: int = 0) -> Tensor:
    """Return augmented images, or maps of labels (B, 1, H, W); the other arguments are those of `crop`."""
    if augment == "none":
        return images
    if augment == "resized_crop_flip":  # the images have been cropped when they were read
        return torch.where(flips[:, None, None, None], images.flip(3), images)
    return crop(images, offsets, flips if augment == "crop_flip" else None, outside)


def crop(images: Tensor, offsets: Tensor, flips: Tensor | None, outside: int = 0) -> Tensor:
    """Return each image (B, C, H, W) padded, cropped to its size at its own offset and mirrored if its flip is set.

    `offsets` and `flips`, or None for no flips, are those of `Draws`; `outside` is the padding's value.
    """
    B, C, H, W = images.shape
    padded = F.pad(images, (PADDING,) * 4, value=outside)
    rows = offsets[:, :1] + torch.arange(H, device=images.device)
    columns = torch.arange(W, device=images.device).expand(B, W)
    if flips is not None:
        columns = torch.where(flips[:, None], columns.flip(1), columns)
    columns = offsets[:, 1:] + columns
    sample = torch.arange(B, device=images.device).view(B, 1, 1, 1)
    channel = torch.arange(C, device=images.device).view(1, C, 1, 1)
    return padded[sample, channel, rows.view(B, 1, H, 1), columns.view(B, 1, 1, W)]
