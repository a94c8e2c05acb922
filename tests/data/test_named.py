"""Named data sets: read through torchvision from the published file formats, or come with a package."""

import functools
import gzip
import hashlib
import http.server
import importlib
import itertools
import math
import pickle
import shutil
import socket
import struct
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision import datasets
from torchvision.transforms import functional as tv

from bench.data import DataChoice, fetched, packaged, resolve
from bench.data.images import ResidentImages, fetch, load_data
from bench.data.named import DATASETS
from bench.data.subset import divided
from bench.types import RequestError

CPU = torch.device("cpu")
FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")  # Debian's package dataset-fashion-mnist
IDX_FILES = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
KINDS = {"mnist": datasets.MNIST, "fashion_mnist": datasets.FashionMNIST}
CIFARS = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}


def chosen(name, resize=None, **choice):
    """Return a data set's specification at 32x32 or its own size."""
    size = resize or (32 if max(DATASETS[name].size) < 32 else None)
    return resolve(DataChoice(name=name, resize=size, **choice))


def read(root, name, **choice):
    """Return a data set's (training, test) splits."""
    return load_data(chosen(name, **choice), root, CPU, workers=0)


def same(splits, others):
    return all(
        torch.equal(one.images.images, other.images.images) and torch.equal(one.targets, other.targets)
        for one, other in zip(splits, others, strict=True)
    )


# digits


def test_digits_hold_90_training_images_of_each_class_and_897_to_test(tmp_path):
    train, test = read(tmp_path, "digits")
    assert train.targets.bincount().tolist() == [90] * 10
    assert (len(train), len(test)) == (900, 897)
    assert train.images.images.shape == (900, 3, 32, 32)


def test_digits_splits_share_no_image_and_lack_none(tmp_path):
    from sklearn.datasets import load_digits

    (train, _), (test, _) = packaged.digits(chosen("digits"), None)
    ours = sorted(image.numpy().tobytes() for image in torch.cat([train, test]))
    theirs = sorted(np.rint(image * 255 / 16).astype(np.uint8).tobytes() for image in load_digits().images)
    assert ours == theirs


def test_digits_are_split_always_the_same_way():
    """A change here is a change of every number on digits."""
    (train, _), _ = packaged.digits(chosen("digits"), None)
    assert hashlib.sha256(train.numpy().tobytes()).hexdigest()[:16] == "77521d3e1880cd6b"


# files as published: MNIST's and Fashion-MNIST's idx


def idx(array):
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def mnist_arrays(train=40, test=20):
    random = np.random.default_rng(0)
    return {
        kind: random.integers(0, 256, (n, 28, 28), dtype=np.uint8)
        if "images" in kind
        else np.arange(n, dtype=np.uint8) % 10
        for kind, n in zip(IDX_FILES, (train, train, test, test), strict=True)
    }


def write_mnist(root, name, packed=False):
    """Write a small stand-in of the published files; return its arrays."""
    raw = root / DATASETS[name].folder / "raw"
    raw.mkdir(parents=True)
    arrays = mnist_arrays()
    for kind, array in arrays.items():
        content = idx(array)
        (raw / f"{kind}-ubyte{'.gz' if packed else ''}").write_bytes(gzip.compress(content) if packed else content)
    return arrays


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gz"])
@pytest.mark.parametrize("name", KINDS)
def test_idx_files_are_read_and_their_grey_images_repeated(name, packed, tmp_path):
    arrays = write_mnist(tmp_path, name, packed)
    for split, images, labels in zip(read(tmp_path, name, resize=28 + 4), IDX_FILES[::2], IDX_FILES[1::2], strict=True):
        grey = torch.from_numpy(arrays[images])[:, None]
        assert torch.equal(split.images.images, tv.resize(grey, [32, 32]).expand(-1, 3, -1, -1))
        assert split.targets.tolist() == arrays[labels].tolist()


def test_packed_files_that_several_readers_unpack_at_once_are_read_by_all(tmp_path):
    write_mnist(tmp_path, "mnist", packed=True)
    with ThreadPoolExecutor(4) as readers:
        answers = list(readers.map(lambda _: read(tmp_path, "mnist"), range(8)))
    assert all(same(answers[0], answer) for answer in answers)
    assert len(list((tmp_path / "MNIST" / "raw").iterdir())) == 8


