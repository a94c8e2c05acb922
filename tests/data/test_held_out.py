"""Dev images: which ones they are, and that a run that holds them out for a choice leaves the test images closed."""

import pytest
import torch
from pydantic import ValidationError

from bench.data import DataChoice, packaged, resolve
from bench.data.images import load_all
from bench.data.subset import divided
from bench.spec import HeldOut
from bench.suite import DataEntry

CPU = torch.device("cpu")


def digits(**choice):
    return resolve(DataChoice(name="digits", resize=32, **choice))


def closed(**choice):
    """Return digits whose test images stay closed."""
    spec = digits(**choice)
    return spec.model_copy(update={"held_out": spec.held_out.model_copy(update={"opens_test": False})})


@pytest.fixture(scope="module")
def targets():
    (_, labels), _ = packaged.digits(digits(), None)
    return labels


@pytest.mark.parametrize(
    ("choice", "trained", "dev"),
    [
        ({"dev_per_class": 10}, 80, 10),
        ({"dev_fraction": 0.2}, 72, 18),
        ({"train_per_class": 20, "dev_per_class": 5}, 15, 5),
        ({"train_fraction": 0.1, "dev_fraction": 0.5}, 5, 4),
        ({"train_per_class": 2, "dev_fraction": 0.99}, 1, 1),
    ],
)
def test_dev_images_are_the_right_number_of_each_class_and_none_is_trained_on(choice, trained, dev, targets):
    for_training, held_out = divided(targets, digits(**choice))
    assert targets[for_training].bincount().tolist() == [trained] * 10
    assert targets[held_out].bincount().tolist() == [dev] * 10
    assert not set(for_training.tolist()) & set(held_out.tolist())


def test_dev_images_and_the_others_are_the_whole_subset(targets):
    for_training, held_out = divided(targets, digits(train_per_class=20, dev_per_class=5))
    whole, _ = divided(targets, digits(train_per_class=20))
    assert sorted([*for_training.tolist(), *held_out.tolist()]) == whole.tolist()


def test_images_trained_on_beside_dev_images_are_a_smaller_subset(targets):
    for_training, _ = divided(targets, digits(train_per_class=20, dev_per_class=5))
    assert for_training.tolist() == divided(targets, digits(train_per_class=15))[0].tolist()


@pytest.mark.parametrize(("own", "trained"), [({}, 87), ({"train_per_class": 18}, 17), ({"train_per_class": 3}, 3)])
def test_dev_images_of_another_subset_are_the_same_whatever_is_trained_on(own, trained, targets):
    _, dev = divided(targets, digits(train_per_class=20, dev_per_class=3))
    spec = digits(**own).model_copy(update={"held_out": HeldOut(per_class=3, of_per_class=20, opens_test=False)})
    for_training, held_out = divided(targets, spec)
    assert held_out.tolist() == dev.tolist()
    assert targets[for_training].bincount().tolist() == [trained] * 10
    assert not set(for_training.tolist()) & set(dev.tolist())


def test_both_splits_are_read_beside_the_dev_images(tmp_path):
    splits = load_all(digits(dev_per_class=10), tmp_path, CPU, workers=0)
    assert (len(splits.train), len(splits.test), len(splits.dev)) == (800, 897, 100)
    assert splits.evaluated is splits.test


def test_where_the_test_images_stay_closed_the_dev_images_are_evaluated(tmp_path):
    splits = load_all(closed(dev_per_class=10), tmp_path, CPU, workers=0)
    assert splits.test is None
    assert splits.evaluated is splits.dev


@pytest.mark.parametrize("name", ["digits", "photo_patches", "stereo_motorcycle"])
def test_a_reader_returns_no_test_images_where_they_stay_closed(name, tmp_path):
    spec = resolve(DataChoice(name=name, resize=32, dev_fraction=0.1))
    spec = spec.model_copy(update={"held_out": HeldOut(fraction=0.1, opens_test=False)})
    pytest.importorskip("skimage")
    assert getattr(packaged, name)(spec, tmp_path)[1] is None


def test_data_without_dev_images_has_the_same_canonical_text_as_before():
    assert "held_out" not in digits().key


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"dev_per_class": 90}, "dev_per_class is 90, but 90 images of the smallest class are kept"),
        ({"train_per_class": 5, "dev_per_class": 5}, "dev_per_class is 5, but 5 images"),
        ({"dev_per_class": 5, "dev_fraction": 0.1}, "give dev_per_class or dev_fraction, not both"),
        ({"dev_fraction": 1.0}, "less than 1"),
    ],
)
def test_dev_images_that_leave_nothing_to_train_on_are_refused(choice, message):
    with pytest.raises(ValidationError, match=message):
        DataEntry(name="digits", resize=32, **choice)
