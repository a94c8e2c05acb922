"""Reads the data that scikit-learn and scikit-image ship; nothing is downloaded."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bench.data.arrays import Arrays
from bench.data.named import DATASETS
from bench.spec import IGNORED, DataSpec

PHOTOGRAPHS = (  # scikit-image's, then scikit-learn's
    *("astronaut", "chelsea", "coffee", "rocket", "hubble_deep_field", "retina", "immunohistochemistry"),
    *("stereo_motorcycle", "china.jpg", "flower.jpg"),
)
PHOTO_TRAINING_WIDTH, STEREO_TRAINING_WIDTH = 0.7, 0.6  # share of a photograph, from its left edge
# Bounds between the ranges of disparity, in pixels: the quintiles of all valid values of the map.
DISPARITY_BOUNDS = (18.22, 23.80, 44.68, 50.27)
DISPARITY_UNIT = 100  # stored values per pixel of disparity


def digits(spec: DataSpec, root: Path) -> Arrays:
    """Return scikit-learn's digits: 90 training images of each class, drawn with a fixed seed, the rest for testing."""
    package = find_spec("sklearn")
    assert package is not None
    assert package.origin is not None
    # one image per line, 64 values from 0 to 16 and the label; importing scikit-learn to read them takes over a second
    table = np.loadtxt(Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz", delimiter=",")
    images = torch.from_numpy(np.rint(table[:, :-1] * 255 / 16).astype(np.uint8)).view(-1, 1, 8, 8)
    targets = torch.from_numpy(table[:, -1]).long()
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(len(targets), generator=generator)
    of_labels = [order[targets[order] == label] for label in range(10)]
    train = torch.cat([places[: DATASETS[spec.name].min_per_class] for places in of_labels])
    is_train = torch.zeros(len(targets), dtype=torch.bool)
    is_train[train] = True
    test = (images[~is_train], targets[~is_train]) if spec.opens_test else None
    return (images[is_train], targets[is_train]), test


def photo_patches(spec: DataSpec, root: Path) -> Arrays:
    """Return 32x32 patches of ten photographs, equally many of each, labelled with the photograph.

    Training patches are from a photograph's left part, test patches from the rest: they share no pixel. The places are
    drawn with a fixed seed, without replacement.
    """
    train: list[Tensor] = []
    test: list[Tensor] = []
    named = DATASETS[spec.name]
    generator = torch.Generator().manual_seed(0)
    for name in PHOTOGRAPHS:
        left, right = _parts(_photograph(name), PHOTO_TRAINING_WIDTH)
        train.append(_tiles(left, 32, named.train // len(PHOTOGRAPHS), generator))
        test.append(_tiles(right, 32, named.test // len(PHOTOGRAPHS), generator))

    def split(patches: list[Tensor]) -> tuple[Tensor, Tensor]:
        return torch.cat(patches), torch.arange(len(patches)).repeat_interleave(len(patches[0]))

    return split(train), split(test) if spec.opens_test else None


def stereo_motorcycle(spec: DataSpec, root: Path) -> Arrays:
    """Return 64x64 tiles of the left image of a stereo pair, with the range of each pixel's disparity as its label.

    Training tiles are from the left part of the image, test tiles from the rest. Tiles are (n, 4, 64, 64) int16: red,
    green and blue from 0 to 255, then the disparity in hundredths of a pixel, 0 if unknown. Near pixels have a large
    disparity. Labels are uint8, `IGNORED` where the disparity is unknown.
    """
    from skimage.data import stereo_motorcycle as photograph

    image, _, disparity = photograph()
    known = np.isfinite(disparity)
    disparity = np.where(known, disparity, 0)
    stored = np.rint(disparity * DISPARITY_UNIT).astype(np.int16)
    labels = np.where(known, np.digitize(disparity, DISPARITY_BOUNDS), IGNORED).astype(np.int16)
    colours = np.moveaxis(image, -1, 0).astype(np.int16)
    everything = torch.from_numpy(np.concatenate([colours, stored[None], labels[None]]))
    generator = torch.Generator().manual_seed(0)

    def split(part: Tensor, count: int) -> tuple[Tensor, Tensor]:
        tiles = _tiles(part, 64, count, generator)
        return tiles[:, :4].contiguous(), tiles[:, 4].to(torch.uint8)

    left, right = _parts(everything, STEREO_TRAINING_WIDTH)
    train = split(left, DATASETS[spec.name].train)
    return train, split(right, DATASETS[spec.name].test) if spec.opens_test else None


def _photograph(name: str) -> Tensor:
    """Return a photograph (3, H, W) uint8."""
    import skimage.data
    from sklearn.datasets import load_sample_image

    pixels = load_sample_image(name) if name.endswith(".jpg") else getattr(skimage.data, name)()
    left = pixels[0] if isinstance(pixels, tuple) else pixels  # of a stereo pair
    return torch.from_numpy(left.copy()).permute(2, 0, 1)


def _parts(image: Tensor, training_width: float) -> tuple[Tensor, Tensor]:
    """Return an image (C, H, W) cut into its left part, for training, and the rest, for testing."""
    cut = round(image.shape[2] * training_width)
    return image[:, :, :cut], image[:, :, cut:]


def _tiles(image: Tensor, side: int, count: int, generator: torch.Generator) -> Tensor:
    """Return squares (count, C, side, side) of an image (C, H, W) at random places, without replacement."""
    windows = image.unfold(1, side, 1).unfold(2, side, 1)  # (C, rows, columns, side, side)
    rows, columns = windows.shape[1:3]
    places = torch.randperm(rows * columns, generator=generator)[:count]
    return windows[:, places // columns, places % columns].transpose(0, 1).contiguous()