def test_a_relative_data_folder_is_read(tmp_path, monkeypatch):
    write_mnist(tmp_path / "data", "mnist")
    monkeypatch.chdir(tmp_path)
    assert same(read(Path("data"), "mnist"), read(tmp_path / "data", "mnist"))


@pytest.fixture(scope="module")
def fashion_mnist(tmp_path_factory):
    """Return a data root with the real files, which a Debian package brings."""
    if not FASHION_MNIST.is_dir():
        pytest.skip("the Debian package dataset-fashion-mnist is not installed")
    root = tmp_path_factory.mktemp("fashion")
    raw = root / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for file in FASHION_MNIST.glob("*.gz"):
        (raw / file.name).symlink_to(file)
    return root


def test_fashion_mnists_counts_and_labels_are_the_published_ones(fashion_mnist):
    (images, targets), (test_images, test_targets) = fetched.read_fetched(chosen("fashion_mnist"), fashion_mnist)
    named = DATASETS["fashion_mnist"]
    assert (len(images), len(test_images)) == (named.train, named.test)
    assert targets.bincount().tolist() == [named.min_per_class] * named.classes
    assert targets[:10].tolist() == [9, 0, 0, 3, 0, 2, 7, 2, 5, 5]
    assert test_targets[:10].tolist() == [9, 2, 1, 1, 6, 1, 4, 6, 5, 7]


def test_the_named_mean_and_deviation_of_fashion_mnist_are_those_of_the_training_images(fashion_mnist):
    (images, _), _ = fetched.read_fetched(chosen("fashion_mnist"), fashion_mnist)
    pixels = images.double() / 255
    assert float(pixels.mean()) == pytest.approx(DATASETS["fashion_mnist"].mean[0], abs=1e-3)
    assert float(pixels.std()) == pytest.approx(DATASETS["fashion_mnist"].std[0], abs=1e-3)


def test_a_subset_of_fashion_mnist_has_1000_images_of_each_class(fashion_mnist):
    train, test = read(fashion_mnist, "fashion_mnist", train_per_class=1000)
    assert train.targets.bincount().tolist() == [1000] * 10
    assert len(test) == 10000


# files as published: CIFAR's pickled batches


def write_cifar(root, name, monkeypatch):
    """Write a small stand-in of the published files, whose sums torchvision then expects; return images and labels."""
    kind = CIFARS[name]
    folder = root / kind.base_folder
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    key = "labels" if name == "cifar10" else "fine_labels"
    written, sums = [], {}
    for file, _ in kind.train_list + kind.test_list:
        pixels = random.integers(0, 256, (20, 3072), dtype=np.uint8)
        labels = random.integers(0, DATASETS[name].classes, 20).tolist()
        entry = {"data": pixels, key: labels, "filenames": [f"{i}.png" for i in range(20)], "batch_label": file}
        (folder / file).write_bytes(pickle.dumps(entry, protocol=2))
        written.append((torch.from_numpy(pixels.reshape(-1, 3, 32, 32)), labels))
    (folder / kind.meta["filename"]).write_bytes(pickle.dumps({kind.meta["key"]: [str(i) for i in range(100)]}, 2))
    sums = {file.name: hashlib.md5(file.read_bytes()).hexdigest() for file in folder.iterdir()}
    for which in ("train_list", "test_list"):
        monkeypatch.setattr(kind, which, [[file, sums[file]] for file, _ in getattr(kind, which)])
    monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": sums[kind.meta["filename"]]})
    return written


@pytest.mark.parametrize("name", CIFARS)
def test_cifars_pickled_batches_are_read_in_their_order(name, tmp_path, monkeypatch):
    written = write_cifar(tmp_path, name, monkeypatch)
    train, test = read(tmp_path, name)
    assert torch.equal(train.images.images, torch.cat([images for images, _ in written[:-1]]))
    assert train.targets.tolist() == [label for _, labels in written[:-1] for label in labels]
    assert torch.equal(test.images.images, written[-1][0])
    assert test.targets.tolist() == written[-1][1]


