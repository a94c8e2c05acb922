"""Loads data sets as splits of images: in the device's memory if they fit, otherwise decoded batch by batch.

Stored images are (n, 3, H, W) uint8. With depth they are (n, 4, H, W) int16: red, green and blue from 0 to 255, then
depth in millimetres (stereo_motorcycle: disparity in hundredths of a pixel).
"""

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from bench.data.arrays import Arrays, nearest, scaled
from bench.data.choice import IMAGEFOLDER
from bench.data.contents import MARKS, Contents, look_at
from bench.data.folders import Listing, absent, list_divided
from bench.data.image_files import FileImages
from bench.data.named import DATASETS, EXTRAS
from bench.data.subset import divided
from bench.reading import check_folder
from bench.spec import DataSpec
from bench.types import RequestError

logger = logging.getLogger(__name__)

MAX_RESIDENT_BYTES = 2 << 30  # a split whose images take more is not kept in memory
CHUNK = 256  # images that are scaled at a time


class Images(Protocol):
    """Stored images by position: in memory, or scaled, decoded or corrupted batch by batch."""

    def __len__(self) -> int: ...

    def batches(self, positions: Sequence[Tensor], seeds: Sequence[Tensor] = ()) -> Iterator[Tensor]:
        """Yield the stored images of each batch (B, C, H, W), on the device.

        Args:
            positions: (B,) for each batch.
            seeds: (B,) for each batch, for images of which only a part is read: they decide which part. Without them,
                it is the middle.
        """


@dataclass(frozen=True)
class Split:
    """The training or the test images with their labels.

    Labels are on the CPU: (n,) int64 class indices of images, (n, H, W) uint8 class indices of pixels (`IGNORED` for a
    pixel without a class), or None.
    """

    images: Images
    targets: Tensor | None

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class Splits:
    """The splits that a run reads."""

    train: Split  # reduced as specified, without the dev images
    test: Split | None  # None if the run leaves it closed
    dev: Split | None  # the training images that are left out of training, if there are any

    @property
    def evaluated(self) -> Split:
        """Return the split whose metrics are a run's result: the test images, or the dev images if it has no test."""
        split = self.dev if self.test is None else self.test
        assert split is not None  # a specification without test images holds dev images out
        return split


class ResidentImages:
    """Images in the device's memory, as they are stored."""

    def __init__(self, images: Tensor, device: torch.device) -> None:
        self.images = images.to(device)

    def __len__(self) -> int:
        return len(self.images)

    def batches(self, positions: Sequence[Tensor], seeds: Sequence[Tensor] = ()) -> Iterator[Tensor]:
        """Yield each batch's images; see `Images.batches`."""
        everything = torch.cat(list(positions)).to(self.images.device, non_blocking=True)  # one transfer an epoch
        for chosen in everything.split([len(p) for p in positions]):
            yield self.images[chosen]


class ScaledImages:
    """Images of an array on the CPU, which may be mapped from a file, scaled batch by batch.

    Of the array (n, C, h, w), only the positions `chosen` (m,) are read. A grey channel is repeated three times.
    """

    def __init__(self, images: Tensor, chosen: Tensor, size: tuple[int, int], device: torch.device) -> None:
        self.images, self.chosen, self.size, self.device = images, chosen, size, device
        self.shape = (len(chosen), max(3, images.shape[1]), *size)

    def __len__(self) -> int:
        return len(self.chosen)

    def batches(self, positions: Sequence[Tensor], seeds: Sequence[Tensor] = ()) -> Iterator[Tensor]:
        """Yield each batch's images, scaled on the CPU; see `Images.batches`."""
        for places in positions:
            batch = scaled(self.images[self.chosen[places]], self.size)
            yield batch.expand(-1, self.shape[1], -1, -1).contiguous().to(self.device)


def load_data(
    spec: DataSpec, root: Path, device: torch.device, workers: int, resident_bytes: int = MAX_RESIDENT_BYTES
) -> tuple[Split, Split]:
    """Return the training split, reduced as specified, and the split that a run is evaluated on; see `load_all`."""
    splits = load_all(spec, root, device, workers, resident_bytes)
    return splits.train, splits.evaluated


