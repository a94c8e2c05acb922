"""Checkpoints: what is read, and what is refused with which words."""

import argparse
import pickle
from pathlib import Path

import pytest
import safetensors.torch
import torch

from bench.models import build
from bench.models.weights import load_weights
from bench.types import RequestError


@pytest.fixture
def source():
    torch.manual_seed(1)
    return build("resnet8", num_classes=10)


@pytest.fixture
def target():
    torch.manual_seed(2)
    return build("resnet8", num_classes=10)


class Hostile:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def assert_same_weights(one, other):
    for key, tensor in one.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[key]), key


WRAPPINGS = {
    "under the key model": lambda state: {"model": state, "epoch": 240, "best_acc": torch.tensor(69.1)},
    "under the key state_dict": lambda state: {"state_dict": state, "optimizer": {"state": {}}},
    "alone": lambda state: state,
    "beside its options": lambda state: {"opt": argparse.Namespace(lr=0.05, model="resnet8"), "model": state},
    "of a parallel network": lambda state: {"model": {f"module.{key}": tensor for key, tensor in state.items()}},
    "of a parallel network, alone": lambda state: {f"module.{key}": tensor for key, tensor in state.items()},
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_a_checkpoint_is_read_whatever_surrounds_its_weights(wrapping, source, target, tmp_path):
    path = tmp_path / "resnet8_last.pth"
    torch.save(WRAPPINGS[wrapping](source.state_dict()), path)
    load_weights(target, path)
    assert_same_weights(source, target)


def test_the_old_file_format_of_torch_is_read(source, target, tmp_path):
    path = tmp_path / "old.pth"
    torch.save({"model": source.state_dict()}, path, _use_new_zipfile_serialization=False)
    load_weights(target, path)
    assert_same_weights(source, target)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_safetensors_file_is_read(prefix, source, target, tmp_path):
    path = tmp_path / "student.safetensors"
    safetensors.torch.save_file({prefix + key: tensor for key, tensor in source.state_dict().items()}, path)
    load_weights(target, str(path))
    assert_same_weights(source, target)


def test_a_missing_file_is_named(target, tmp_path):
    with pytest.raises(RequestError, match=r"gone\.pth: no such file; give the path"):
        load_weights(target, tmp_path / "gone.pth")


@pytest.mark.parametrize("zipped", [True, False])
def test_a_hostile_file_is_refused_and_does_nothing(zipped, source, target, tmp_path):
    path, victim = tmp_path / "hostile.pth", tmp_path / "created"
    content = {"model": source.state_dict(), "opt": Hostile(victim)}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(RequestError, match=r"hostile\.pth: not a checkpoint that can be read safely \(UnpicklingError"):
        load_weights(target, path)
    assert not victim.exists()


def test_a_hostile_plain_pickle_is_refused_and_does_nothing(target, tmp_path):
    path, victim = tmp_path / "hostile.pkl", tmp_path / "created"
    path.write_bytes(pickle.dumps(Hostile(victim), protocol=2))
    with pytest.raises(RequestError, match="not a checkpoint that can be read safely"):
        load_weights(target, path)
    assert not victim.exists()


def test_the_hostile_file_of_these_tests_would_do_harm_elsewhere(tmp_path):
    victim = tmp_path / "created"
    pickle.loads(pickle.dumps(Hostile(victim), protocol=2))
    assert victim.exists()


@pytest.mark.parametrize("name", ["broken.pth", "broken.safetensors"])
@pytest.mark.parametrize("content", [b"", b"not a checkpoint at all", b"PK\x03\x04 cut short", bytes(range(256)) * 9])
def test_a_broken_file_is_refused(name, content, target, tmp_path):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(RequestError, match=f"{name}: not a checkpoint that can be read safely .*; give a .safetensors"):
        load_weights(target, path)


def test_a_truncated_checkpoint_is_refused(source, target, tmp_path):
    path = tmp_path / "cut.pth"
    torch.save({"model": source.state_dict()}, path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(RequestError, match="not a checkpoint that can be read safely"):
        load_weights(target, path)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ([1, 2], "a list"),
        (torch.zeros(3), "a Tensor"),
        ({}, "an empty dict"),
        ({"epoch": 3, "lr": 0.1}, "the keys epoch, lr"),
        ({"model": {"fc.weight": "text"}}, "the keys model"),
        (dict.fromkeys("abcde", 1), "the keys a, b, c, ..."),
    ],
)
def test_a_file_without_weights_says_what_it_holds(content, found, target, tmp_path):
    path = tmp_path / "other.pth"
    torch.save(content, path)
    with pytest.raises(RequestError, match=f"no weights found, but {found}; wanted is a state dict"):
        load_weights(target, path)


def test_a_checkpoint_of_other_classes_names_both_numbers(target, tmp_path):
    path = tmp_path / "cifar100.pth"
    torch.save({"model": build("resnet8", num_classes=100).state_dict()}, path)
    message = r"fc\.weight is 100x64, wanted 10x64.*the checkpoint has 100 classes, the data 10: give a checkpoint"
    with pytest.raises(RequestError, match=message):
        load_weights(target, path)


def test_a_deeper_networks_checkpoint_lists_its_first_unexpected_names(target, tmp_path):
    path = tmp_path / "resnet14.pth"
    torch.save({"model": build("resnet14", num_classes=10).state_dict()}, path)
    message = r"36 names unexpected \(layer1\.1\.conv1\.weight, .*, \.\.\.\); give a checkpoint of this very network"
    with pytest.raises(RequestError, match=message):
        load_weights(target, path)


def test_a_part_of_a_checkpoint_lists_what_is_missing(source, target, tmp_path):
    state = source.state_dict()
    del state["fc.weight"], state["fc.bias"]
    torch.save(state, tmp_path / "trunk.pth")
    with pytest.raises(RequestError, match=r"2 names missing \(fc\.weight, fc\.bias\)"):
        load_weights(target, tmp_path / "trunk.pth")


def test_a_wider_networks_checkpoint_lists_shapes(target, tmp_path):
    torch.save(build("resnet8x4", num_classes=10).state_dict(), tmp_path / "wide.pth")
    with pytest.raises(RequestError, match=r"of another shape \(conv1\.weight is 32x3x3x3, wanted 16x3x3x3, "):
        load_weights(target, tmp_path / "wide.pth")


def test_a_checkpoint_that_does_not_fit_changes_nothing(source, target, tmp_path):
    state, before = source.state_dict(), {key: tensor.clone() for key, tensor in target.state_dict().items()}
    del state["fc.bias"]
    torch.save(state, tmp_path / "part.pth")
    with pytest.raises(RequestError):
        load_weights(target, tmp_path / "part.pth")
    assert all(torch.equal(before[key], tensor) for key, tensor in target.state_dict().items())
