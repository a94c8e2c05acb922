"""Reads image files: the one function that decodes an image, and the kinds, sizes and hashes of a folder's files.

What was read of many files is remembered in the user's cache folder, by path, size, time of change and inode.
"""

import hashlib
import math
import os
import stat
import time
import warnings
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.data.folders import Listing
from bench.reading import check_regular
from bench.remembered import cache_file, keep, recall
from bench.types import RequestError

if TYPE_CHECKING:
    from PIL import Image

READERS = 8  # threads
REMEMBERED_BYTES = 64 << 20  # fewer bytes are read again each time
FRESH_NS = 2_000_000_000  # a file that changed so recently may change again within one tick of its clock
FULL_16 = 65_535  # the brightest value of 16 bits
MARKS = {  # of images that are more than their pixels, and what becomes of them; they follow a comma
    "frames": "have several frames, of which the first is read",
    "turned": "are to be turned when they are shown (EXIF orientation), and are read as they are stored",
}
ORIENTATION = 274  # the EXIF tag
WITH_EXIF = ("JPEG", "MPO", "TIFF", "WEBP")  # at the beginning of the file; a PNG would be decoded for it
Look = tuple[int, int, int, str, int, int, str]  # bytes, time of change, inode; sha256, width, height, mode


@dataclass(frozen=True)
class Contents:
    """What the files of a listing hold."""

    fingerprint: str  # 16 hex digits of a hash of every image's split, class, name and content
    sizes: dict[tuple[int, int], str]  # the first file of each (height, width)
    modes: dict[str, int]  # number of files by Pillow's name of how pixels are stored, and the `MARKS` that follow it


def look_at(listing: Listing, folder: Path, remembered_bytes: int = REMEMBERED_BYTES) -> Contents:
    """Return what the files of an image folder hold; only files that have changed since the last time are read.

    Where no more than `remembered_bytes` were read, nothing is remembered.

    Raises:
        RequestError: a file cannot be read, or is not an image.
    """
    files = [file for classes in listing.values() for members in classes.values() for file in members]
    known: dict[str, list[Any]] = dict(recall(_cache(folder)) or {})  # none if the cache file is damaged
    stats = {file: _stat(file) for file in files}
    new = [file for file in files if (known.get(file) or [None])[:3] != list(stats[file])]
    n_bytes = sum(stats[file][0] for file in new)
    with ThreadPoolExecutor(READERS) as readers:
        try:
            looks_at_new = _shown(
                readers.map(_look, new), len(new), n_bytes, folder, "to know whether they have changed"
            )
            for file, look in zip(new, looks_at_new, strict=True):
                known[file] = [*stats[file], *look]
        finally:
            readers.shutdown(cancel_futures=True)  # where one is not an image, or the user interrupts
    looks = {file: known[file] for file in files}
    if n_bytes > remembered_bytes:
        _remember(folder, looks)
    digest = hashlib.sha256(b"c1")  # version 1 of hashing contents; earlier, names and sizes were hashed
    sizes: dict[tuple[int, int], str] = {}
    modes: dict[str, int] = {}
    for split, classes in listing.items():
        for name, members in classes.items():
            for file in members:
                _, _, _, sha256, width, height, mode = looks[file]
                digest.update(os.fsencode(f"{split}/{name}/{os.path.basename(file)}\t{sha256}\n"))
                sizes.setdefault((height, width), file)
                modes[mode] = modes.get(mode, 0) + 1
    return Contents(digest.hexdigest()[:16], sizes, modes)