def load_all(
    spec: DataSpec, root: Path, device: torch.device, workers: int, resident_bytes: int = MAX_RESIDENT_BYTES
) -> Splits:
    """Return the splits that a run reads.

    Args:
        spec: of the data.
        root: the folder of the published files, to which they are downloaded.
        device: of images and batches.
        workers: number of processes that decode images which do not fit into memory.
        resident_bytes: a split whose images take more is not kept in memory.

    Raises:
        RequestError: the data is missing and cannot be downloaded, or a package that reads it is not installed.
    """
    if _is_listed(spec):
        return _load_files(spec, root, device, workers, resident_bytes)
    arrays: Arrays = _reader(spec.name)(spec, root)
    (images, targets), tested = arrays
    labels = targets
    if labels is None or labels.ndim != 1:  # images without a class of their own count as one class
        labels = torch.zeros(len(images), dtype=torch.int64)
    trained, held_out = divided(labels, spec)
    test = None
    if tested is not None:
        test = _split(spec, *tested, torch.arange(len(tested[0])), device, resident_bytes)
    return Splits(
        train=_split(spec, images, targets, trained, device, resident_bytes),
        test=test,
        dev=_split(spec, images, targets, held_out, device, resident_bytes) if len(held_out) else None,
    )


def fetch(spec: DataSpec, root: Path) -> None:
    """Download missing data if possible, and check that the rest exists; raises as `load`."""
    if _is_listed(spec):
        _listing(spec, root)  # its many files are read when they are used
    else:
        load_all(spec, root, torch.device("cpu"), workers=0)


def check_present(spec: DataSpec, root: Path) -> str | None:
    """Return a note if data is missing and will be downloaded; None if it is there.

    Raises:
        RequestError: data is missing and cannot be downloaded, its root is no folder, or a package that reads it is
            missing.
    """
    if spec.name == IMAGEFOLDER:
        return None  # it was read when the suite was planned
    named, _ = DATASETS[spec.name], _reader(spec.name)
    if named.folder:
        check_folder("--data", root)
    if named.is_listed:
        _listing(spec, root)
    elif named.folder and not (root / named.folder).is_dir():
        if not named.reader.startswith("fetched."):
            raise absent(spec.name, f"looked for the folder {root / named.folder}, and found none")
        return f"{spec.name} is not in {root / named.folder}: it will be downloaded"
    return None


def _is_listed(spec: DataSpec) -> bool:
    """Return whether each image is a file of its own."""
    return spec.name == IMAGEFOLDER or DATASETS[spec.name].is_listed


def _reader(name: str) -> Callable[[DataSpec, Path], Any]:
    """Return the function that reads a named data set; its module is imported here, which may take seconds."""
    named = DATASETS[name]
    if named.extra is not None:
        module, package = EXTRAS[named.extra]
        if find_spec(module) is None:
            raise RequestError(
                f"data {name!r}: needs the package {package}, which is not installed: "
                f"pip install 'distillation-bench[{named.extra}]'"
            )
    module, function = named.reader.split(".")
    return getattr(import_module(f"bench.data.{module}"), function)


def _split(
    spec: DataSpec, images: Tensor, targets: Tensor | None, chosen: Tensor, device: torch.device, resident_bytes: int
) -> Split:
    """Return a split of chosen images of an array, in the device's memory if they fit."""
    if targets is not None:
        targets = targets[chosen]
        if targets.ndim == 3 and targets.shape[1:] != spec.size:
            targets = nearest(targets, spec.size)
    as_read = ScaledImages(images, chosen, spec.size, device)
    if math.prod(as_read.shape) * images.element_size() > resident_bytes:
        return Split(as_read, targets)
    if images.shape == as_read.shape and images.is_contiguous():
        return Split(ResidentImages(images, device), targets)
    on_cpu = ScaledImages(images, chosen, spec.size, torch.device("cpu"))
    return Split(ResidentImages(_everything(on_cpu, on_cpu.shape, images.dtype), device), targets)


