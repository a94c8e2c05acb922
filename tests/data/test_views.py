"""Views: what a network sees of the stored images, held against scikit-image's colours."""

import numpy as np
import pytest
import torch
from skimage.color import rgb2lab
from torch.testing import assert_close

from bench.data import DATASETS, DataChoice, resolve
from bench.data.batches import TrainingData, crop, draw
from bench.data.images import ResidentImages, Split, load_data
from bench.data.views import ViewTransform
from bench.spec import IGNORED, DataSpec, seed_from

CPU = torch.device("cpu")


def seen(name="photo_patches", **choice):
    return resolve(DataChoice(name=name, **choice))


def noise(n=6, channels=3, height=12, width=10):
    return torch.randint(0, 256, (n, channels, height, width), generator=torch.Generator().manual_seed(0))


def lab_of(images):
    """Return scikit-image's L, a and b (n, 3, H, W) of uint8 images."""
    return torch.from_numpy(rgb2lab(images.permute(0, 2, 3, 1).numpy()).transpose(0, 3, 1, 2))


@pytest.mark.parametrize(("view", "channels"), [(None, 3), ("luminance", 1), ("chrominance", 2), ("depth", 1)])
def test_a_view_has_as_many_channels_as_the_specification_says(view, channels):
    spec = seen("stereo_motorcycle", view=view)
    images = ViewTransform(spec, CPU)(noise(channels=4).to(torch.int16))
    assert images.shape[1] == spec.channels == channels == len(spec.mean) == len(spec.std)
    assert images.dtype == torch.float32
    assert images.is_contiguous(memory_format=torch.channels_last)


def test_luminance_and_chrominance_are_scikit_images_lab_normalised():
    images = noise().to(torch.uint8)
    lab = lab_of(images)
    luminance, chrominance = (ViewTransform(seen(view=view), CPU)(images) for view in ("luminance", "chrominance"))
    assert_close(luminance.double() * 50 + 50, lab[:, :1], rtol=0, atol=2e-2)
    centre, half = ([[[6.025]], [[-6.6895]]], [[[92.208]], [[101.1675]]])
    found = chrominance.double() * torch.tensor(half) + torch.tensor(centre)
    assert_close(found, lab[:, 1:], rtol=0, atol=2e-2)


def test_every_colour_lies_within_the_range_that_the_views_are_normalised_by():
    levels = torch.arange(0, 256, 15)
    colours = torch.cartesian_prod(levels, levels, levels).T.reshape(1, 3, 18, -1).to(torch.uint8)
    for view in ("luminance", "chrominance"):
        values = ViewTransform(seen(view=view), CPU)(colours).flatten(2)
        assert values.abs().amax() < 1.001
        assert values.amin() < -0.99
        assert values.amax() > 0.99


def test_depth_is_the_fourth_channel_and_the_image_as_it_is_the_first_three():
    stored = noise(channels=4).to(torch.int16)
    mean, std = DATASETS["stereo_motorcycle"].depth
    assert_close(
        ViewTransform(seen("stereo_motorcycle", view="depth"), CPU)(stored), (stored[:, 3:].float() - mean) / std
    )
    spec = seen("stereo_motorcycle")
    assert torch.equal(ViewTransform(spec, CPU)(stored), ViewTransform(spec, CPU)(stored[:, :3].to(torch.uint8)))


def test_the_view_is_part_of_a_runs_identity_only_where_there_is_one():
    assert "view" not in seen("cifar100").key
    assert '"view":"luminance"' in seen("cifar100", view="luminance").key


def test_teacher_and_student_see_two_views_of_the_same_crop():
    spec, teacher_spec = seen(view="chrominance"), seen(view="luminance")
    images = noise(20, 3, 32, 32).to(torch.uint8)
    data = TrainingData(spec, Split(ResidentImages(images, CPU), torch.zeros(20).long()), CPU, teacher_spec)
    draws = draw(20, seed_from("batches", 3, spec.key, 1, 2))
    crops = crop(images[draws.order], draws.offsets, draws.flips)
    batches = list(data.epoch(3, 1, 2, batch_size=8))
    students = torch.cat([batch.images for batch in batches])
    teachers = torch.cat([batch.teacher_images for batch in batches])
    assert_close(students, ViewTransform(spec, CPU)(crops))
    assert_close(teachers, ViewTransform(teacher_spec, CPU)(crops))


