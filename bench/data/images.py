"""Images by position: in the device's memory where they fit, scaled or decoded batch by batch where they do not.

Stored images are (n, 3, H, W) uint8. Where depth comes with them they are (n, 4, H, W) int16: red, green and blue from
0 to 255, then depth in millimetres (stereo_motorcycle: disparity in hundredths of a pixel).
"""

import logging
import math
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from bench.data import IMAGEFOLDER
from bench.data.arrays import Arrays, nearest, scaled
from bench.data.folders import Listing, fingerprint, list_folder, list_named
from bench.data.named import DATASETS
from bench.spec import DataSpec, seed_from
from bench.types import RequestError

logger = logging.getLogger(__name__)

RESIDENT_BYTES = 2 << 30  # images that take more are not kept in memory
CHUNK = 256  # images that are scaled at a time
LISTED = (IMAGEFOLDER, "tiny_imagenet", "imagenet")  # an image is a file
CUT_SCALE, CUT_RATIO = (0.08, 1.0), (3 / 4, 4 / 3)  # area and width to height of a random part, as the field trains
MIDDLE = 224 / 256  # share of the shorter side that is cut from the middle for testing


class Images(Protocol):
    """A split's images."""

    def __len__(self) -> int: ...

    def batches(self, positions: Sequence[Tensor], seeds: Sequence[Tensor] = ()) -> Iterator[Tensor]:
        """Yield one tensor of stored images (B, C, H, W) on the device for each tensor of positions (B,).

        Args:
            positions: which images.
            seeds: of the part that is cut from each image where images are cut as they are read, as `positions` in
                number and sizes; without them it is the middle. Of no effect on other images.
        """


@dataclass(frozen=True)
class Split:
    """The training or the test images with their labels.

    Attributes:
        images: by position.
        targets: on the CPU: (n,) int64 class indices, or (n, H, W) uint8 ones of pixels, `IGNORED` where a pixel has
            none, or None without labels.
    """

    images: Images
    targets: Tensor | None

    def __len__(self) -> int:
        return len(self.images)


class ResidentImages:
    """Images that lie in the device's memory, as they are stored."""

    def __init__(self, images: Tensor, device: torch.device) -> None:
        self.images = images.to(device)

    def __len__(self) -> int:
        return len(self.images)

    def batches(self, positions: Sequence[Tensor], seeds: Sequence[Tensor] = ()) -> Iterator[Tensor]:
        """Yield each batch's images, gathered on the device."""
        everything = torch.cat(list(positions)).to(self.images.device, non_blocking=True)  # one transfer an epoch
        for chosen in everything.split([len(p) for p in positions]):
            yield self.images[chosen]


class ScaledImages:
    """Images of an array, which may be a file's, that are scaled batch by batch, grey ones repeated to three channels.

    Args:
        images: (n, C, h, w) on the CPU.
        chosen: (m,) positions in the array of the images that there are.
        size: (H, W).
        device: where batches live.
    """

    def __init__(self, images: Tensor, chosen: Tensor, size: tuple[int, int], device: torch.device) -> None:
        self.images, self.chosen, self.size, self.device = images, chosen, size, device
        self.shape = (len(chosen), max(3, images.shape[1]), *size)

    def __len__(self) -> int:
        return len(self.chosen)

    def batches(self, positions: Sequence[Tensor], seeds: Sequence[Tensor] = ()) -> Iterator[Tensor]:
        """Yield each batch's images, scaled on the CPU."""
        for places in positions:
            batch = scaled(self.images[self.chosen[places]], self.size)
            yield batch.expand(-1, self.shape[1], -1, -1).contiguous().to(self.device)


class FileImages:
    """Images that worker processes read from files batch by batch, in the order asked for, whatever their number.

    Args:
        files: one an image.
        size: (H, W) of the images as they are read.
        device: where batches live.
        workers: processes.
        cut: whether a part of each image is read, instead of all of it.
    """

    def __init__(
        self, files: Sequence[str], size: tuple[int, int], device: torch.device, workers: int, cut: bool = False
    ) -> None:
        self.files = _Files(files, partial(read_part if cut else _read_all, size=size))
        self.device, self.workers = device, workers

    def __len__(self) -> int:
        return len(self.files)

    def batches(self, positions: Sequence[Tensor], seeds: Sequence[Tensor] = ()) -> Iterator[Tensor]:
        """Yield each batch's images, read ahead by workers that live as long as the iteration."""
        drawn: list[list[int | None]] = [[None] * len(places) for places in positions]
        if seeds:
            drawn = [of_batch.tolist() for of_batch in seeds]
        batches = zip(positions, drawn, strict=True)
        loader = DataLoader(
            self.files,
            batch_sampler=[list(zip(places.tolist(), of_batch, strict=True)) for places, of_batch in batches],
            collate_fn=_collate,
            num_workers=self.workers,
            pin_memory=self.device.type == "cuda",
            multiprocessing_context=_forkserver() if self.workers else None,
            worker_init_fn=_end_with_parent,
        )
        for images in loader:
            if isinstance(images, RequestError):
                raise images
            yield images.to(self.device, non_blocking=True)


