"""Lists the files of image folders by name only, so that a million take seconds. Imports no torch."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from bench.data.named import DATASETS
from bench.spec import DataSpec
from bench.types import RequestError

IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".pgm", ".webp", ".tif", ".tiff", ".gif")
TEST_FOLDERS = ("test", "val")  # the first that exists holds an image folder's test split
Listing = dict[str, dict[str, list[str]]]  # files by split ("train", "test") and class


def list_folder(folder: Path, test: Sequence[str] = TEST_FOLDERS) -> Listing:
    """Return an image folder's files by split ("train", "test") and class, classes and files in alphabetical order.

    The test split is read from the first folder in `test` that exists.

    Raises:
        RequestError: a folder is missing, empty or not readable, or a class is only in the test split.
    """
    listing = {"train": _list_split(folder, ("train",)), "test": _list_split(folder, test)}
    if unknown := sorted(listing["test"].keys() - listing["train"].keys()):
        raise RequestError(f"{folder}: classes of the test split are not in the training split: {', '.join(unknown)}")
    return listing


def _list_split(folder: Path, candidates: Sequence[str]) -> dict[str, list[str]]:
    root = next((folder / name for name in candidates if (folder / name).is_dir()), None)
    if root is None:
        wanted = " or ".join(f"{folder / name}" for name in candidates)
        raise RequestError(f"looked for the folder {wanted}, with one folder of images per class, and found none")
    try:
        classes = sorted(entry.name for entry in os.scandir(root) if entry.is_dir())
        listing = {name: _images_in(f"{root}/{name}") for name in classes}
    except OSError as error:
        raise RequestError(f"{error.filename}: cannot be read: {error.strerror}") from error
    if len(listing) < 2 or not all(listing.values()):
        empty = [name for name, files in listing.items() if not files]
        fault = f"no image in {', '.join(empty)}" if empty else f"{len(listing)} class folders"
        raise RequestError(
            f"{root}: found {fault}; needs at least two folders, each with images ({', '.join(IMAGE_ENDINGS)})"
        )
    return listing


def _images_in(folder: str) -> list[str]:
    """Return a folder's images in alphabetical order, as text, since a Path each would take minutes for millions."""
    names = sorted(entry.name for entry in os.scandir(folder) if entry.name.lower().endswith(IMAGE_ENDINGS))
    return [f"{folder}/{name}" for name in names]


def list_imagenet(spec: DataSpec, root: Path) -> Listing:
    """Return ImageNet's files, its classes in the order of their ids; raises as `list_folder`."""
    return list_folder(root / str(DATASETS[spec.name].folder), test=("val",))


def list_tiny_imagenet(spec: DataSpec, root: Path) -> Listing:
    """Return TinyImageNet's files, its classes in the order of their ids."""
    folder = root / str(DATASETS[spec.name].folder)
    wnids = sorted(_lines(folder / "wnids.txt"))
    of_image = dict(line.split("\t")[:2] for line in _lines(folder / "val" / "val_annotations.txt"))
    train = {wnid: _found_images(folder / "train" / wnid / "images") for wnid in wnids}
    test: dict[str, list[str]] = {wnid: [] for wnid in wnids}
    for path in _found_images(folder / "val" / "images"):
        wnid = of_image.get(os.path.basename(path), "")
        if wnid not in test:
            raise RequestError(f"{path}: found no class of wnids.txt for it in val_annotations.txt")
        test[wnid].append(path)
    return {"train": train, "test": test}


def _found_images(folder: Path) -> list[str]:
    try:
        images = _images_in(str(folder))
    except OSError as error:
        raise RequestError(f"looked for images in {folder}, which cannot be read: {error.strerror}") from error
    if not images:
        raise RequestError(f"looked for images in {folder}, and found none")
    return images


def absent(name: str, reason: str) -> RequestError:
    """Return the error for a data set that is missing or not as published, and cannot be downloaded."""
    return RequestError(
        f"data {name!r}: {reason}. It cannot be downloaded from here: put the published files there, "
        "or name another folder with --data DIR"
    )


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"looked for the file {file}, and it cannot be read: {error}") from error


def fingerprint(listing: Listing) -> str:
    """Return a hash of every image's split, class, name and size in bytes, independent of the folder's path."""
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


def size_of(file: str) -> tuple[int, int]:
    """Return an image's (height, width)."""
    from PIL import Image

    try:
        with Image.open(file) as image:
            return image.height, image.width
    except Exception as error:  # decoders raise many kinds
        raise RequestError(f"{file}: cannot be read as an image: {error}") from error
