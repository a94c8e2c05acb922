"""Which data sets there are, and how a suite's choice becomes a `DataSpec`. Imports no torch.

Normalisation: CIFAR-100's numbers are those of the reference implementation's loaders, CIFAR-10's, MNIST's and
Fashion-MNIST's are their training sets' means and deviations as commonly published, digits' were computed on its
training split at 32x32.
"""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge, Gt, Le
from pydantic import PositiveInt

from bench.spec import Augment, DataSpec, Strict, View
from bench.types import RequestError, suggest

IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".pgm", ".webp", ".tif", ".tiff", ".gif")
SMALLEST = 32  # pixels: height and width that every network takes
TEST_FOLDERS = ("test", "val")  # the first that exists holds an image folder's test split


@dataclass(frozen=True)
class NamedData:
    """A data set known by its name.

    Attributes:
        summary: what it is, for `list datasets`.
        classes: number of classes.
        size: (height, width) of its images in pixels.
        mean: per channel, of training images in [0, 1]; a grey image's one value stands for three channels.
        std: likewise.
        augment: what the field trains with; no flips where a mirrored image is another sign.
        train: number of training images.
        test: number of test images.
        fewest: training images of the smallest class.
        folder: torchvision's folder below the data root, None for data that comes with a package.
    """

    summary: str
    classes: int
    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augment: Augment
    train: int
    test: int
    fewest: int
    folder: str | None


DATASETS: dict[str, NamedData] = {
    "digits": NamedData(
        summary="8x8 scans of handwritten digits that scikit-learn ships: 90 of each class to train, 897 to test",
        classes=10,
        size=(8, 8),
        mean=(0.3048,) * 3,
        std=(0.3235,) * 3,
        augment="crop",
        train=900,
        test=897,
        fewest=90,
        folder=None,
    ),
    "mnist": NamedData(
        summary="28x28 handwritten digits",
        classes=10,
        size=(28, 28),
        mean=(0.1307,) * 3,
        std=(0.3081,) * 3,
        augment="crop",
        train=60000,
        test=10000,
        fewest=5421,
        folder="MNIST",
    ),
    "fashion_mnist": NamedData(
        summary="28x28 grey photographs of clothes",
        classes=10,
        size=(28, 28),
        mean=(0.2860,) * 3,
        std=(0.3530,) * 3,
        augment="crop_flip",
        train=60000,
        test=10000,
        fewest=6000,
        folder="FashionMNIST",
    ),
    "cifar10": NamedData(
        summary="32x32 colour photographs of ten kinds of things",
        classes=10,
        size=(32, 32),
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
        augment="crop_flip",
        train=50000,
        test=10000,
        fewest=5000,
        folder="cifar-10-batches-py",
    ),
    "cifar100": NamedData(
        summary="32x32 colour photographs of a hundred kinds of things",
        classes=100,
        size=(32, 32),
        mean=(0.5071, 0.4867, 0.4408),
        std=(0.2675, 0.2565, 0.2761),
        augment="crop_flip",
        train=50000,
        test=10000,
        fewest=500,
        folder="cifar-100-python",
    ),
}
IMAGEFOLDER = "imagefolder"
IMAGEFOLDER_SUMMARY = "a folder DIR/train/CLASS/*.png (or jpg, ...) and DIR/test/ or DIR/val/ alike; any image size"


class DataChoice(Strict):
    """What a suite file says of its data; a bare name stands for `{name: NAME}`.

    Attributes:
        name: a name of `run_suite.py list datasets`.
        resize: height and width in pixels that images are scaled to (bilinear, antialiased).
        train_per_class: training images kept of each class, always the same ones.
        train_fraction: share of each class's training images kept, always the same ones.
        augment: instead of the data set's own.
        view: what the network sees of an image, if not the picture as it is.
        path: an image folder's place.
        mean: an image folder's channel means, of images in [0, 1].
        std: an image folder's channel deviations.
    """

    name: str
    resize: Annotated[int, Ge(SMALLEST)] | None = None
    train_per_class: PositiveInt | None = None
    train_fraction: Annotated[float, Gt(0), Le(1)] | None = None
    augment: Augment | None = None
    view: View | None = None
    path: str | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[Annotated[float, Gt(0)], Annotated[float, Gt(0)], Annotated[float, Gt(0)]] | None = None

    def problems(self) -> list[str]:
        """Return what is wrong with the choice, judged without looking at any file."""
        if self.name == IMAGEFOLDER:
            missing = [key for key in ("path", "mean", "std", "augment") if getattr(self, key) is None]
            found = [f"an imagefolder needs {key!r}: {{{key}: ...}}" for key in missing]
        elif self.name in DATASETS:
            foreign = [key for key in ("path", "mean", "std") if getattr(self, key) is not None]
            found = [f"{key!r} is for imagefolder; {self.name} has its own" for key in foreign]
            if (self.train_per_class or 0) > DATASETS[self.name].fewest:
                fewest = DATASETS[self.name].fewest
                found.append(f"train_per_class is {self.train_per_class}, but {self.name} has {fewest} images a class")
        else:
            found = [f"unknown data set {self.name!r}. {suggest(self.name, [*DATASETS, IMAGEFOLDER])}"]
        if self.name in DATASETS and self.resize is None and min(DATASETS[self.name].size) < SMALLEST:
            found.append(f"{self.name}'s images are smaller than the networks take: add resize: {SMALLEST}")
        if self.train_per_class is not None and self.train_fraction is not None:
            found.append("give train_per_class or train_fraction, not both")
        return found


