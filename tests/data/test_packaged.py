"""Data that comes with scikit-image and scikit-learn: two fixtures that are cut from photographs."""

import hashlib
import socket

import numpy as np
import pytest
import torch
from skimage import data as skimage_data
from sklearn.datasets import load_sample_image

from bench.data import DataChoice, resolve
from bench.data.images import load_data
from bench.data.named import DATASETS
from bench.data.packaged import DISPARITY_BOUNDS, PHOTOGRAPHS, photo_patches, stereo_motorcycle
from bench.spec import IGNORED

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def patches():
    return photo_patches(resolve(DataChoice(name="photo_patches")), None)


@pytest.fixture(scope="module")
def tiles():
    return stereo_motorcycle(resolve(DataChoice(name="stereo_motorcycle")), None)


def places_of(patch, image):
    """Return the columns at which a patch lies in an image, both (H, W, 3)."""
    starts = np.argwhere((image == patch[0, 0]).all(axis=2))
    height, width = patch.shape[:2]
    return {
        int(column)
        for row, column in starts
        if np.array_equal(image[row : row + height, column : column + width], patch)
    }


@pytest.mark.parametrize("name", ["photo_patches", "stereo_motorcycle"])
def test_no_network_is_asked_for_a_fixture(name, tmp_path, monkeypatch):
    def refuse(*_):
        raise AssertionError("something is downloaded")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setenv("SKIMAGE_DATADIR", str(tmp_path))
    train, test = load_data(resolve(DataChoice(name=name)), tmp_path, CPU, workers=0)
    assert (len(train), len(test)) == (DATASETS[name].train, DATASETS[name].test)
    assert not list(tmp_path.iterdir())


def test_photo_patches_hold_as_many_of_each_photograph(patches):
    (train, targets), (test, test_targets) = patches
    assert train.shape == (12000, 3, 32, 32)
    assert test.shape == (5000, 3, 32, 32)
    assert targets.bincount().tolist() == [1200] * 10
    assert test_targets.bincount().tolist() == [500] * 10


@pytest.mark.parametrize(
    ("name", "image"), [("coffee", skimage_data.coffee), ("china.jpg", lambda: load_sample_image("china.jpg"))]
)
def test_training_patches_lie_left_of_every_test_patch(name, image, patches):
    label, photograph = PHOTOGRAPHS.index(name), image()
    cut = round(0.7 * photograph.shape[1])
    for (images, targets), within in zip(patches, ((0, cut - 32), (cut, photograph.shape[1] - 32)), strict=True):
        for patch in images[targets == label][:30].permute(0, 2, 3, 1).numpy():
            found = places_of(patch, photograph)
            assert any(within[0] <= column <= within[1] for column in found)


def test_no_patch_is_drawn_twice(patches):
    (train, targets), _ = patches
    textured = train[targets == PHOTOGRAPHS.index("coffee")]
    assert len({patch.numpy().tobytes() for patch in textured}) == len(textured)


def test_tiles_hold_the_photograph_its_disparity_and_the_range_of_each_pixel(tiles):
    image, _, disparity = skimage_data.stereo_motorcycle()
    (train, targets), (test, test_targets) = tiles
    assert (train.shape, train.dtype) == ((600, 4, 64, 64), torch.int16)
    assert (test.shape, targets.dtype) == ((200, 4, 64, 64), torch.uint8)
    known = np.isfinite(disparity)
    hundredths = np.rint(np.where(known, disparity, 0) * 100)
    wanted = np.full(disparity.shape, IGNORED)
    wanted[known] = sum((disparity[known] >= bound).astype(int) for bound in DISPARITY_BOUNDS)
    for stored, labels, within in ((train, targets, (0, 444 - 64)), (test, test_targets, (444, 741 - 64))):
        for tile, label in zip(stored[:5], labels[:5], strict=True):
            colours = tile[:3].permute(1, 2, 0).numpy()
            column = next(c for c in places_of(colours, image) if within[0] <= c <= within[1])
            row = next(r for r in range(437) if np.array_equal(image[r : r + 64, column : column + 64], colours))
            place = np.s_[row : row + 64, column : column + 64]
            assert np.array_equal(tile[3].numpy(), hundredths[place])
            assert np.array_equal(label.numpy(), wanted[place])


def test_disparity_bounds_are_the_fifths_of_the_whole_map():
    _, _, disparity = skimage_data.stereo_motorcycle()
    fifths = np.quantile(disparity[np.isfinite(disparity)], [0.2, 0.4, 0.6, 0.8])
    assert pytest.approx(fifths, abs=0.005) == DISPARITY_BOUNDS


def test_both_splits_of_the_tiles_have_every_class(tiles):
    for _, targets in tiles:
        assert targets.unique().tolist() == [0, 1, 2, 3, 4, IGNORED]


def digest(images):
    return hashlib.sha256(images.numpy().tobytes()).hexdigest()[:16]


def test_fixtures_are_cut_always_the_same_way(patches, tiles):
    """A change here is a change of every number on them; of the patches, those whose files are without loss."""
    (images, targets), _ = patches
    lossless = [PHOTOGRAPHS.index(name) for name in ("astronaut", "coffee", "stereo_motorcycle")]
    assert digest(images[torch.isin(targets, torch.tensor(lossless))]) == "63c30a8c6e917c79"
    assert digest(tiles[0][0]) == "c9e4ee9da45555ec"


@pytest.mark.parametrize("name", ["photo_patches", "stereo_motorcycle"])
def test_the_named_means_and_deviations_are_those_of_the_training_images(name, patches, tiles):
    images = {"photo_patches": patches, "stereo_motorcycle": tiles}[name][0][0].double()
    colours = images[:, :3] / 255
    assert colours.mean((0, 2, 3)).tolist() == pytest.approx(DATASETS[name].mean, abs=1e-3)
    assert colours.std((0, 2, 3)).tolist() == pytest.approx(DATASETS[name].std, abs=1e-3)
    if DATASETS[name].depth:
        assert (images[:, 3].mean().item(), images[:, 3].std().item()) == pytest.approx(DATASETS[name].depth, abs=0.1)
