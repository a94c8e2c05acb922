"""Batches: the order, the augmentation and the normalisation, held against torchvision's transforms."""

import random
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare
from torchvision.transforms import functional as tv

from bench.data.batches import PADDING, TrainingData, batch_shares, batch_sizes, crop, draw
from bench.data.images import ResidentImages, Split
from bench.data.views import ViewTransform
from bench.spec import DataSpec, seed_from

CPU = torch.device("cpu")
MEAN, STD = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)


def a_spec(augment="crop_flip", size=(9, 9), mean=MEAN, std=STD):
    return DataSpec(name="cifar100", classes=10, size=size, mean=mean, std=std, augment=augment)


def training_data(n, spec, teacher_spec=None):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (n, 3, *spec.size), generator=generator, dtype=torch.uint8)
    targets = torch.randint(0, 10, (n,), generator=generator)
    return TrainingData(spec, Split(ResidentImages(images, CPU), targets), CPU, teacher_spec or spec)


@pytest.fixture
def data():
    return training_data(50, a_spec())


def indices(data, seed=0, stage=1, epoch=1, batch_size=16):
    return torch.cat([batch.indices for batch in data.epoch(seed, stage, epoch, batch_size)])


def images(data, seed=0, stage=1, epoch=1, batch_size=16):
    return torch.cat([batch.images for batch in data.epoch(seed, stage, epoch, batch_size)])


def by_torchvision(image, top, left, flip, spec):
    """Return what torchvision's transforms make of one uint8 image (3, H, W)."""
    cropped = tv.crop(tv.pad(tv.to_pil_image(image), [PADDING], fill=0), top, left, *image.shape[1:])
    return tv.normalize(tv.to_tensor(tv.hflip(cropped) if flip else cropped), spec.mean, spec.std)


# augmentation and normalisation


@pytest.mark.parametrize("size", [(32, 32), (28, 40), (33, 32), (5, 64)])
def test_a_batch_is_padded_cropped_flipped_and_normalised_as_by_torchvision_bitwise(size):
    spec = a_spec(size=size)
    places = [(top, left, flip) for top in range(9) for left in range(9) for flip in (False, True)]
    uint8 = torch.randint(0, 256, (len(places), 3, *size), dtype=torch.uint8)
    offsets, flips = torch.tensor([place[:2] for place in places]), torch.tensor([place[2] for place in places])
    ours = ViewTransform(spec, CPU)(crop(uint8, offsets, flips))
    theirs = [by_torchvision(image, *place, spec) for image, place in zip(uint8, places, strict=True)]
    assert torch.equal(ours, torch.stack(theirs))


@pytest.mark.parametrize("augment", ["none", "crop", "crop_flip"])
def test_an_epoch_is_what_torchvision_makes_of_its_draws(augment):
    data = training_data(30, a_spec(augment, size=(12, 10)))
    draws = draw(30, seed_from("batches", 7, data.spec.key, 1, 2))
    for image, position, offsets, flip in zip(
        images(data, 7, 1, 2), draws.order, draws.offsets, draws.flips, strict=True
    ):
        top, left = (PADDING, PADDING) if augment == "none" else offsets.tolist()
        flipped = augment == "crop_flip" and bool(flip)
        original = data.split.images.images[position]
        assert torch.equal(image, by_torchvision(original, top, left, flipped, data.spec))


def test_every_offset_and_flip_is_drawn_equally_often():
    n = 81 * 2 * 300
    spec = a_spec(mean=(0.0,) * 3, std=(1.0,) * 3)
    places = torch.arange(1, 82).view(9, 9)  # the crop's middle pixel says where it was cut
    columns = torch.arange(1, 10).expand(9, 9)  # the pixel left of it says whether it was mirrored
    image = torch.stack([places, columns, columns]).to(torch.uint8)
    data = TrainingData(spec, Split(ResidentImages(image.expand(n, 3, 9, 9), CPU), torch.zeros(n).long()), CPU, spec)
    crops = (255 * torch.cat([batch.images for batch in data.epoch(0, 1, 1, 1024)])).round().long()
    cut = crops[:, 0, 4, 4] - 1
    padded_columns = torch.nn.functional.pad(torch.arange(1, 10), (4, 4))
    flipped = crops[:, 1, 4, 3] == padded_columns[cut % 9 + 5]
    assert torch.equal(~flipped, crops[:, 1, 4, 3] == padded_columns[cut % 9 + 3])
    counts = torch.bincount(2 * cut + flipped, minlength=162)
    assert chisquare(counts.numpy()).pvalue > 0.001


def test_the_draws_of_neighbouring_places_are_independent():
    draws = draw(81 * 81 * 20, seed=1)
    place = draws.offsets[:, 0] * 9 + draws.offsets[:, 1]
    counts = torch.bincount(place[:-1:2] * 81 + place[1::2], minlength=81 * 81)
    assert chisquare(counts.numpy()).pvalue > 0.001


def test_images_are_float32_with_channels_last_in_memory(data):
    batch = next(data.epoch(0, 1, 1, 16))
    assert batch.images.dtype == torch.float32
    assert batch.images.is_contiguous(memory_format=torch.channels_last)


