"""Lists the files of image folders by name only, so that a million take seconds. Imports no torch."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from bench.data.named import DATASETS
from bench.reading import read_bytes
from bench.spec import DataSpec
from bench.types import RequestError

IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".pgm", ".webp", ".tif", ".tiff", ".gif")
TEST_FOLDERS = ("test", "val")  # the first that exists holds an image folder's test split
# begin the names of folders that are no classes
NOT_CLASSES = (".", "__MACOSX", "@eaDir", "@__thumb", "__pycache__", "lost+found", "$RECYCLE")
Listing = dict[str, dict[str, list[str]]]  # files by split ("train", "test") and class


def list_divided(folder: Path, fraction: float | None, notes: list[str] | None = None) -> Listing:
    """Return the files of an image folder, whose test split may be a share of each class; raises as `list_folder`.

    Args:
        folder: it has `train` and a test split or, with a share, `train` alone or the class folders themselves.
        fraction: that share, more than 0 and less than 1; None for a folder with a test split.
        notes: a line for everything that is left out is added here.

    The choice depends only on the names of class and file. A new file moves at most the last file of the share.
    """
    if fraction is None:
        if not os.path.isdir(folder / "train") and os.path.isdir(folder) and _folders_in(folder):
            raise RequestError(
                f"looked for the folder {folder / 'train'}, and found none. If the classes are the folders "
                f"{', '.join(_folders_in(folder)[:3])}, add test_fraction: 0.2, the share of each to test on"
            )
        return list_folder(folder, notes=notes)
    notes = [] if notes is None else notes
    has_train = os.path.isdir(folder / "train")
    if has_train and (there := [name for name in TEST_FOLDERS if os.path.isdir(folder / name)]):
        raise RequestError(f"test_fraction is {fraction}, but there is the folder {folder / there[0]}: leave one out")
    whole = _list_split(folder, ("train",) if has_train else (".",), notes)
    if single := [name for name, files in whole.items() if len(files) < 2]:
        raise RequestError(
            f"test_fraction is {fraction}, but there is one image in {folder}'s class {single[0]}: 2 are needed"
        )
    listing: Listing = {"train": {}, "test": {}}
    for name, files in whole.items():
        drawn = sorted(files, key=lambda file: hashlib.sha256(os.fsencode(f"{name}/{os.path.basename(file)}")).digest())
        tested = {*drawn[: min(max(1, round(len(files) * fraction)), len(files) - 1)]}
        listing["test"][name] = [file for file in files if file in tested]
        listing["train"][name] = [file for file in files if file not in tested]
    return listing


def list_folder(folder: Path, test: Sequence[str] = TEST_FOLDERS, notes: list[str] | None = None) -> Listing:
    """Return an image folder's files by split ("train", "test") and class, classes and files in alphabetical order.

    The test split is read from the first folder in `test` that has a folder per class. A line for everything that is
    left out is added to `notes`.

    Raises:
        RequestError: a folder is missing, empty or not readable, images are in no class or in folders within one, or a
            class is only in the test split.
    """
    notes = [] if notes is None else notes
    listing = {"train": _list_split(folder, ("train",), notes), "test": _list_split(folder, test, notes)}
    if unknown := sorted(listing["test"].keys() - listing["train"].keys()):
        raise RequestError(f"{folder}: classes of the test split are not in the training split: {', '.join(unknown)}")
    if untested := sorted(listing["train"].keys() - listing["test"].keys()):
        notes.append(f"classes without a test image: {', '.join(untested)}")
    return listing


def _list_split(folder: Path, candidates: Sequence[str], notes: list[str]) -> dict[str, list[str]]:
    there = [folder / name for name in candidates if os.path.isdir(folder / name)]
    if not there:
        wanted = " or ".join(f"{folder / name}" for name in candidates)
        fix = "" if candidates != TEST_FOLDERS else ". To test on a share of each class instead, add test_fraction: 0.2"
        raise RequestError(f"looked for the folder {wanted}, with one folder of images per class, and found none{fix}")
    try:
        root = next((one for one in there if _folders_in(one)), there[0])
        classes = _folders_in(root)
        listing = {name: _images_in(f"{root}/{name}", notes) for name in classes}
        loose = _images_in(str(root), [], inner=False)
        hidden = sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and entry.name not in classes)
    except OSError as error:
        raise RequestError(f"{error.filename}: cannot be read: {error.strerror}") from error
    if len(listing) < 2 or not all(listing.values()):
        empty = [name for name, files in listing.items() if not files]
        fault = f"no image in {', '.join(empty)}" if empty else f"{len(listing)} class folders"
        looked = f" (also looked at {', '.join(map(str, there[1:]))})" if not listing and there[1:] else ""
        raise RequestError(
            f"{root}: found {fault}; needs at least two folders, each with images ({', '.join(IMAGE_ENDINGS)}){looked}"
        )
    if loose:
        raise RequestError(f"{loose[0]}: is in none of the class folders; move it into one, or out of {root}")
    if hidden:
        notes.append(f"left out of {root}, being no classes: {', '.join(hidden)}")
    if skipped := [one.name for one in there if one != root]:
        why = "without a folder per class" if there[0] != root else "not needed"
        notes.append(f"the test split is {root}; left out: {', '.join(skipped)}, {why}")
    return listing


def _folders_in(folder: str | Path) -> list[str]:
    """Return the names of the folders in a folder that can be classes, in alphabetical order."""
    return sorted(e.name for e in os.scandir(folder) if e.is_dir() and not e.name.startswith(NOT_CLASSES))


def _images_in(folder: str, notes: list[str], inner: bool = True) -> list[str]:
    """Return the paths of a folder's images in alphabetical order, as text: millions of `Path`s would take minutes.

    Raises:
        RequestError: with `inner`, a folder inside has images.
    """
    entries = [entry for entry in os.scandir(folder) if not entry.name.startswith(NOT_CLASSES)]
    names = sorted(entry.name for entry in entries if entry.name.lower().endswith(IMAGE_ENDINGS))
    if inner:
        inside = [entry for entry in entries if entry.name not in names and entry.is_dir()]
        for place, _, files in (walked for entry in inside for walked in os.walk(entry.path)):
            if images := [name for name in files if name.lower().endswith(IMAGE_ENDINGS)]:
                raise RequestError(
                    f"{place}/{images[0]}: images in folders within a class are not read: move them up to {folder}"
                )
        if others := len(entries) - len(names) - len(inside):
            notes.append(f"left out of {folder}: {others} file(s) whose names do not end as an image's")
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
        images = _images_in(str(folder), [])
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
        return read_bytes(file).decode().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"looked for the file {file}, and it cannot be read: {error}") from error
