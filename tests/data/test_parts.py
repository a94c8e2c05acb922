"""Parts that are cut from images as they are read: torchvision's RandomResizedCrop, the same for any workers."""

import pytest
import torch
from PIL import Image
from torchvision import transforms
from torchvision.transforms import functional as tv

from bench.data import DataChoice, resolve
from bench.data.batches import TrainingData, draw
from bench.data.image_files import FileImages, read_part
from bench.data.images import ResidentImages, load_data
from bench.data.views import ViewTransform
from bench.spec import seed_from
from tests.data.published import smooth, write_imagenet

CPU = torch.device("cpu")


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    Image.fromarray(smooth(0, 70, 110)).save(path)
    return path


@pytest.fixture
def imagenet(tmp_path):
    """Return the training data of a stand-in, read by so many workers."""
    write_imagenet(tmp_path)
    spec = resolve(DataChoice(name="imagenet", resize=48))
    return lambda workers=0: TrainingData(spec, load_data(spec, tmp_path, CPU, workers)[0], CPU, spec)


def by_torchvision(file, seed, size):
    """Return the part that torchvision's own transform cuts out."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return tv.pil_to_tensor(transforms.RandomResizedCrop(size)(Image.open(file).convert("RGB")))


@pytest.mark.parametrize("seed", range(20))
def test_a_part_is_the_one_that_torchvision_cuts_out(seed, photo):
    assert torch.equal(read_part(str(photo), seed, (32, 40)), by_torchvision(photo, seed, (32, 40)))


def test_a_part_leaves_the_generator_that_all_share_as_it_was(photo):
    before = torch.get_rng_state()
    read_part(str(photo), 3, (32, 32))
    assert torch.equal(torch.get_rng_state(), before)


def test_an_epoch_is_what_torchvision_makes_of_its_draws(imagenet):
    data = imagenet()
    draws = draw(12, seed_from("batches", 5, data.spec.key, 1, 2))
    found = torch.cat([batch.images for batch in data.epoch(5, 1, 2, batch_size=5)])
    wanted = []
    for position, seed, flip in zip(draws.order, draws.seeds.tolist(), draws.flips, strict=True):
        part = by_torchvision(data.split.images.files[position], seed, (48, 48))
        wanted.append(part.flip(2) if flip else part)
    assert torch.equal(found, ViewTransform(data.spec, CPU)(torch.stack(wanted)))


def test_two_epochs_cut_different_parts_of_an_image(imagenet):
    one, other = (next(imagenet().epoch(0, 1, epoch, 12)) for epoch in (1, 2))
    assert not torch.equal(one.images[one.indices.argsort()], other.images[other.indices.argsort()])


def test_batches_are_the_same_for_any_number_of_workers(imagenet):
    alone, helped = (list(imagenet(workers).epoch(3, 1, 2, batch_size=5)) for workers in (0, 2))
    for one, other in zip(alone, helped, strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.targets, other.targets)
        assert torch.equal(one.indices, other.indices)


def test_an_epoch_that_goes_on_shows_what_it_would_have_shown(imagenet):
    whole = list(imagenet().epoch(3, 1, 2, batch_size=5))
    rest = list(imagenet().epoch(3, 1, 2, batch_size=5, first=1))
    assert [len(batch.images) for batch in rest] == [5, 2]
    assert all(torch.equal(one.images, other.images) for one, other in zip(whole[1:], rest, strict=True))


def test_a_folders_training_images_are_cut_as_they_are_read_and_its_test_images_once(tmp_path):
    write_imagenet(tmp_path)
    folder = tmp_path / "imagenet"
    (folder / "test").rename(tmp_path / "others")
    spec = resolve(
        DataChoice(
            name="imagefolder",
            path=str(folder),
            mean=(0.5,) * 3,
            std=(0.2,) * 3,
            augment="resized_crop_flip",
            resize=32,
        )
    )
    train, test = load_data(spec, tmp_path, CPU, workers=0)
    assert isinstance(train.images, FileImages)
    assert isinstance(test.images, ResidentImages)
    first = sorted((folder / "val").rglob("*.JPEG"), key=lambda file: (file.parent.name, file.name))[0]
    middle = tv.center_crop(tv.resize(Image.open(first).convert("RGB"), 37), 32)
    assert torch.equal(test.images.images[0], tv.pil_to_tensor(middle))