def test_the_teacher_sees_the_same_crops_in_the_normalisation_it_was_trained_with():
    teacher_spec = a_spec(mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    data = training_data(20, a_spec(), teacher_spec)
    for batch in data.epoch(0, 1, 1, 16):
        pixels = [
            view * torch.tensor(spec.std).view(-1, 1, 1) + torch.tensor(spec.mean).view(-1, 1, 1)
            for view, spec in ((batch.images, data.spec), (batch.teacher_images, teacher_spec))
        ]
        assert not torch.equal(batch.images, batch.teacher_images)
        torch.testing.assert_close(*pixels, rtol=0, atol=1e-6)


def test_teacher_and_student_share_one_tensor_where_they_see_the_same(data):
    batch = next(data.epoch(0, 1, 1, 16))
    assert batch.teacher_images is batch.images


# order


def test_an_epoch_shows_every_image_once_with_its_label(data):
    batches = list(data.epoch(0, 1, 1, 16))
    order = torch.cat([batch.indices for batch in batches])
    assert torch.equal(order.sort().values, torch.arange(50))
    assert not torch.equal(order, torch.arange(50))
    assert torch.equal(torch.cat([batch.targets for batch in batches]), data.split.targets[order])


def test_every_place_in_the_order_is_equally_likely():
    places = torch.stack([draw(10, seed).order.argsort()[0] for seed in range(5000)])
    assert chisquare(places.bincount(minlength=10).numpy()).pvalue > 0.001


@pytest.mark.parametrize(
    ("n", "sizes"), [(50, [16, 16, 16, 2]), (48, [16, 16, 16]), (49, [16, 16, 17]), (5, [5]), (17, [17])]
)
def test_the_last_partial_batch_is_kept_but_one_of_a_single_image_joins_its_neighbour(n, sizes):
    data = training_data(n, a_spec())
    assert [len(batch.images) for batch in data.epoch(0, 1, 1, 16)] == sizes


@given(st.integers(0, 5000), st.integers(2, 600))
def test_batches_hold_every_image_and_never_one_alone(n, batch_size):
    sizes = batch_sizes(n, batch_size)
    assert sum(sizes) == n
    assert all(size == batch_size for size in sizes[:-1])
    assert all(2 <= size <= batch_size + 1 for size in sizes) or n == 1


@given(st.integers(8, 5000), st.integers(8, 600), st.integers(1, 4))
def test_every_process_has_two_samples_of_each_batch_or_more(n, batch_size, processes):
    sizes = batch_sizes(n, batch_size, processes)
    assert sum(sizes) == n
    for size in sizes:
        parts = batch_shares(size, processes)
        assert sum(parts) == size
        assert min(parts) >= 2
        assert max(parts) - min(parts) <= 1


def test_the_shares_of_all_processes_are_the_batches_of_one_with_the_same_crops(data):
    parts = [list(replace(data, processes=2, process=process).epoch(0, 1, 1, 17, first=1)) for process in (0, 1)]
    for whole, first, second in zip(data.epoch(0, 1, 1, 17, first=1), *parts, strict=True):
        for name in ("images", "teacher_images", "targets", "indices"):
            assert torch.equal(getattr(whole, name), torch.cat([getattr(first, name), getattr(second, name)]))


@pytest.mark.parametrize("process", [0, 1])
def test_a_second_view_is_the_same_for_any_processes_and_first_batch(data, process):
    whole = list(data.epoch(0, 1, 1, 17, second_view=True))[1:]
    parts = list(replace(data, processes=2, process=process).epoch(0, 1, 1, 17, first=1, second_view=True))
    for batch, part in zip(whole, parts, strict=True):
        share = batch.second[-len(part.second) :] if process else batch.second[: len(part.second)]
        assert torch.equal(part.second, share)
        assert part.teacher_second is part.second


# what the draws depend on


def test_a_second_view_leaves_the_first_as_it_is(data):
    plain, two = list(data.epoch(0, 1, 1, 17)), list(data.epoch(0, 1, 1, 17, second_view=True))
    assert all(torch.equal(one.images, other.images) for one, other in zip(plain, two, strict=True))
    assert all(one.second is None for one in plain)
    assert not any(torch.equal(batch.images, batch.second) for batch in two)


def test_an_epoch_comes_again_bitwise_whatever_ran_before(data):
    first = images(data)
    torch.manual_seed(5)
    random.seed(5)
    list(data.epoch(9, 0, 2, 8))
    assert torch.equal(first, images(data))


@pytest.mark.parametrize("change", [{"seed": 1}, {"stage": 0}, {"epoch": 2}])
def test_seed_stage_and_epoch_each_give_other_draws(change, data):
    assert not torch.equal(indices(data), indices(data, **change))
    assert not torch.equal(
        images(data)[indices(data).argsort()], images(data, **change)[indices(data, **change).argsort()]
    )


@pytest.mark.parametrize(
    "change", [{"name": "cifar10"}, {"train_per_class": 5}, {"fingerprint": "0"}, {"augment": "crop"}, {"classes": 9}]
)
def test_other_data_gives_other_draws(change, data):
    other = replace(data, spec=data.spec.model_copy(update=change))
    assert not torch.equal(indices(data), indices(other))


def test_the_batch_size_moves_the_cuts_and_nothing_else(data):
    assert torch.equal(indices(data), indices(data, batch_size=7))
    assert torch.equal(images(data), images(data, batch_size=7))


def test_place_teacher_and_threads_do_not_change_the_draws(data, tmp_path):
    threads = torch.get_num_threads()
    moved = replace(
        data, spec=data.spec.model_copy(update={"path": tmp_path}), teacher_spec=a_spec(mean=(0.1, 0.2, 0.3))
    )
    try:
        torch.set_num_threads(2)
        expected = images(data)
        torch.set_num_threads(1)
        assert torch.equal(images(moved), expected)
    finally:
        torch.set_num_threads(threads)
