"""Corrupted test images: the same for every batch, and none of images with depth."""

import pytest
import torch

from bench.data.corruptions import NOISE, CorruptedImages, can_corrupt, corrupted, corrupted_split
from bench.data.images import ResidentImages, Split
from bench.tasks.objectives import CORRUPTIONS

CPU = torch.device("cpu")


@pytest.fixture
def images():
    """Return 5 images in which colours change slowly, as in photographs."""
    rows, columns = torch.meshgrid(torch.arange(16), torch.arange(16), indexing="ij")
    one = torch.stack([rows * 12 + 30, columns * 12 + 30, (rows + columns) * 6 + 30]).byte()
    return torch.stack([one.roll(shift, dims=1) for shift in range(5)])


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_a_corruption_changes_images_and_keeps_their_form(images, kind):
    found = corrupted(images, kind, range(5))
    assert (found.shape, found.dtype) == (images.shape, torch.uint8)
    assert (found != images).any(dim=3).any(dim=2).any(dim=1).all()


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_an_image_is_corrupted_alike_whatever_its_batch(images, kind):
    split = corrupted_split(Split(ResidentImages(images, CPU), None), kind, CPU)
    (together,) = split.images.batches([torch.arange(5)])
    alone = torch.cat([corrupted(images[place : place + 1], kind, [place]) for place in range(5)])
    assert torch.equal(together, alone)


def test_images_that_take_much_memory_are_corrupted_batch_by_batch(images):
    kept = corrupted_split(Split(ResidentImages(images, CPU), None), "noise", CPU)
    made = corrupted_split(Split(ResidentImages(images, CPU), None), "noise", CPU, max_bytes=0)
    assert isinstance(kept.images, ResidentImages)
    assert isinstance(made.images, CorruptedImages)
    places = [torch.tensor([3, 0]), torch.tensor([4])]
    for one, other in zip(kept.images.batches(places), made.images.batches(places), strict=True):
        assert torch.equal(one, other)


def test_the_noise_has_its_deviation_and_differs_between_images():
    grey = torch.full((2, 3, 64, 64), 128, dtype=torch.uint8)
    found = corrupted(grey, "noise", [0, 1]).float()
    assert (found - 128).std().item() == pytest.approx(255 * NOISE, rel=0.02)
    assert not torch.equal(found[0], found[1])


def test_images_with_depth_are_not_corrupted(images):
    with_depth = torch.cat([images, images[:, :1]], dim=1).short()
    assert can_corrupt(ResidentImages(images, CPU))
    assert not can_corrupt(ResidentImages(with_depth, CPU))