def test_teacher_and_student_share_one_tensor_of_the_same_view():
    spec = seen(view="luminance")
    data = TrainingData(spec, Split(ResidentImages(noise(height=32).to(torch.uint8), CPU), None), CPU, spec)
    batch = next(data.epoch(0, 1, 1, 4))
    assert batch.teacher_images is batch.images


# labels of pixels


@pytest.fixture(scope="module")
def tiles():
    spec = seen("stereo_motorcycle", train_fraction=0.05)
    return TrainingData(spec, load_data(spec, None, CPU, workers=0)[0], CPU, spec)


def test_labels_of_pixels_are_cropped_and_flipped_with_their_images(tiles):
    draws = draw(30, seed_from("batches", 0, tiles.spec.key, 1, 1))
    for batch in tiles.epoch(0, 1, 1, 30):
        assert batch.targets.dtype == torch.int64
        for found, position, (top, left), flip in zip(
            batch.targets, batch.indices, draws.offsets.tolist(), draws.flips, strict=True
        ):
            padded = np.pad(tiles.split.targets[position].numpy(), 4, constant_values=IGNORED)
            wanted = padded[top : top + 64, left : left + 64]
            assert np.array_equal(found.numpy(), wanted[:, ::-1] if flip else wanted)


def test_methods_are_told_of_no_labels_where_only_pixels_have_them(tiles):
    assert tiles.info.targets is None
    assert (tiles.info.n, tiles.info.classes) == (30, 5)


def test_a_fraction_of_images_whose_pixels_are_labelled_keeps_each_with_its_labels(tiles):
    spec = seen("stereo_motorcycle")
    whole, _ = load_data(spec, None, CPU, workers=0)
    images = {image.numpy().tobytes(): place for place, image in enumerate(whole.images.images)}
    places = [images[image.numpy().tobytes()] for image in tiles.split.images.images]
    assert places == sorted(places)
    assert torch.equal(tiles.split.targets, whole.targets[places])


def test_labels_of_pixels_are_scaled_with_their_images():
    train, _ = load_data(seen("stereo_motorcycle", resize=32), None, CPU, workers=0)
    whole, _ = load_data(seen("stereo_motorcycle"), None, CPU, workers=0)
    assert torch.equal(train.targets, whole.targets[:, 1::2, 1::2])
    assert torch.equal(train.images.images[:, 3], whole.images.images[:, 3, 1::2, 1::2])


# refusals

FOLDER = {"name": "imagefolder", "path": "x", "augment": "crop", "resize": 32}
HALF = {"mean": (0.5,) * 3, "std": (0.5,) * 3}


@pytest.mark.parametrize(
    ("choice", "problem"),
    [
        ({"name": "mnist", "resize": 32, "view": "luminance"}, "mnist has no colours and no depth"),
        ({"name": "cifar10", "view": "depth"}, "cifar10 can be seen as 'luminance' or 'chrominance'"),
        ({"name": "cifar10", "augment": "resized_crop_flip"}, "is for imagefolder and imagenet; cifar10 takes none"),
        ({"name": "tiny_imagenet", "augment": "resized_crop_flip"}, "is for imagefolder and imagenet"),
        ({"name": "nyu_depth_v2", "train_per_class": 1}, "nyu_depth_v2's images have no classes"),
        ({"name": "stl10_unlabelled", "train_per_class": 1}, "stl10_unlabelled's images have no classes"),
        (FOLDER | HALF | {"view": "luminance"}, "'mean' is for images as they are; the view 'luminance' has its own"),
        (FOLDER | HALF | {"augment": "resized_crop_flip", "resize": None}, "needs 'resize'"),
    ],
)
def test_what_a_data_set_does_not_have_is_refused(choice, problem):
    assert problem in "; ".join(DataChoice(**choice).problems())


@pytest.mark.parametrize(
    "choice",
    [
        FOLDER,
        FOLDER | {"view": "chrominance"},
        FOLDER | HALF | {"augment": "resized_crop_flip"},
        {"name": "nyu_depth_v2", "view": "depth"},
        {"name": "imagenet", "augment": "resized_crop_flip", "view": "luminance"},
    ],
)
def test_what_a_data_set_has_is_not_refused(choice):
    assert DataChoice(**choice).problems() == []


def test_a_specification_from_before_views_keeps_its_identity():
    old = '{"augment":"crop","channels":3,"classes":9,"mean":[0.3],"name":"digits","size":[32,32],"std":[0.3]}'
    assert DataSpec.model_validate_json(old).key == old
