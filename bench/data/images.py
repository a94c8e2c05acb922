"""Images as uint8, by position: in the device's memory where they fit, decoded by workers where they do not."""

import gzip
import logging
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from bench.data import DATASETS, IMAGEFOLDER, list_split
from bench.spec import DataSpec, seed_from
from bench.types import RequestError

logger = logging.getLogger(__name__)

RESIDENT_BYTES = 2 << 30  # images that take more are not kept in memory
SPLITS = ("train", "test")


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

    def __init__(self, files: Sequence[Path], size: tuple[int, int], device: torch.device, workers: int) -> None:
        self.files, self.device, self.workers = _Files(files, size), device, workers

    def batches(self, positions: Sequence[Tensor]) -> Iterator[Tensor]:
        """Yield each batch's images, read ahead by the workers."""
        loader = DataLoader(
            self.files,
            batch_sampler=[p.tolist() for p in positions],
            num_workers=self.workers,
            pin_memory=self.device.type == "cuda",
            multiprocessing_context="forkserver" if self.workers else None,  # a fork would copy the threads' locks
        )
        for images in loader:
            yield images.to(self.device, non_blocking=True)


class _Files(Dataset[Tensor]):
    def __init__(self, files: Sequence[Path], size: tuple[int, int]) -> None:
        self.files, self.size = files, size

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, position: int) -> Tensor:
        return read_image(self.files[position], self.size)


def read_image(file: Path, size: tuple[int, int]) -> Tensor:
    """Return an image file as (3, H, W) uint8, scaled to `size` (bilinear, antialiased) where it differs.

    Raises:
        RequestError: the file is no image.
    """
    try:
        with Image.open(file) as opened:
            image = opened.convert("RGB")
    except OSError as error:
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
        train, test = (_image_folder(spec, split, device, workers) for split in SPLITS)
    else:
        arrays = _digits() if DATASETS[spec.name].folder is None else _torchvision(spec.name, root)
        (images, targets), held_out = arrays
        positions = kept(targets, spec)
        train, test = (_named(spec, *arrays, device) for arrays in ((images[positions], targets[positions]), held_out))
    return train, test


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
    if (raw := folder / "raw").is_dir():
        _unpack(raw)
    try:
        splits = [kind(root, train=train) for train in (True, False)]
    except RuntimeError:
        logger.info("%s is not in %s: downloading it", name, root)
        try:
            splits = [kind(root, train=train, download=True) for train in (True, False)]
        except (OSError, RuntimeError) as error:
            raise RequestError(
                f"data {name!r}: looked for {', '.join(_wanted(name, folder))} and did not find it, and it cannot be "
                f"downloaded ({error}). Put the published files there, or name another folder with --data DIR"
            ) from None
    train, test = ((_uint8(split.data), torch.as_tensor(split.targets)) for split in splits)
    return train, test


def _wanted(name: str, folder: Path) -> list[str]:
    if name in ("mnist", "fashion_mnist"):
        kinds = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
        return [f"{folder / 'raw' / kind}-ubyte(.gz)" for kind in kinds]
    return [str(folder)]


def _unpack(raw: Path) -> None:
    """Unpack the published .gz files that were put into a folder by hand."""
    for packed in raw.glob("*-ubyte.gz"):
        plain = packed.with_suffix("")
        if not plain.exists():
            temporary = plain.with_suffix(".tmp")
            with gzip.open(packed) as source, temporary.open("wb") as target:
                shutil.copyfileobj(source, target)
            temporary.replace(plain)


def _uint8(images: Tensor | np.ndarray) -> Tensor:
    """Return (n, C, H, W) of MNIST's (n, H, W) tensor or CIFAR's (n, H, W, C) array."""
    tensor = torch.as_tensor(images)
    return tensor[:, None] if tensor.ndim == 3 else tensor.permute(0, 3, 1, 2).contiguous()


def _image_folder(spec: DataSpec, split: str, device: torch.device, workers: int) -> Split:
    assert spec.path is not None  # only a specification made from a suite file is loaded
    classes = list(list_split(spec.path, "train"))
    listing = list_split(spec.path, split)
    if unknown := sorted(set(listing) - set(classes)):
        raise RequestError(f"{spec.path}: the test split has classes that the training split lacks: {unknown}")
    files = [(file, classes.index(name)) for name, members in listing.items() for file in members]
    targets = torch.tensor([label for _, label in files])
    positions = kept(targets, spec) if split == "train" else torch.arange(len(files))
    chosen = FileImages([files[i][0] for i in positions], spec.size, device, workers)
    size = len(positions) * spec.channels * spec.size[0] * spec.size[1]
    if size > RESIDENT_BYTES:
        return Split(chosen, targets[positions])
    logger.info("reading %d images of %s into memory (%d MB)", len(positions), spec.path / split, size >> 20)
    read = torch.cat([batch.cpu() for batch in chosen.batches(torch.arange(len(positions)).split(256))])
    return Split(ResidentImages(read, device), targets[positions])