class _Files(Dataset[Tensor | RequestError]):
    def __init__(self, files: Sequence[str], read: Callable[[str, int | None], Tensor]) -> None:
        self.files, self.read = files, read

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, place: tuple[int, int | None]) -> Tensor | RequestError:
        position, seed = place
        try:
            return self.read(self.files[position], seed)
        except RequestError as error:
            return error  # raised in a worker, it would arrive wrapped in the worker's traceback


def _collate(images: list[Tensor | RequestError]) -> Tensor | RequestError:
    for image in images:
        if isinstance(image, RequestError):
            return image
    return default_collate(images)


def _forkserver() -> BaseContext:
    """Return how workers start: as forks of a server that has torch loaded, so that each takes no time to start.

    A fork of this process would copy its threads' locks.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "torchvision.transforms"])
    return context


def _end_with_parent(worker: int) -> None:
    """Let a worker end when the process that reads from it is killed: torch watches the server, which outlives it."""
    parent = multiprocessing.parent_process()
    assert parent is not None  # only a worker calls this

    def end() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end, daemon=True).start()


def read_image(file: str, size: tuple[int, int]) -> Tensor:
    """Return an image file as (3, H, W) uint8, scaled to `size` (bilinear, antialiased) where it differs.

    Raises:
        RequestError: the file is no image, or a broken one.
    """
    image = _opened(file)
    height, width = size
    if (image.height, image.width) != size:
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    return _stored(image)


def _read_all(file: str, seed: int | None, size: tuple[int, int]) -> Tensor:
    return read_image(file, size)


def read_part(file: str, seed: int | None, size: tuple[int, int]) -> Tensor:
    """Return a part of an image file as (3, H, W) uint8, scaled to `size` (bilinear, antialiased).

    Args:
        file: the image's.
        seed: of the part's place, area and ratio, drawn as torchvision's RandomResizedCrop does; None for the middle:
            the image is scaled until its shorter side is 256 where `size` is 224, and its middle is cut out.
        size: (H, W).

    Raises:
        RequestError: the file is no image, or a broken one.
    """
    from torchvision.transforms import RandomResizedCrop
    from torchvision.transforms import functional as tv

    image = _opened(file)
    if seed is None:
        resized = tv.resize(image, [round(min(size) / MIDDLE)])
        return _stored(tv.center_crop(resized, list(size)))
    with torch.random.fork_rng(devices=[]):  # torchvision draws from the generator that all share
        torch.default_generator.manual_seed(seed)
        place = RandomResizedCrop.get_params(image, list(CUT_SCALE), list(CUT_RATIO))
    return _stored(tv.resized_crop(image, *place, list(size)))


def _opened(file: str) -> Image.Image:
    try:
        with Image.open(file) as opened:
            return opened.convert("RGB")
    except Exception as error:  # a decoder raises whatever it likes
        raise RequestError(f"{file}: cannot be read as an image: {error}") from error


def _stored(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def load(spec: DataSpec, root: Path, device: torch.device, workers: int) -> tuple[Split, Split]:
    """Return the training split, cut as the specification says, and the test split.

    Args:
        spec: what to load.
        root: where the published files lie or are downloaded to.
        device: where images and batches live.
        workers: processes that decode images which do not fit into memory.

    Raises:
        RequestError: the data is not there and cannot be downloaded; the message names the file and the place.
    """
    if spec.name in LISTED:
        return _listed(spec, root, device, workers)
    (images, targets), (test_images, test_targets) = _arrays(spec, root)
    labels = targets
    if labels is None or labels.ndim != 1:  # images without a class of their own count as one class
        labels = torch.zeros(len(images), dtype=torch.int64)
    train = _split(spec, images, targets, kept(labels, spec), device)
    return train, _split(spec, test_images, test_targets, torch.arange(len(test_images)), device)


def fetch(spec: DataSpec, root: Path) -> None:
    """Download what can be and is lacking, and see that the rest is there; the arguments are those of `load`.

    Raises:
        RequestError: as `load`.
    """
    if spec.name in LISTED:
        _listing(spec, root)  # its images are many files, and are read where they are used
    else:
        load(spec, root, torch.device("cpu"), workers=0)


def kept(targets: Tensor, spec: DataSpec) -> Tensor:
    """Return the positions that a subset keeps, ascending.

    The choice depends on the labels and the data's name alone, never on a run's seed, and a smaller subset lies
    within a larger one.

    Args:
        targets: (n,) int64 class indices of the whole training split, all of one class where images have none.
        spec: its `train_per_class` or `train_fraction` say how many of each class.
    """
    if spec.train_per_class is None and spec.train_fraction is None:
        return torch.arange(len(targets))
    generator = torch.Generator().manual_seed(seed_from("subset", spec.name, spec.fingerprint))
    chosen = []
    for label in range(spec.classes):
        members = torch.nonzero(targets == label).flatten()
        members = members[torch.randperm(len(members), generator=generator)]
        count = spec.train_per_class or max(1, round(len(members) * (spec.train_fraction or 1.0)))
        chosen.append(members[:count])
    return torch.cat(chosen).sort().values


def _arrays(spec: DataSpec, root: Path) -> Arrays:
    """Return a named data set's arrays; what reads them is imported by those who need it, since it takes seconds."""
    if spec.name == "nyu_depth_v2":
        from bench.data.nyu import read_nyu

        return read_nyu(root / str(DATASETS[spec.name].folder), spec.size)
    if DATASETS[spec.name].folder is None:
        from bench.data.packaged import PACKAGED

        return PACKAGED[spec.name]()
    from bench.data.fetched import read_fetched

    return read_fetched(spec.name, root)


