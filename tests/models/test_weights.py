"""Checkpoints: what is read, and what is refused with which words."""

import argparse
import pickle
import re
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
import torchvision
from torch import nn

from bench.models import build
from bench.models.torchvision_network import set_input
from bench.models.weights import COUNTER, KEYS, PREFIXES, Reading, fitting_weights, load_weights
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


for _prefix in PREFIXES:
    WRAPPINGS[f"below {_prefix}"] = lambda state, prefix=_prefix: {prefix + key: value for key, value in state.items()}
for _key in KEYS:
    WRAPPINGS[f"under the key {_key}"] = lambda state, key=_key: {key: state, "epoch": 240}
WRAPPINGS |= {
    "of a Lightning module": lambda state: {
        "state_dict": {f"student.{key}": value for key, value in state.items()},
        "hyper_parameters": {"lr": 0.05},
        "pytorch-lightning_version": "2.5.0",
    },
    "compiled, then parallel": lambda state: {f"_orig_mod.module.{key}": value for key, value in state.items()},
    "beside numpy's numbers": lambda state: {"model": state, "best": np.mean([1.0, 2.0]), "at": np.int64(3)},
    "beside numpy's arrays": lambda state: {"model": state, "curve": np.arange(3.0), "names": np.array(["a", "b"])},
    "averaged alone": lambda state: {"state_dict_ema": state, "epoch": 3},
    "in half precision": lambda state: {key: value.half() if value.ndim else value for key, value in state.items()},
    "in double precision": lambda state: {key: value.double() if value.ndim else value for key, value in state.items()},
    "with counters that are too large for float16": lambda state: {
        key: torch.tensor(450_000).half() if key.endswith(COUNTER) else value for key, value in state.items()
    },
    "of torch's averaged network": lambda state: {
        "n_averaged": torch.tensor(5),
        **{f"module.{key}": value for key, value in state.items()},
    },
    "without counters": lambda state: {key: value for key, value in state.items() if not key.endswith(COUNTER)},
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_a_checkpoint_is_read_whatever_surrounds_its_weights(wrapping, source, target, tmp_path):
    path = tmp_path / "resnet8_last.pth"
    torch.save(WRAPPINGS[wrapping](source.state_dict()), path)
    load_weights(target, path)
    if "half" in wrapping:
        source.half().float()
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


@pytest.mark.parametrize("name", ["teacher.pth", "teacher.safetensors"])
def test_a_text_in_place_of_a_checkpoint_is_shown_and_torchs_advice_to_run_its_code_is_not(name, target, tmp_path):
    path = tmp_path / name
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:abc\n")
    with pytest.raises(RequestError, match=r"it begins with b'version https://.*Git LFS pointer") as refused:
        load_weights(target, path)
    assert "weights_only" not in str(refused.value)


def test_torchs_reason_for_refusing_a_pickle_is_told_without_its_advice(target, tmp_path):
    path = tmp_path / "teacher.pth"
    path.write_bytes(b"\x80\x02<")
    with pytest.raises(RequestError, match=r"\(UnpicklingError: Unsupported operand 60\); give a") as refused:
        load_weights(target, path)
    assert "weights_only" not in str(refused.value)


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


def test_a_prefix_that_not_all_names_have_is_not_removed(source, target, tmp_path):
    state = source.state_dict()
    torch.save(
        {"encoder." + key: value for key, value in state.items()} | {"head.weight": torch.zeros(3)}, tmp_path / "x.pth"
    )
    with pytest.raises(RequestError, match=r"names unexpected \(encoder\.conv1\.weight"):
        load_weights(target, tmp_path / "x.pth")


# where the weights are, and how they are named


@pytest.mark.parametrize(
    ("key", "wrap"),
    [
        ("ema", lambda state, other: {"model": other, "ema": state}),
        ("nets.b", lambda state, other: {"nets": {"a": other, "b": state}}),
        ("nets.b", lambda state, other: {"nets.a": other, "nets.b": state}),
        (
            "state_dict.student",
            lambda state, other: {
                "state_dict": {f"teacher.{key}": value for key, value in other.items()}
                | {f"student.{key}": value for key, value in state.items()}
            },
        ),
        ("student", lambda state, other: {f"student.module.{key}": value for key, value in state.items()}),
    ],
    ids=["beside others", "nested", "with a dot", "of one of two networks", "by the beginning of their names"],
)
def test_a_key_says_where_the_weights_are(key, wrap, source, target, tmp_path):
    other = {name: torch.zeros_like(value) for name, value in source.state_dict().items()}
    torch.save(wrap(source.state_dict(), other), tmp_path / "x.pth")
    load_weights(target, tmp_path / "x.pth", reading=Reading(key))
    assert_same_weights(source, target)


def test_a_variance_that_is_negative_is_refused_by_name(source, target, tmp_path):
    torch.save(source.state_dict() | {"bn1.running_var": torch.full((16,), -1.0)}, tmp_path / "x.pth")
    with pytest.raises(RequestError, match=r"x\.pth: weights that are negative variances: bn1\.running_var\. The file"):
        load_weights(target, tmp_path / "x.pth")


def test_settings_under_a_common_key_do_not_hide_the_weights_under_another(source, target, tmp_path):
    torch.save({"model": {"depth": 20}, "net": {}, "state_dict": source.state_dict()}, tmp_path / "x.pth")
    load_weights(target, tmp_path / "x.pth")
    assert_same_weights(source, target)


@pytest.mark.parametrize("key", ["model", "epoch", "nets.c", "teacher"])
def test_a_key_without_weights_is_refused_with_the_keys_of_the_file(key, source, target, tmp_path):
    torch.save({"nets": {"b": source.state_dict()}, "epoch": 3}, tmp_path / "x.pth")
    with pytest.raises(RequestError, match=rf"no weights found under key '{key}'; the file has the keys nets, epoch"):
        load_weights(target, tmp_path / "x.pth", reading=Reading(key))


def test_parts_of_names_are_renamed_all_at_once(source, target, tmp_path):
    def foreign(name):
        name = name.replace("fc", "linear").replace("downsample.0", "shortcut.conv")
        return name.replace("conv1", "?").replace("conv2", "conv1").replace("?", "conv2")

    torch.save({f"module.{foreign(name)}": value for name, value in source.state_dict().items()}, tmp_path / "x.pth")
    rename = {"linear": "fc", "shortcut.conv": "downsample.0", "conv1": "conv2", "conv2": "conv1"}
    load_weights(target, tmp_path / "x.pth", reading=Reading(rename=rename))
    assert_same_weights(source, target)


@pytest.mark.parametrize(
    ("rename", "message"),
    [
        ({"f": "fc"}, r"rename: 'f' is not a part of any name in the checkpoint, which has conv1\.weight, "),
        ({"conv1": "conv2"}, r"rename: two weights become 'layer1\.0\.conv2\.weight'"),
    ],
)
def test_a_rename_that_cannot_be_meant_is_refused(rename, message, source, target, tmp_path):
    torch.save(source.state_dict(), tmp_path / "x.pth")
    with pytest.raises(RequestError, match=message):
        load_weights(target, tmp_path / "x.pth", reading=Reading(rename=rename))


@pytest.mark.parametrize("name", ["model-00001-of-00002.safetensors", "model.safetensors.index.json"])
def test_a_part_of_a_checkpoint_of_several_files_is_refused_by_its_name(name, target, tmp_path):
    (tmp_path / name).write_bytes(b"not read")
    with pytest.raises(RequestError, match=f"{name}: one of several files of a checkpoint, or the list of them"):
        load_weights(target, tmp_path / name)


@pytest.mark.parametrize(
    ("owner", "message"),
    [
        ("resnet14", r"; its names and shapes are those of resnet14$"),
        ("torchvision.resnet18", r"; its names and shapes are those of torchvision\.resnet18$"),
    ],
)
def test_weights_of_another_network_name_it(owner, message, target, tmp_path):
    state = {f"module.{key}": value for key, value in build(owner, num_classes=10).state_dict().items()}
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(RequestError, match=message):
        load_weights(target, tmp_path / "x.pth")


def test_weights_of_no_known_network_name_the_nearest(target, tmp_path):
    state = build("resnet14", num_classes=10).state_dict() | {"attention.weight": torch.zeros(3, 3)}
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(RequestError, match=r"; the nearest known network is resnet14: 9\d% of names and shapes agree$"):
        load_weights(target, tmp_path / "x.pth")


# values that are not floating-point numbers

WORTHLESS = {
    "whole numbers (torch.int32)": lambda value: value.int(),
    "whole numbers (torch.uint8)": lambda value: value.to(torch.uint8),
    "truth values (torch.bool)": lambda value: value > 0,
    "complex numbers (torch.complex64)": lambda value: value.to(torch.complex64),
    "too large for float32 (torch.float64)": lambda value: value.double() * 1e300 + 1e300,
    "sparse (torch.sparse_coo)": lambda value: value.to_sparse(),
    "sparse (torch.sparse_csr)": lambda value: value.to_sparse_csr() if value.ndim == 2 else value,
    "without values (on the device meta)": lambda value: value.to("meta"),
    "numbers of 8 bits (torch.float8_e4m3fn)": lambda value: value.to(torch.float8_e4m3fn),
    "numbers of 8 bits (torch.float8_e5m2)": lambda value: value.to(torch.float8_e5m2),
    "quantised (torch.qint8)": lambda value: torch.quantize_per_tensor(value, 0.1, 0, torch.qint8),
    "nested tensors": lambda value: torch.nested.nested_tensor(list(value)),
    "not finite": lambda value: value / 0,
}


@pytest.mark.filterwarnings("ignore")  # torch warns of kinds of tensors that will change
@pytest.mark.parametrize("kind", WORTHLESS)
def test_weights_that_would_lose_their_values_are_refused_by_name(kind, source, target, tmp_path):
    before = {key: value.clone() for key, value in target.state_dict().items()}
    torch.save(source.state_dict() | {"fc.weight": WORTHLESS[kind](source.fc.weight.detach())}, tmp_path / "x.pth")
    with pytest.raises(RequestError) as error:
        load_weights(target, tmp_path / "x.pth")
    assert str(error.value).startswith(f"{tmp_path / 'x.pth'}: weights that are {kind}: fc.weight. ")
    assert all(torch.equal(before[key], value) for key, value in target.state_dict().items())


@pytest.mark.parametrize("kind", [torch.int64, torch.bool, torch.complex64, torch.float8_e4m3fn])
def test_a_safetensors_file_with_such_weights_is_refused_too(kind, source, target, tmp_path):
    state = source.state_dict() | {"fc.bias": source.fc.bias.detach().to(kind)}
    safetensors.torch.save_file(state, tmp_path / "x.safetensors")
    with pytest.raises(RequestError, match=r"x\.safetensors: weights that are .*: fc\.bias\. Save them"):
        load_weights(target, tmp_path / "x.safetensors")


# damage


def test_a_changed_bit_in_the_weights_is_found(source, target, tmp_path):
    path = tmp_path / "x.pth"
    torch.save(source.state_dict(), path)
    content = path.read_bytes()
    place = content.index(source.layer3[0].conv1.weight.detach().numpy().tobytes())
    for bit in range(0, 4000, 501):
        damaged = bytearray(content)
        damaged[place + bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with pytest.raises(RequestError, match=r"the file is damaged: its part .* differs from its checksum"):
            load_weights(target, path)


def test_a_file_that_was_written_without_checksums_is_read(source, target, tmp_path):
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    torch.save(source.state_dict(), tmp_path / "x.pth")
    torch.serialization.set_crc32_options(before)
    load_weights(target, tmp_path / "x.pth")
    assert_same_weights(source, target)


def test_a_refused_file_names_the_object_in_its_way(source, target, tmp_path):
    torch.save({"model": source.state_dict(), "path": Path("x")}, tmp_path / "x.pth")
    with pytest.raises(RequestError, match=r"it holds pathlib\.\w*Path, and making that could run code"):
        load_weights(target, tmp_path / "x.pth")


# torchvision's own files

ZOO = torchvision.models.list_models(module=torchvision.models)
FEW = ("alexnet", "densenet121", "googlenet", "inception_v3", "mnasnet0_5", "resnet18", "shufflenet_v2_x0_5", "swin_t")
HAS_AUX = {key: {"init_weights": False} for key in ("googlenet", "inception_v3")}
OLD = re.compile("resnet|wide_resnet|resnext")  # published without counters of batches


def published(network, name):
    """Return a state dict as torchvision publishes it for one of its classifiers, its values left out of memory."""
    state = {
        key: (torch.zeros(()) if value.is_floating_point() else torch.tensor(0)).expand(value.shape)
        for key, value in network.state_dict().items()
        if not OLD.match(name) or not key.endswith(COUNTER)
    }
    if name.startswith("densenet"):
        state = {re.sub(r"(denselayer\d+\.(?:norm|conv))(\d)", r"\1.\2", key): value for key, value in state.items()}
    return state


def assert_taken(name, path):
    classifier = "classifier.1" if name.startswith("squeezenet") else None  # it has no linear layer
    with torch.device("cpu" if name.startswith("regnet") else "meta"):  # a RegNet's construction needs values
        theirs = torchvision.models.get_model(name, num_classes=10, **HAS_AUX.get(name, {}))
        stages = [next(key for key, _ in theirs.named_children())]
        ours = build(f"torchvision.{name}", num_classes=10, stages=stages, classifier=classifier)
    torch.save(published(theirs, name), path)
    assert fitting_weights(ours, path).keys() == ours.state_dict().keys()


def test_weights_under_both_an_old_and_a_new_name_are_refused(tmp_path):
    network = nn.Sequential(OrderedDict(denselayer1=nn.Sequential(OrderedDict(norm1=nn.BatchNorm1d(2)))))
    state = network.state_dict()
    torch.save({**state, "denselayer1.norm.1.weight": torch.zeros(2)}, tmp_path / "x.pth")
    with pytest.raises(RequestError, match=r"1 names unexpected \(denselayer1.norm.1.weight\)"):
        fitting_weights(network, tmp_path / "x.pth")


def test_a_file_that_would_unpack_to_much_more_is_refused_before(target, tmp_path):
    with zipfile.ZipFile(tmp_path / "x.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(10**6))
    with pytest.raises(RequestError, match="would unpack to 1000000"):
        load_weights(target, tmp_path / "x.pth")


@pytest.mark.parametrize("name", FEW)
def test_what_torchvision_publishes_is_taken(name, tmp_path):
    assert_taken(name, tmp_path / f"{name}.pth")


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted({*ZOO} - {*FEW}))
def test_what_torchvision_publishes_of_its_other_classifiers_is_taken(name, tmp_path):
    assert_taken(name, tmp_path / f"{name}.pth")


def test_a_network_that_asks_for_its_version_takes_weights_from_a_file_that_has_none(tmp_path):
    network, other = (build("torchvision.mnasnet0_5", num_classes=10, stages=["layers"]) for _ in range(2))
    safetensors.torch.save_file(network.state_dict(), tmp_path / "x.safetensors")
    load_weights(other, tmp_path / "x.safetensors")
    assert_same_weights(network, other)


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_published_weights_see_the_images_that_they_were_trained_on(name):
    with torch.device("meta"):
        network = build(f"torchvision.{name}", num_classes=10, stages=["maxpool1"])
    weights = torchvision.models.get_model_weights(name).IMAGENET1K_V1
    digits = weights.url.rpartition("-")[2].removesuffix(".pth")
    for checkpoint, is_published in (("IMAGENET1K_V1", True), (digits + "0" * 56, True), ("0" * 64, False)):
        set_input(network, name, checkpoint)
        assert network.network.transform_input is is_published