@pytest.mark.usefixtures("no_network")
def test_cifar_files_that_are_not_the_published_ones_are_refused(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        write_cifar(tmp_path, "cifar100", patch)
    with pytest.raises(RequestError, match=rf"train, test, meta in {tmp_path}/cifar-100-python and .* damaged"):
        read(tmp_path, "cifar100")


def test_cifars_archive_put_there_by_hand_is_unpacked(tmp_path, monkeypatch, no_network):
    written = write_cifar(tmp_path / "source", "cifar100", monkeypatch)
    kind = datasets.CIFAR100
    archive = Path(shutil.make_archive(tmp_path / "cifar", "gztar", tmp_path / "source"))
    (tmp_path / "data").mkdir()
    archive = archive.rename(tmp_path / "data" / kind.filename)
    monkeypatch.setattr(kind, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
    assert torch.equal(read(tmp_path / "data", "cifar100")[1].images.images, written[-1][0])


# absent files


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("mnist", "train-images-idx3-ubyte, train-labels-idx1-ubyte, .* in {root}/MNIST/raw"),
        ("fashion_mnist", "t10k-images-idx3-ubyte, t10k-labels-idx1-ubyte .* in {root}/FashionMNIST/raw"),
        ("cifar10", "data_batch_1, .* data_batch_5, test_batch, batches.meta in {root}/cifar-10-batches-py"),
        ("cifar100", "train, test, meta in {root}/cifar-100-python"),
    ],
)
def test_absent_data_without_a_network_names_files_and_place_and_leaves_nothing(name, files, tmp_path):
    root = tmp_path / "data"
    with pytest.raises(
        RequestError, match=f"data '{name}': looked for .*{files.format(root=root)}.*--data DIR"
    ) as error:
        read(root, name)
    assert "\n" not in str(error.value)
    assert not root.exists()


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gz"])
@pytest.mark.parametrize("left", [0, 3, 1000, -1])
def test_a_damaged_file_is_refused_and_a_whole_one_in_its_place_is_read(left, packed, tmp_path):
    write_mnist(tmp_path, "mnist", packed)
    file = next((tmp_path / "MNIST" / "raw").glob("train-images*"))
    whole = file.read_bytes()
    file.write_bytes(whole[:left])
    with pytest.raises(RequestError, match="are missing or damaged"):
        read(tmp_path, "mnist")
    file.write_bytes(whole)
    assert len(read(tmp_path, "mnist")[0]) == 40


# downloads, from a server of the test's own


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """Return the folder of a server that torchvision takes for MNIST's mirror."""
    folder = tmp_path / "mirror"
    folder.mkdir()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    resources = []
    for kind, array in mnist_arrays().items():
        packed = gzip.compress(idx(array))
        (folder / f"{kind}-ubyte.gz").write_bytes(packed)
        resources.append((f"{kind}-ubyte.gz", hashlib.md5(packed).hexdigest()))
    monkeypatch.setattr(datasets.MNIST, "mirrors", [f"http://127.0.0.1:{server.server_port}/"])
    monkeypatch.setattr(datasets.MNIST, "resources", resources)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    yield folder
    server.shutdown()
    server.server_close()


def test_absent_data_is_downloaded_once(mirror, tmp_path):
    splits = read(tmp_path / "data", "mnist")
    shutil.rmtree(mirror)
    assert same(splits, read(tmp_path / "data", "mnist"))
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["MNIST"]


def test_a_download_cut_short_leaves_nothing_and_the_next_try_gets_all(mirror, tmp_path):
    last = mirror / f"{IDX_FILES[-1]}-ubyte.gz"
    whole = last.read_bytes()
    last.write_bytes(whole[:20])
    with pytest.raises(RequestError, match="cannot be downloaded"):
        read(tmp_path / "data", "mnist")
    assert not (tmp_path / "data").exists()
    last.write_bytes(whole)
    assert len(read(tmp_path / "data", "mnist")[1]) == 20


def test_a_damaged_file_is_replaced_by_a_download(mirror, tmp_path):
    splits = read(tmp_path / "data", "mnist")
    (tmp_path / "data" / "MNIST" / "raw" / f"{IDX_FILES[0]}-ubyte").write_bytes(b"\0\0\x08\x03torn")
    assert same(splits, read(tmp_path / "data", "mnist"))


