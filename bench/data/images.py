"""Images as uint8, by position: in the device's memory where they fit, decoded by workers where they do not."""

import gzip
import logging
import math
import multiprocessing
import os
import shutil
import socket
import tempfile
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, default_collate

from bench.data import DATASETS, IMAGEFOLDER, fingerprint, list_folder
from bench.spec import DataSpec, seed_from
from bench.types import RequestError

logger = logging.getLogger(__name__)

RESIDENT_BYTES = 2 << 30  # images that take more are not kept in memory
TIMEOUT_S = 20.0  # of a download: a firewall that drops packets must not hold a request for minutes


class Images(Protocol):
    """A split's images."""

    def batches(self, positions: Sequence[Tensor]) -> Iterator[Tensor]:
        """Yield one uint8 tensor (B, C, H, W) on the device for each tensor of positions (B,)."""


@dataclass(frozen=True)
class Split:
    """The training or the test images with their labels.

    Attributes:
        images: by position.
        targets: (n,) int64 class indices, on the CPU.
    """

    images: Images
    targets: Tensor

    def __len__(self) -> int:
        return len(self.targets)


class ResidentImages:
    """Images that lie in the device's memory, (n, C, H, W) uint8."""

    def __init__(self, images: Tensor, device: torch.device) -> None:
        self.images = images.to(device)

    def batches(self, positions: Sequence[Tensor]) -> Iterator[Tensor]:
        """Yield each batch's images, gathered on the device."""
        everything = torch.cat(list(positions)).to(self.images.device, non_blocking=True)  # one transfer an epoch
        for chosen in everything.split([len(p) for p in positions]):
            yield self.images[chosen]


class FileImages:
    """Images that worker processes read from files batch by batch, in the order asked for, whatever their number."""

    def __init__(self, files: Sequence[str], size: tuple[int, int], device: torch.device, workers: int) -> None:
        self.files, self.device, self.workers = _Files(files, size), device, workers

    def batches(self, positions: Sequence[Tensor]) -> Iterator[Tensor]:
        """Yield each batch's images, read ahead by workers that live as long as the iteration."""
        loader = DataLoader(
            self.files,
            batch_sampler=[p.tolist() for p in positions],
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
    def __init__(self, files: Sequence[str], size: tuple[int, int]) -> None:
        self.files, self.size = files, size

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, position: int) -> Tensor | RequestError:
        try:
            return read_image(self.files[position], self.size)
        except RequestError as error:
            return error  # raised in a worker, it would arrive wrapped in the worker's traceback


def _collate(images: list[Tensor | RequestError]) -> Tensor | RequestError:
    return next((image for image in images if isinstance(image, RequestError)), None) or default_collate(images)


def _forkserver() -> BaseContext:
    """Return how workers start: as forks of a server that has torch loaded, so that each takes no time to start.

    A fork of this process would copy its threads' locks.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
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
    try:
        with Image.open(file) as opened:
            image = opened.convert("RGB")
    except Exception as error:  # a decoder raises whatever it likes
        raise RequestError(f"{file}: cannot be read as an image: {error}") from error
    height, width = size
    if (image.height, image.width) != size:
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def load(spec: DataSpec, root: Path, device: torch.device, workers: int) -> tuple[Split, Split]:
    """Return the training split, cut as the specification says, and the test split.

    Args:
        spec: what to load.
        root: where torchvision's data sets lie or are downloaded to.
        device: where images and batches live.
        workers: processes that decode images which do not fit into memory.

    Raises:
        RequestError: the data is not there and cannot be downloaded; the message names the file and the place.
    """
    if spec.name == IMAGEFOLDER:
        return _image_folder(spec, device, workers)
    (images, targets), held_out = _digits() if DATASETS[spec.name].folder is None else _torchvision(spec.name, root)
    positions = kept(targets, spec)
    return _named(spec, images[positions], targets[positions], device), _named(spec, *held_out, device)


def kept(targets: Tensor, spec: DataSpec) -> Tensor:
    """Return the positions that a subset keeps, ascending.

    The choice depends on the labels and the data's name alone, never on a run's seed, and a smaller subset lies
    within a larger one.

    Args:
        targets: (n,) int64 class indices of the whole training split.
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


Arrays = tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]  # (images, targets) of the two splits


def _named(spec: DataSpec, images: Tensor, targets: Tensor, device: torch.device) -> Split:
    if images.shape[-2:] != spec.size:
        images = torch.cat([_resized(chunk, spec.size) for chunk in images.split(1024)])
    return Split(ResidentImages(images.expand(-1, spec.channels, -1, -1).contiguous(), device), targets)


def _resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    scaled = F.interpolate(images.float(), size, mode="bilinear", antialias=True)
    return scaled.round().clamp(0, 255).to(torch.uint8)