def measure(
    listing: Listing, contents: Contents, folder: Path, remembered_bytes: int = REMEMBERED_BYTES
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and deviation of the training images, by channel, of values from 0 to 1, rounded to 4 digits.

    Every image has the same weight, whatever its size. The result is remembered by the images' contents, where
    more than `remembered_bytes` were read.

    Raises:
        RequestError: a file is not an image, or a channel has one value in all images.
    """
    kept = _cache(folder).with_name(f"mean-{contents.fingerprint}.json")
    with suppress(TypeError, ValueError):
        mean, std = recall(kept)
        return tuple(mean), tuple(std)
    files = [file for members in listing["train"].values() for file in members]
    n_bytes = sum(_stat(file)[0] for file in files)
    with ThreadPoolExecutor(READERS) as readers:
        moments = list(_shown(readers.map(_moments, files), len(files), n_bytes, folder, "to measure their mean"))
    # fsum rounds once, so the result does not depend on the order of the images
    *first, red, green, blue = (math.fsum(column) / len(files) for column in zip(*moments, strict=True))
    mean = tuple(round(value / 255, 4) for value in first)
    variances = [square - value**2 for value, square in zip(first, (red, green, blue), strict=True)]
    std = tuple(round(max(0.0, variance) ** 0.5 / 255, 4) for variance in variances)
    if not all(std):
        raise RequestError(
            f"{folder}: a channel has the same value in all training images, so their deviation is 0: state 'mean' and "
            "'std'"
        )
    if n_bytes > remembered_bytes:
        keep(kept, [mean, std])
    return mean, std


def _moments(file: str) -> list[float]:
    """Return the means of an image's red, green and blue values from 0 to 255, then those of their squares."""
    from PIL import ImageStat

    stats = ImageStat.Stat(open_image(file))
    return [value / stats.count[0] for value in (*stats.sum, *stats.sum2)]


def _stat(file: str) -> tuple[int, int, int]:
    try:
        status = os.stat(file)
    except OSError as error:
        raise RequestError(f"{file}: cannot be read: {error.strerror}") from error
    if not stat.S_ISREG(status.st_mode):
        check_regular(Path(file))
    return status.st_size, status.st_mtime_ns, status.st_ino


def _look(file: str) -> tuple[str, int, int, str]:
    """Return a file's sha256 and the width, height and mode of its image."""
    from PIL import Image

    try:
        with open(file, "rb") as opened:
            sha256 = hashlib.file_digest(opened, "sha256").hexdigest()
            with Image.open(opened) as image:
                _check_range(file, image)
                return sha256, image.width, image.height, ",".join([image.mode, *_marks(image)])
    except RequestError:
        raise
    except Exception as error:  # decoders raise many kinds
        raise _no_image(file, error) from error


def _marks(image: "Image.Image") -> Iterator[str]:
    """Yield the `MARKS` of an image. A photo of format MPO has its preview as a second frame."""
    with suppress(Exception):  # of what follows the first image and is not read
        if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
            yield "frames"
    with suppress(Exception):
        if image.format in WITH_EXIF and image.getexif().get(ORIENTATION, 1) != 1:
            yield "turned"


def _shown(looks: Iterable[Any], count: int, n_bytes: int, folder: Path, why: str) -> Iterable[Any]:
    """Return looks at files, as an iterable that shows a progress bar on a terminal if they take long."""
    if n_bytes <= REMEMBERED_BYTES:
        return looks
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    console.print(f"reading {count} images of {folder} ({n_bytes >> 20} MB) {why}", markup=False)
    return track(looks, "reading", count, console=console, transient=True) if console.is_terminal else looks


def _cache(folder: Path) -> Path:
    name = hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
    return cache_file(f"images-{name}.json")


def _remember(folder: Path, looks: dict[str, list[Any]]) -> None:
    """Remember looks, if the cache can be written; those at files that have just changed are left out."""
    settled = time.time_ns() - FRESH_NS
    keep(_cache(folder), {file: look for file, look in looks.items() if look[1] < settled})


def open_image(file: str) -> "Image.Image":
    """Return an image file in red, green and blue of 8 bits; grey ones of 16 and 12 bits are scaled to 8.

    Raises:
        RequestError: the file cannot be read as an image, or its values have no known range.
    """
    from PIL import Image

    try:
        check_regular(Path(file))
        with warnings.catch_warnings(), Image.open(file) as opened:
            warnings.simplefilter("ignore")  # about images that Pillow can read all the same
            return (_in_8_bits(file, opened) if opened.mode[:1] in ("I", "F") else opened).convert("RGB")
    except RequestError:
        raise
    except Exception as error:  # decoders raise many kinds
        raise _no_image(file, error) from error


def _in_8_bits(file: str, image: "Image.Image") -> "Image.Image":
    """Return an image with more than 8 bits per pixel as a grey one of 8 bits."""
    import numpy as np  # here, because commands that only read the store do without both
    from PIL import Image

    _check_range(file, image)
    tags = getattr(image, "tag_v2", {})
    full = 4_095 if tags.get(258) == (12,) else FULL_16  # bits per sample of a TIFF
    values = np.asarray(image).astype(np.float32) * (255 / full)
    if tags.get(262) == 0:  # a TIFF whose zero is white, which Pillow does not turn here
        values = 255 - values
    return Image.fromarray(values.round().clip(0, 255).astype(np.uint8))


def _check_range(file: str, image: "Image.Image") -> None:
    # Pillow gives PNGs and PGMs of 16 bits as numbers up to 65,535, in either mode
    if image.mode == "F" or (image.mode == "I" and image.format not in ("PNG", "PPM")):
        kind = "fractions" if image.mode == "F" else "32-bit or signed numbers"
        raise RequestError(
            f"{file}: its pixels are {kind} (Pillow's mode {image.mode}), whose range is not known: "
            "convert the images to 8 or 16 bits"
        )


def _no_image(file: str, error: Exception) -> RequestError:
    return RequestError(f"{file}: cannot be read as an image: {' '.join(str(error).split())}")