def _split(spec: DataSpec, images: Tensor, targets: Tensor | None, chosen: Tensor, device: torch.device) -> Split:
    """Return a split of the chosen ones of an array's images, in the device's memory if they fit."""
    if targets is not None:
        targets = targets[chosen]
        if targets.ndim == 3 and targets.shape[1:] != spec.size:
            targets = nearest(targets, spec.size)
    as_read = ScaledImages(images, chosen, spec.size, device)
    if math.prod(as_read.shape) * images.element_size() > RESIDENT_BYTES:
        return Split(as_read, targets)
    if images.shape == as_read.shape and images.is_contiguous():
        return Split(ResidentImages(images, device), targets)
    on_cpu = ScaledImages(images, chosen, spec.size, torch.device("cpu"))
    return Split(ResidentImages(_everything(on_cpu, on_cpu.shape, images.dtype), device), targets)


def _everything(read: Images, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Return all images in one array, read a chunk at a time so that they are in memory once."""
    images = torch.empty(shape, dtype=dtype)
    chunks = images.split(CHUNK)
    batches = read.batches(torch.arange(len(images)).split(CHUNK))
    for chunk, batch in zip(chunks, batches, strict=True):
        chunk.copy_(batch)
    return images


def _listing(spec: DataSpec, root: Path) -> Listing:
    if spec.name != IMAGEFOLDER:
        named = DATASETS[spec.name]
        listing = list_named(spec.name, root / str(named.folder))
        train = sum(len(files) for files in listing["train"].values())
        test = sum(len(files) for files in listing["test"].values())
        found = (len(listing["train"]), train, test)
        published = (named.classes, named.train, named.test)
        if found != published:
            logger.warning(
                "warning: %s in %s is not whole: found %d classes, %d training and %d test images of %d, %d and %d. "
                "A run's id does not tell: keep such runs in a folder of their own",
                spec.name,
                root,
                *found,
                *published,
            )
        return listing
    assert spec.path is not None  # only a specification made from a suite file is loaded
    listing = list_folder(spec.path)
    if fingerprint(listing) != spec.fingerprint:
        raise RequestError(f"{spec.path}: the folder's images have changed since they were listed; start again")
    return listing


def _listed(spec: DataSpec, root: Path, device: torch.device, workers: int) -> tuple[Split, Split]:
    listing = _listing(spec, root)
    labels = {name: label for label, name in enumerate(listing["train"])}

    def split(name: str) -> Split:
        members = [(file, labels[label]) for label, files in listing[name].items() for file in files]
        targets = torch.tensor([label for _, label in members])
        positions = kept(targets, spec) if name == "train" else torch.arange(len(members))
        files = [members[position][0] for position in positions.tolist()]
        return Split(_images(files, spec, name == "train", device, workers), targets[positions])

    return split("train"), split("test")


def _images(files: Sequence[str], spec: DataSpec, training: bool, device: torch.device, workers: int) -> Images:
    """Return images by position, read into memory at once if they fit and are the same in every epoch."""
    cut = spec.augment == "resized_crop_flip"
    shape = (len(files), 3, *spec.size)
    if (cut and training) or math.prod(shape) > RESIDENT_BYTES:
        return FileImages(files, spec.size, device, workers, cut)
    logger.info("reading %d images of %s into memory (%d MB)", len(files), spec.name, math.prod(shape) >> 20)
    read = FileImages(files, spec.size, torch.device("cpu"), workers, cut)
    return ResidentImages(_everything(read, shape, torch.uint8), device)
