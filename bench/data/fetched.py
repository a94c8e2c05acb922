"""Reads torchvision's data sets from their published files in the data root, or downloads them there."""

import gzip
import logging
import shutil
import socket
import tempfile
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision import datasets

from bench.data.arrays import Arrays, Part
from bench.data.named import DATASETS
from bench.spec import DataSpec
from bench.types import RequestError

logger = logging.getLogger(__name__)

TIMEOUT_S = 20.0  # of a download: a firewall that drops packets must not block it for minutes
KINDS: dict[str, type[Any]] = {
    "mnist": datasets.MNIST,
    "fashion_mnist": datasets.FashionMNIST,
    "cifar10": datasets.CIFAR10,
    "cifar100": datasets.CIFAR100,
    "stl10": datasets.STL10,
    "stl10_unlabelled": datasets.STL10,
}
STL10_SHAPE = (3, 96, 96)  # of an image in STL-10's files, columns before rows


def read_fetched(spec: DataSpec, root: Path, timeout_s: float = TIMEOUT_S) -> Arrays:
    """Return one of torchvision's data sets from `root`; download it if it is missing.

    Raises:
        RequestError: it is missing and cannot be downloaded.
    """
    name = spec.name
    folder = root / str(DATASETS[name].folder)
    try:
        return _read(spec, root, folder)
    except Exception as error:  # torchvision and gzip raise many kinds for a damaged file
        logger.info("%s is not in %s, or is damaged: downloading it", name, root)
        logger.debug("%r", error)
    try:
        _download(KINDS[name], root, folder, timeout_s)
        return _read(spec, root, folder)
    except Exception as error:
        raise RequestError(
            f"data {name!r}: looked for {_wanted(name, folder)} and some are missing or damaged; "
            f"they cannot be downloaded ({' '.join(str(error).split())}). "
            "Put the published files there, or name another folder with --data DIR"
        ) from error


def _read(spec: DataSpec, root: Path, folder: Path) -> Arrays:
    kind = KINDS[spec.name]
    if kind is datasets.STL10:
        return _read_stl10(spec, folder)
    for packed in (folder / "raw").glob("*-ubyte.gz"):  # published files, put there by hand
        plain = packed.with_suffix("")
        if not plain.exists() or not plain.stat().st_size:  # an empty .gz unpacks without complaint
            _unpack(packed, plain)

    def split(is_train: bool) -> Part:
        read = kind(root, train=is_train)
        return _uint8(read.data), torch.as_tensor(read.targets)

    return split(True), split(False) if spec.opens_test else None


def _stl10_files(name: str) -> tuple[tuple[str, str | None], tuple[str, str | None]]:
    """Return the files of images and labels of the two splits."""
    if DATASETS[name].labels == "none":
        return ("unlabeled_X.bin", None), ("test_X.bin", None)
    return ("train_X.bin", "train_y.bin"), ("test_X.bin", "test_y.bin")


def _read_stl10(spec: DataSpec, folder: Path) -> Arrays:
    """Return STL-10's splits, with images mapped from their files; any fault of the files raises an error.

    torchvision's own class would read three gigabytes twice, first for their checksums.
    """

    def split(images_file: str, labels_file: str | None) -> tuple[Tensor, Tensor | None]:
        # mode "c": torch requires writable memory; nothing is written, and the file would not change
        pixels = np.memmap(folder / images_file, np.uint8, mode="c")
        images = torch.from_numpy(pixels.reshape(-1, *STL10_SHAPE)).transpose(2, 3)
        if labels_file is None:
            return images, None
        labels = np.fromfile(folder / labels_file, np.uint8)  # counted from 1
        if len(labels) != len(images) or not 1 <= labels.min() <= labels.max() <= spec.classes:
            raise ValueError(f"{labels_file} does not hold a label of each image")
        return images, torch.from_numpy(labels.astype(np.int64) - 1)

    train, test = _stl10_files(spec.name)
    return split(*train), split(*test) if spec.opens_test else None


def _unpack(packed: Path, plain: Path) -> None:
    """Unpack a file atomically, even if other processes unpack it too."""
    temporary = plain.with_suffix(f".{uuid.uuid4().hex}.tmp")
    try:
        with gzip.open(packed) as source, temporary.open("wb") as target:
            shutil.copyfileobj(source, target)
        temporary.replace(plain)
    finally:
        temporary.unlink(missing_ok=True)


def _download(kind: type[Any], root: Path, folder: Path, timeout_s: float) -> None:
    """Download a data set to a temporary folder, then move it: an interrupted download leaves nothing that is read."""
    made = not root.exists()
    root.mkdir(parents=True, exist_ok=True)
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(timeout_s)
    try:
        with tempfile.TemporaryDirectory(prefix=".download-", dir=root) as place:
            archive = root / getattr(kind, "filename", "")
            if archive.is_file():
                shutil.copy(archive, place)  # put there by hand: torchvision uses it if it is the published one
            kind(place, download=True)
            downloaded = Path(place, folder.name)
            for file in [file for file in downloaded.rglob("*") if file.is_file()]:  # all, before any is moved
                target = folder / file.relative_to(downloaded)
                target.parent.mkdir(parents=True, exist_ok=True)
                file.replace(target)
    finally:
        socket.setdefaulttimeout(timeout)
        if made:
            with suppress(OSError):  # it is not empty
                root.rmdir()


def _wanted(name: str, folder: Path) -> str:
    kind = KINDS[name]
    if kind is datasets.STL10:
        return f"{', '.join(file for files in _stl10_files(name) for file in files if file)} in {folder}"
    if hasattr(kind, "resources"):
        files = [packed.removesuffix(".gz") for packed, _ in kind.resources]
        return f"{', '.join(files)} (or each as .gz) in {folder / 'raw'}"
    files = [*dict(kind.train_list), *dict(kind.test_list), kind.meta["filename"]]
    return f"{', '.join(files)} in {folder}"


def _uint8(images: Tensor | np.ndarray) -> Tensor:
    """Return (n, C, H, W) of MNIST's (n, H, W) tensor or CIFAR's (n, H, W, C) array."""
    tensor = torch.as_tensor(images)
    return tensor[:, None] if tensor.ndim == 3 else tensor.permute(0, 3, 1, 2).contiguous()