def resolve(choice: DataChoice) -> DataSpec:
    """Return the specification of a choice without problems; an image folder's listing is read.

    Raises:
        RequestError: an image folder lacks what it needs, or has fewer images a class than asked for.
    """
    if choice.name == IMAGEFOLDER:
        return _resolve_folder(choice)
    named = DATASETS[choice.name]
    everything = named.fewest if named.fewest * named.classes == named.train else None
    return DataSpec(
        name=choice.name,
        classes=named.classes,
        size=(choice.resize, choice.resize) if choice.resize else named.size,
        mean=named.mean,
        std=named.std,
        augment=choice.augment or named.augment,
        **_subset(choice, everything),
    )


def _subset(choice: DataChoice, everything: int | None) -> dict[str, Any]:
    """Return what is kept of the training set, nothing said where that is all of it: one choice has one identity.

    Args:
        choice: what the suite says.
        everything: the images of each class, where all classes have as many.
    """
    per_class = None if choice.train_per_class == everything else choice.train_per_class
    fraction = None if choice.train_fraction == 1 else choice.train_fraction
    return {"train_per_class": per_class, "train_fraction": fraction}


def _resolve_folder(choice: DataChoice) -> DataSpec:
    assert choice.path is not None  # see `problems`, for all four
    assert choice.mean is not None
    assert choice.std is not None
    assert choice.augment is not None
    folder = Path(choice.path).expanduser().resolve()
    listing = list_folder(folder)
    train = listing["train"]
    sizes = {len(files) for files in train.values()}
    fewest = min(sizes)
    if (choice.train_per_class or 0) > fewest:
        raise RequestError(f"train_per_class is {choice.train_per_class}, but {folder} has {fewest} in some class")
    size = (choice.resize, choice.resize) if choice.resize else _size_of(next(iter(train.values()))[0])
    if min(size) < SMALLEST:
        raise RequestError(f"{folder}: images are smaller than the networks take: add resize: {SMALLEST}")
    return DataSpec(
        name=choice.name,
        classes=len(train),
        size=size,
        mean=choice.mean,
        std=choice.std,
        augment=choice.augment,
        **_subset(choice, fewest if len(sizes) == 1 else None),
        fingerprint=fingerprint(listing),
        path=folder,
    )


def list_folder(folder: Path) -> dict[str, dict[str, list[str]]]:
    """Return an image folder's files by split ("train", "test") and class, classes and files in alphabetical order.

    Args:
        folder: holds `train/` and `test/` or `val/`.

    Raises:
        RequestError: a folder is missing, empty or not readable, or the test split has a class of its own.
    """
    listing = {"train": _list_split(folder, ("train",)), "test": _list_split(folder, TEST_FOLDERS)}
    if unknown := sorted(listing["test"].keys() - listing["train"].keys()):
        raise RequestError(f"{folder}: the test split has classes that the training split lacks: {', '.join(unknown)}")
    return listing


def _list_split(folder: Path, candidates: Sequence[str]) -> dict[str, list[str]]:
    root = next((folder / name for name in candidates if (folder / name).is_dir()), None)
    if root is None:
        wanted = " or ".join(f"{folder / name}" for name in candidates)
        raise RequestError(f"looked for the folder {wanted}, one folder of images a class, and found none")
    listing = {}
    try:
        for entry in sorted(os.scandir(root), key=lambda e: e.name):
            if entry.is_dir():
                names = sorted(e.name for e in os.scandir(entry) if e.name.lower().endswith(IMAGE_ENDINGS))
                # text, since a Path each costs minutes in millions
                listing[entry.name] = [f"{entry.path}/{name}" for name in names]
    except OSError as error:
        raise RequestError(f"{error.filename}: cannot be read: {error.strerror}") from error
    if len(listing) < 2 or not all(listing.values()):
        empty = [name for name, files in listing.items() if not files]
        what = f"no image in {', '.join(empty)}" if empty else f"{len(listing)} class folders"
        raise RequestError(
            f"{root}: found {what}; needs at least two folders, each with images ({', '.join(IMAGE_ENDINGS)})"
        )
    return listing


def fingerprint(listing: dict[str, dict[str, list[str]]]) -> str:
    """Return a hash of every image's split, class, name and size in bytes, wherever the folder lies."""
    digest = hashlib.sha256()
    try:
        for split, classes in listing.items():
            for name, files in classes.items():
                for file in files:
                    line = f"{split}/{name}/{os.path.basename(file)}\t{os.stat(file).st_size}\n"
                    digest.update(os.fsencode(line))
    except OSError as error:
        raise RequestError(f"{error.filename}: cannot be read: {error.strerror}") from error
    return digest.hexdigest()[:16]


def _size_of(file: str) -> tuple[int, int]:
    """Return an image's (height, width)."""
    from PIL import Image

    try:
        with Image.open(file) as image:
            return image.height, image.width
    except Exception as error:  # a decoder raises whatever it likes
        raise RequestError(f"{file}: cannot be read as an image: {error}") from error