def _everything(read: Images, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Return all images in one array, read chunk by chunk so that only one copy is in memory."""
    images = torch.empty(shape, dtype=dtype)
    batches = read.batches(torch.arange(len(images)).split(CHUNK))
    for chunk, batch in zip(images.split(CHUNK), batches, strict=True):
        chunk.copy_(batch)
    return images


def _told(spec: DataSpec, listing: Listing, contents: Contents) -> Iterator[str]:
    """Yield lines on what an image folder holds, and on how images of other sizes and kinds are converted."""
    classes, train, test = _counts(listing)
    (height, width), several = spec.size, len(contents.sizes) > 1
    sizes = f"{len(contents.sizes)} sizes" if several else "{}x{} pixels".format(*next(iter(contents.sizes)))
    scaled_to = f", scaled to {height}x{width}" if several or spec.size not in contents.sizes else ""
    counts = f"{classes} classes, {train} training and {test} test images"
    yield f"{spec.path}: {counts} of {sizes}{scaled_to} (height x width)"
    if spec.view is None:
        yield f"mean {list(spec.mean)}, deviation {list(spec.std)} (red, green, blue)"
    for stored, count in contents.modes.items():
        mode, *marks = stored.split(",")
        yield from (f"{count} image(s) {MARKS[mark]}" for mark in marks)
        if mode[0] == "I":
            yield f"{count} image(s) of 16 or 12 bits (mode {mode}) are scaled to 8 bits"
        elif mode != "RGB":
            yield f"{count} image(s) of mode {mode} are converted to red, green and blue; transparency is left out"


def _counts(listing: Listing) -> tuple[int, int, int]:
    """Return the number of classes, of training images and of test images."""
    train, test = (sum(len(files) for files in listing[split].values()) for split in ("train", "test"))
    return len(listing["train"]), train, test


def _listing(spec: DataSpec, root: Path, is_told: bool = False) -> Listing:
    """Return the files of each split and class.

    Raises:
        RequestError: files are missing, or an image folder has changed since the suite was read.
    """
    if spec.name == IMAGEFOLDER:
        assert spec.path is not None  # only a specification made from a suite file is loaded
        notes: list[str] = []
        listing = list_divided(spec.path, spec.test_fraction, notes)
        contents = look_at(listing, spec.path)
        if contents.fingerprint != spec.fingerprint:
            raise RequestError(f"{spec.path}: the folder's images have changed since they were listed; start again")
        if is_told:
            for line in (*_told(spec, listing, contents), *notes):
                logger.info("%s", line)
        return listing
    try:
        listing = _reader(spec.name)(spec, root)
    except RequestError as error:
        raise absent(spec.name, str(error)) from error
    named = DATASETS[spec.name]
    there, published = _counts(listing), (named.classes, named.train, named.test)
    if there != published:
        logger.warning(
            "warning: %s in %s is incomplete: found %d classes, %d training and %d test images of %d, %d and %d. "
            "A run's id does not depend on it: keep such runs in a separate folder",
            *(spec.name, root, *there, *published),
        )
    return listing


def _load_files(spec: DataSpec, root: Path, device: torch.device, workers: int, resident_bytes: int) -> Splits:
    listing = _listing(spec, root, is_told=True)
    cut = spec.augment == "resized_crop_flip"

    def images(files: Sequence[str], training: bool) -> Images:
        """Return images by position; they are read into memory at once if they fit and no epoch cuts other parts."""
        shape = (len(files), 3, *spec.size)
        if (cut and training) or math.prod(shape) > resident_bytes:
            return FileImages(files, spec.size, device, workers, cut)
        logger.info("reading %d images of %s into memory (%d MB)", len(files), spec.name, math.prod(shape) >> 20)
        read = FileImages(files, spec.size, torch.device("cpu"), workers, cut)
        return ResidentImages(_everything(read, shape, torch.uint8), device)

    def split(members: Sequence[tuple[str, int]], training: bool = False) -> Split:
        return Split(images([file for file, _ in members], training), torch.tensor([label for _, label in members]))

    def members_of(name: str) -> list[tuple[str, int]]:
        of_class = listing[name]
        return [(file, label) for label, key in enumerate(listing["train"]) for file in of_class.get(key, ())]

    members = members_of("train")
    parts = divided(torch.tensor([label for _, label in members]), spec)
    trained, held_out = ([members[position] for position in part.tolist()] for part in parts)
    return Splits(
        train=split(trained, training=True),
        test=split(members_of("test")) if spec.opens_test else None,
        dev=split(held_out) if held_out else None,
    )