def test_a_server_that_never_answers_is_given_up(tmp_path, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(datasets.MNIST, "mirrors", [f"http://127.0.0.1:{silent.getsockname()[1]}/"])
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        with pytest.raises(RequestError, match=r"cannot be downloaded .*timed out"):
            fetched.read_fetched(chosen("mnist"), tmp_path, timeout_s=0.3)


# packages that only some data sets need


@pytest.mark.parametrize(
    ("name", "module", "package", "extra"),
    [
        ("nyu_depth_v2", "h5py", "h5py", "nyu"),
        ("photo_patches", "skimage", "scikit-image", "photos"),
        ("stereo_motorcycle", "skimage", "scikit-image", "photos"),
    ],
)
def test_a_missing_package_is_named_with_the_extra_that_installs_it(
    name, module, package, extra, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(
        RequestError, match=rf"data '{name}': needs the package {package}, .*distillation-bench\[{extra}\]"
    ):
        fetch(chosen(name), tmp_path)


@pytest.mark.parametrize("name", DATASETS)
def test_every_data_set_names_its_reader(name):
    module, function = DATASETS[name].reader.split(".")
    assert callable(getattr(importlib.import_module(f"bench.data.{module}"), function))


# subsets and sizes


def test_the_named_mean_and_deviation_of_digits_are_those_of_the_training_images(tmp_path):
    pixels = read(tmp_path, "digits")[0].images.images.double() / 255
    assert float(pixels.mean()) == pytest.approx(DATASETS["digits"].mean[0], abs=1e-3)
    assert float(pixels.std()) == pytest.approx(DATASETS["digits"].std[0], abs=1e-3)


def digits_kept(**choice):
    """Return the positions of digits that a subset keeps."""
    (_, targets), _ = packaged.digits(chosen("digits"), None)
    return targets, divided(targets, resolve(DataChoice(name="digits", resize=32, **choice)))[0]


@pytest.mark.parametrize(
    ("choice", "count"),
    [
        ({"train_per_class": 20}, 20),
        ({"train_per_class": 90}, 90),
        ({"train_fraction": 0.25}, 22),
        ({"train_fraction": 1.0}, 90),
    ],
)
def test_a_subset_holds_the_right_count_of_each_class(choice, count, tmp_path):
    train, test = read(tmp_path, "digits", **choice)
    assert train.targets.bincount().tolist() == [count] * 10
    assert len(test) == 897


def test_a_fraction_that_rounds_to_nothing_keeps_one_image_of_each_class():
    targets, positions = digits_kept(train_fraction=0.001)
    assert targets[positions].bincount().tolist() == [1] * 10


def test_a_subset_is_always_the_same_whatever_was_drawn_before(tmp_path):
    """A change here is a change of every number on a subset."""
    torch.manual_seed(3)
    _, positions = digits_kept(train_per_class=20)
    assert hashlib.sha256(positions.numpy().tobytes()).hexdigest()[:16] == "eb04daa7fcb39393"


def test_a_smaller_subset_lies_within_a_larger_one():
    choices = [{"train_per_class": 1}, {"train_fraction": 0.1}, {"train_per_class": 20}, {"train_fraction": 0.5}, {}]
    subsets = [set(digits_kept(**choice)[1].tolist()) for choice in choices]
    assert all(small < large for small, large in itertools.pairwise(subsets))


def test_a_subsets_images_keep_their_labels_and_order(tmp_path):
    whole, _ = read(tmp_path, "digits")
    part, _ = read(tmp_path, "digits", train_per_class=20)
    _, positions = digits_kept(train_per_class=20)
    assert torch.equal(part.images.images, whole.images.images[positions])
    assert torch.equal(part.targets, whole.targets[positions])
    assert positions.tolist() == sorted(positions.tolist())


@pytest.mark.parametrize("size", [32, 40, 57])
def test_resize_is_torchvisions_antialiased_bilinear_one_bitwise(size, tmp_path, monkeypatch):
    written = write_cifar(tmp_path, "cifar10", monkeypatch)
    _, test = read(tmp_path, "cifar10", resize=size)
    assert torch.equal(test.images.images, tv.resize(written[-1][0], [size, size], antialias=True))


def test_images_given_by_position_are_those_asked_for():
    images = ResidentImages(torch.arange(5 * math.prod((3, 4, 4))).view(5, 3, 4, 4).to(torch.uint8), CPU)
    positions = [torch.tensor([3, 1]), torch.tensor([4])]
    batches = list(images.batches(positions))
    assert all(torch.equal(batch, images.images[chosen]) for batch, chosen in zip(batches, positions, strict=True))