def _digits() -> Arrays:
    """Return scikit-learn's digits: 90 images of each class to train, drawn by a fixed seed, the rest to test."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = torch.from_numpy(np.rint(digits.images * 255 / 16).astype(np.uint8))[:, None]
    targets = torch.from_numpy(digits.target).long()
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(len(targets), generator=generator)
    train = torch.cat([order[targets[order] == label][: DATASETS["digits"].fewest] for label in range(10)])
    is_train = torch.zeros(len(targets), dtype=torch.bool)
    is_train[train] = True
    return (images[is_train], targets[is_train]), (images[~is_train], targets[~is_train])


def _torchvision(name: str, root: Path) -> Arrays:
    """Return one of torchvision's data sets from `root`, downloaded there first if it can be."""
    from torchvision import datasets

    kind = {
        "mnist": datasets.MNIST,
        "fashion_mnist": datasets.FashionMNIST,
        "cifar10": datasets.CIFAR10,
        "cifar100": datasets.CIFAR100,
    }[name]
    folder = root / str(DATASETS[name].folder)
    try:
        return _read(kind, root, folder)
    except Exception as error:  # of a damaged file, torchvision and gzip raise whatever they like
        logger.info("%s is not in %s, or is damaged: downloading it", name, root)
        logger.debug("%r", error)
    try:
        _download(kind, root, folder)
        return _read(kind, root, folder)
    except Exception as error:
        raise RequestError(
            f"data {name!r}: looked for {_wanted(kind, folder)} and did not find them all, or found them damaged, and "
            f"they cannot be downloaded ({' '.join(str(error).split())}). "
            "Put the published files there, or name another folder with --data DIR"
        ) from error


def _read(kind: type[Any], root: Path, folder: Path) -> Arrays:
    for packed in (folder / "raw").glob("*-ubyte.gz"):  # published files that were put there by hand
        plain = packed.with_suffix("")
        if not plain.exists() or not plain.stat().st_size:  # an empty .gz unpacks without complaint
            _unpack(packed, plain)
    train, test = (kind(root, train=train) for train in (True, False))
    return (_uint8(train.data), torch.as_tensor(train.targets)), (_uint8(test.data), torch.as_tensor(test.targets))


def _unpack(packed: Path, plain: Path) -> None:
    """Unpack a file so that it appears whole or not at all, whoever else does so."""
    temporary = plain.with_suffix(f".{uuid.uuid4().hex}.tmp")
    try:
        with gzip.open(packed) as source, temporary.open("wb") as target:
            shutil.copyfileobj(source, target)
        temporary.replace(plain)
    finally:
        temporary.unlink(missing_ok=True)


def _download(kind: type[Any], root: Path, folder: Path) -> None:
    """Download a data set beside its place, then move it there: a download cut short leaves nothing that is read."""
    made = not root.exists()
    root.mkdir(parents=True, exist_ok=True)
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT_S)
    try:
        with tempfile.TemporaryDirectory(prefix=".download-", dir=root) as place:
            if (archive := root / getattr(kind, "filename", "")).is_file():
                shutil.copy(archive, place)  # CIFAR's, put there by hand: torchvision takes it if it is the real one
            kind(place, download=True)
            come = Path(place, folder.name)
            for file in [file for file in come.rglob("*") if file.is_file()]:
                target = folder / file.relative_to(come)
                target.parent.mkdir(parents=True, exist_ok=True)
                file.replace(target)
    finally:
        socket.setdefaulttimeout(timeout)
        if made:
            with suppress(OSError):
                root.rmdir()  # empty, since nothing has come


def _wanted(kind: type[Any], folder: Path) -> str:
    """Return the files that torchvision reads, as text."""
    if hasattr(kind, "resources"):
        return (
            f"{', '.join(name.removesuffix('.gz') for name, _ in kind.resources)} (or each as .gz) in {folder / 'raw'}"
        )
    return f"{', '.join((*dict(kind.train_list), *dict(kind.test_list), kind.meta['filename']))} in {folder}"


def _uint8(images: Tensor | np.ndarray) -> Tensor:
    """Return (n, C, H, W) of MNIST's (n, H, W) tensor or CIFAR's (n, H, W, C) array."""
    tensor = torch.as_tensor(images)
    return tensor[:, None] if tensor.ndim == 3 else tensor.permute(0, 3, 1, 2).contiguous()


def _image_folder(spec: DataSpec, device: torch.device, workers: int) -> tuple[Split, Split]:
    assert spec.path is not None  # only a specification made from a suite file is loaded
    listing = list_folder(spec.path)
    if fingerprint(listing) != spec.fingerprint:
        raise RequestError(f"{spec.path}: the folder's images have changed since they were listed; start again")
    labels = {name: label for label, name in enumerate(listing["train"])}

    def split(name: str) -> Split:
        members = [(file, labels[label]) for label, files in listing[name].items() for file in files]
        targets = torch.tensor([label for _, label in members])
        positions = kept(targets, spec) if name == "train" else torch.arange(len(members))
        files = [members[position][0] for position in positions.tolist()]
        return Split(_images(files, spec, device, workers), targets[positions])

    return split("train"), split("test")


def _images(files: Sequence[str], spec: DataSpec, device: torch.device, workers: int) -> Images:
    """Return images by position, read into memory at once if they fit."""
    shape = (len(files), spec.channels, *spec.size)
    if math.prod(shape) > RESIDENT_BYTES:
        return FileImages(files, spec.size, device, workers)
    logger.info("reading %d images of %s into memory (%d MB)", len(files), spec.path, math.prod(shape) >> 20)
    images = torch.empty(shape, dtype=torch.uint8)
    places = torch.arange(len(files)).split(256)
    read = FileImages(files, spec.size, images.device, workers).batches(places)
    for chunk, batch in zip(images.split(256), read, strict=True):
        chunk.copy_(batch)
    return ResidentImages(images, device)
