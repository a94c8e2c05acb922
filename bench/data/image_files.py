"""Batches of images that worker processes decode from files, for folders that do not fit into memory."""

import multiprocessing
import os
import threading
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from bench.data.contents import open_image
from bench.types import RequestError

CUT_SCALE, CUT_RATIO = (0.08, 1.0), (3 / 4, 4 / 3)  # area and width to height of a random part, as the field trains
MIDDLE = 224 / 256  # share of the shorter side that is cut from the middle for testing


class FileImages(Dataset[Tensor]):
    """Images that worker processes read from files batch by batch, in the requested order, scaled to `size` (H, W).

    With `cut`, a part is cut out of each image; see `read_part`.
    """

    def __init__(
        self, files: Sequence[str], size: tuple[int, int], device: torch.device, workers: int, cut: bool = False
    ) -> None:
        self.files, self.size, self.device, self.workers, self.cut = files, size, device, workers, cut

    def __len__(self) -> int:
        return len(self.files)

    def __getitems__(self, batch: Sequence[tuple[int, int | None]]) -> list[Tensor] | RequestError:
        """Return the images of (position, seed) in a worker, or the error of a file that is not an image."""
        try:
            if self.cut:
                return [read_part(self.files[position], seed, self.size) for position, seed in batch]
            return [read_image(self.files[position], self.size) for position, _ in batch]
        except RequestError as error:
            return error  # raised in a worker, it would arrive wrapped in the worker's traceback

    def batches(self, positions: Sequence[Tensor], seeds: Sequence[Tensor] = ()) -> Iterator[Tensor]:
        """Yield each batch's images, read ahead by workers that live as long as the iteration."""
        drawn = [of_batch.tolist() for of_batch in seeds] or [[None] * len(places) for places in positions]
        batches = zip(positions, drawn, strict=True)
        # workers are forks of a server that has loaded torch, so they start quickly; forks of this process would copy
        # locks that its threads hold
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__, "torchvision.transforms"])
        loader = DataLoader(
            self,
            batch_sampler=[list(zip(places.tolist(), of_batch, strict=True)) for places, of_batch in batches],
            collate_fn=_collate,
            num_workers=self.workers,
            pin_memory=self.device.type == "cuda",
            multiprocessing_context=context if self.workers else None,
            worker_init_fn=_end_with_parent,
        )
        for images in loader:
            if isinstance(images, RequestError):
                raise images
            yield images.to(self.device, non_blocking=True)


def _collate(images: list[Tensor] | RequestError) -> Tensor | RequestError:
    return images if isinstance(images, RequestError) else default_collate(images)


def _end_with_parent(worker: int) -> None:
    """End a worker when the process that reads from it is killed: torch watches the server, which outlives it."""
    parent = multiprocessing.parent_process()
    assert parent is not None  # only a worker calls this

    def end() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end, daemon=True).start()


def read_image(file: str, size: tuple[int, int]) -> Tensor:
    """Return an image file as (3, H, W) uint8, scaled to `size` (bilinear, antialiased) if it differs."""
    image = open_image(file)
    if image.size != size[::-1]:  # PIL's order is (width, height)
        image = image.resize(size[::-1], Image.Resampling.BILINEAR)
    return _stored(image)


def read_part(file: str, seed: int | None, size: tuple[int, int]) -> Tensor:
    """Return a part of an image file as (3, H, W) uint8, scaled to `size` (bilinear, antialiased).

    The part's place, area and ratio are drawn with the seed, as torchvision's RandomResizedCrop does. With None, it is
    the middle: for a `size` of 224, the image is scaled so that its shorter side is 256, and the middle is cut out.
    """
    from torchvision.transforms import RandomResizedCrop
    from torchvision.transforms import functional as tv

    image = open_image(file)
    if seed is None:
        resized = tv.resize(image, [round(min(size) / MIDDLE)])
        return _stored(tv.center_crop(resized, list(size)))
    with torch.random.fork_rng(devices=[]):  # torchvision draws from the global generator
        torch.default_generator.manual_seed(seed)
        place = RandomResizedCrop.get_params(image, list(CUT_SCALE), list(CUT_RATIO))
    return _stored(tv.resized_crop(image, *place, list(size)))


def _stored(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
