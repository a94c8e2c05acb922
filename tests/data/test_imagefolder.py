"""Image folders: any image, in memory or streamed by worker processes, bitwise the same."""

import contextlib
import hashlib
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets
from torchvision.transforms import functional as tv

from bench.data import DataChoice, resolve
from bench.data.batches import TrainingData
from bench.data.image_files import FileImages, read_image
from bench.data.images import MAX_RESIDENT_BYTES, ResidentImages, load
from bench.types import RequestError

CPU = torch.device("cpu")
MODES = {"RGB": "png", "L": "png", "RGBA": "png", "P": "png", "LA": "png", "1": "png", "CMYK": "jpg", "YCbCr": "jpeg"}
SIZES = ((40, 36), (36, 40), (64, 33), (90, 90))  # (width, height)

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more workers than the machine has cores


def write_image(path, mode="RGB", size=(40, 36), seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)
    return path


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "birds")


def write_folder(root):
    """Write a folder with three classes, 12 training and 4 test images each, of many kinds and sizes."""
    number = 0
    for split, count in (("train", 12), ("test", 4)):
        for name in ("wren", "auk", "Owl"):
            for index in range(count):
                mode, ending = list(MODES.items())[number % len(MODES)]
                write_image(root / split / name / f"{index}.{ending}", mode, SIZES[number % len(SIZES)], seed=number)
                number += 1
    return root


def choose(folder, **changes):
    return DataChoice(
        name="imagefolder", path=str(folder), mean=(0.5,) * 3, std=(0.2,) * 3, augment="crop_flip", resize=32
    ).model_copy(update=changes)


def read(folder, workers=0, resident_bytes=MAX_RESIDENT_BYTES, **changes):
    return load(resolve(choose(folder, **changes)), Path("unused"), CPU, workers, resident_bytes)


def all_images(split):
    return torch.cat(list(split.images.batches(torch.arange(len(split)).split(7))))


def epoch_of(folder, workers, resident_bytes=MAX_RESIDENT_BYTES):
    """Return all that an epoch's batches hold."""
    spec = resolve(choose(folder))
    train, _ = load(spec, Path("unused"), CPU, workers, resident_bytes)
    batches = list(TrainingData(spec, train, CPU, spec).epoch(3, 1, 2, batch_size=5))
    return [torch.cat([getattr(b, field) for b in batches]) for field in ("images", "targets", "indices")]


# what is read


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", SIZES[:2])
def test_an_image_of_any_kind_is_read_and_scaled_as_by_torchvision_bitwise(mode, size, tmp_path):
    path = write_image(tmp_path / f"image.{MODES[mode]}", mode, size)
    rgb = datasets.folder.default_loader(str(path))
    assert torch.equal(read_image(str(path), (size[1], size[0])), tv.pil_to_tensor(rgb))
    assert torch.equal(read_image(str(path), (48, 33)), tv.pil_to_tensor(tv.resize(rgb, [48, 33], antialias=True)))


def test_classes_and_files_come_in_the_order_of_their_names(folder):
    theirs = datasets.ImageFolder(
        folder / "train", transform=lambda image: tv.pil_to_tensor(tv.resize(image, [32, 32]))
    )
    train, _ = read(folder)
    ours = all_images(train)
    assert theirs.classes == ["Owl", "auk", "wren"]
    assert sorted(zip(train.targets.tolist(), map(torch.Tensor.tolist, ours), strict=True)) == sorted(
        (label, image.tolist()) for image, label in theirs
    )


def test_the_first_images_size_is_taken_where_none_is_asked_for(folder):
    spec = resolve(choose(folder, resize=None))
    train, test = load(spec, Path("unused"), CPU, workers=0)
    first = Image.open(folder / "train" / "Owl" / "0.png")
    assert spec.size == (first.height, first.width)
    assert all_images(train).shape == (36, 3, *spec.size)
    assert all_images(test).shape == (12, 3, *spec.size)


def test_the_test_split_may_be_called_val(folder):
    expected = all_images(read(folder)[1])
    (folder / "test").rename(folder / "val")
    assert torch.equal(all_images(read(folder)[1]), expected)


def test_a_test_split_may_lack_a_class_and_keeps_its_labels(folder):
    shutil.rmtree(folder / "test" / "auk")
    assert read(folder)[1].targets.bincount().tolist() == [4, 0, 4]


@pytest.mark.parametrize(("choice", "count"), [({"train_per_class": 5}, 5), ({"train_fraction": 0.25}, 3)])
def test_a_subset_takes_some_training_images_of_each_class_and_all_test_images(choice, count, folder):
    train, test = read(folder, **choice)
    assert train.targets.tolist() == [0] * count + [1] * count + [2] * count
    assert len(test) == 12


def test_a_smaller_subset_of_a_folder_lies_within_a_larger_one(folder):
    small, large = (
        {image.numpy().tobytes() for image in all_images(read(folder, train_per_class=n)[0])} for n in (4, 8)
    )
    assert small < large


def test_files_that_are_no_images_by_name_are_not_looked_at(folder):
    spec = resolve(choose(folder))
    (folder / "train" / "auk" / "notes.txt").write_text("seen at dawn")
    (folder / "train" / "README").write_text("birds")
    assert resolve(choose(folder)) == spec


# streamed or in memory


def test_images_that_fit_lie_in_memory_and_others_are_streamed(folder):
    bytes_of_training = 36 * 3 * 32 * 32
    assert all(isinstance(split.images, ResidentImages) for split in read(folder, resident_bytes=bytes_of_training))
    too_few = read(folder, resident_bytes=bytes_of_training - 1)
    assert [type(split.images) for split in too_few] == [FileImages, ResidentImages]


def test_streamed_batches_are_those_from_memory_bitwise_for_any_number_of_workers(folder):
    resident = epoch_of(folder, workers=2)
    for workers in (0, 1, 3):
        streamed = epoch_of(folder, workers, resident_bytes=0)
        assert all(torch.equal(one, other) for one, other in zip(resident, streamed, strict=True)), workers


SCRIPT = """
import hashlib, sys, time
from pathlib import Path

import torch

from bench.data import DataChoice, images, resolve


def main():
    half = (0.5,) * 3
    choice = DataChoice(name="imagefolder", path=sys.argv[1], mean=half, std=half, augment="none", resize=32)
    train, _ = images.load(resolve(choice), Path("unused"), torch.device("cpu"), workers=2, resident_bytes=0)
    digest = hashlib.sha256()
    for batch in train.images.batches(torch.arange(len(train)).split(2)):
        digest.update(batch.numpy().tobytes())
    print(digest.hexdigest(), flush=True)
    for batch in train.images.batches(torch.arange(len(train)).split(2)):
        print("begun", flush=True)
        time.sleep(600)


if __name__ == "__main__":
    main()
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    """Return a folder of images, and a script started elsewhere that has streamed them once and begins again."""
    place = tmp_path_factory.mktemp("script")
    folder = write_folder(place / "birds")
    (place / "script.py").write_text(SCRIPT)
    (place / "elsewhere").mkdir()
    (place / "elsewhere" / "birds").symlink_to(folder)
    command = [sys.executable, "../script.py", "birds"]
    with subprocess.Popen(command, cwd=place / "elsewhere", stdout=subprocess.PIPE, text=True) as process:
        yield folder, process, process.stdout.readline().strip()
        process.kill()


def test_a_script_started_anywhere_streams_the_same_images(script):
    folder, _, digest = script
    assert digest == hashlib.sha256(all_images(read(folder)[0]).numpy().tobytes()).hexdigest()


# worker processes


def children_of(process):
    """Return the ids of the living processes that a process has started."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # gone meanwhile
            state, parent = stat.read_text().rpartition(") ")[2].split()[:2]
            if int(parent) == process and state != "Z":
                found.append(int(stat.parent.name))
    return found


def workers_of(process):
    """Return the ids of a process's workers: children of a child, the server that they are forks of."""
    servers = [child for child in children_of(process) if b"forkserver" in Path(f"/proc/{child}/cmdline").read_bytes()]
    return [worker for child in servers for worker in children_of(child)]


def wait_until(condition, seconds=20.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it does not happen"
        time.sleep(0.05)


@pytest.fixture
def streamed(folder):
    spec = resolve(choose(folder))
    return TrainingData(spec, read(folder, workers=2, resident_bytes=0)[0], CPU, spec)


def test_workers_end_with_the_epoch(streamed):
    seen = [len(workers_of(os.getpid())) for _ in streamed.epoch(0, 1, 1, batch_size=4)]
    assert seen[0] == 2
    wait_until(lambda: not workers_of(os.getpid()))


def test_an_epoch_that_its_consumer_breaks_off_leaves_no_worker(streamed):
    def consume():
        for _ in streamed.epoch(0, 1, 1, batch_size=4):
            assert len(workers_of(os.getpid())) == 2
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        consume()
    wait_until(lambda: not workers_of(os.getpid()))


def test_a_killed_process_takes_its_workers_with_it(script):
    _, process, _ = script
    assert process.stdout.readline() == "begun\n"
    workers = workers_of(process.pid)
    process.kill()
    assert len(workers) == 2
    wait_until(lambda: not any(Path(f"/proc/{worker}").exists() for worker in workers))


# broken images


def broken(folder, name, content):
    path = folder / "train" / "auk" / name
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("limit", [0, 2 << 30], ids=["streamed", "resident"])
def test_a_broken_image_is_one_message_that_names_the_file(limit, workers, folder):
    path = broken(folder, "5.png", write_image(folder.parent / "whole.png").read_bytes()[:-400])
    with pytest.raises(RequestError) as error:
        all_images(read(folder, workers, limit)[0])
    assert str(error.value).startswith(f"{path}: cannot be read as an image: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n"])
def test_a_file_that_is_no_image_is_named(content, folder):
    path = broken(folder, "0.gif", content)
    with pytest.raises(RequestError, match=f"{path}: cannot be read as an image"):
        all_images(read(folder)[0])


def test_a_first_image_that_is_broken_is_named_when_its_size_is_asked_for(folder):
    path = folder / "train" / "Owl" / "0.png"
    path.write_bytes(b"no image")
    with pytest.raises(RequestError, match=f"{path}: cannot be read as an image"):
        resolve(choose(folder, resize=None))


@pytest.mark.filterwarnings("ignore")  # Pillow warns of what it can still read
@pytest.mark.parametrize("ending", ["png", "jpg", "gif", "bmp", "ppm", "tif", "webp"])
def test_a_damaged_image_is_read_or_refused_and_nothing_else(ending, tmp_path):
    whole = write_image(tmp_path / f"image.{ending}").read_bytes()
    path, moment = tmp_path / f"damaged.{ending}", random.Random(0)
    for _ in range(60):
        damaged = bytearray(whole[: moment.choice([len(whole), moment.randrange(len(whole))])])
        for _ in range(moment.randrange(4)):
            damaged[moment.randrange(min(200, len(damaged)))] = moment.randrange(256) if damaged else 0
        path.write_bytes(damaged)
        with contextlib.suppress(RequestError):
            assert read_image(str(path), (32, 32)).shape == (3, 32, 32)


# wrong folders


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda f: shutil.rmtree(f), r"looked for the folder .*birds/train"),
        (lambda f: shutil.rmtree(f / "test"), r"looked for the folder .*birds/test or .*birds/val"),
        (lambda f: (f / "train" / "crow").mkdir(), r"train: found no image in crow"),
        (lambda f: [shutil.rmtree(f / "train" / name) for name in ("auk", "wren")], r"train: found 1 class folders"),
        (
            lambda f: write_image(f / "test" / "crow" / "0.png"),
            r"classes of the test split .* not in .*: crow",
        ),
        (lambda f: (f / "test" / "auk" / "9.png").symlink_to("gone"), r"auk/9.png: cannot be read: No such file"),
    ],
    ids=["no folder", "no test split", "an empty class", "one class", "a test class of its own", "a dangling link"],
)
def test_a_folder_that_lacks_what_it_needs_is_refused_with_the_place(break_it, message, folder):
    break_it(folder)
    with pytest.raises(RequestError, match=message):
        resolve(choose(folder))


def test_more_images_a_class_than_there_are_are_refused(folder):
    with pytest.raises(RequestError, match=r"train_per_class is 13, but .*birds has 12 in some class"):
        resolve(choose(folder, train_per_class=13))


def test_images_smaller_than_the_networks_take_need_a_resize(tmp_path):
    for split in ("train", "test"):
        for name in ("a", "b"):
            write_image(tmp_path / split / name / "0.png", size=(40, 28))
    with pytest.raises(RequestError, match="add resize: 32"):
        resolve(choose(tmp_path, resize=None))
    assert resolve(choose(tmp_path)).size == (32, 32)


# identity


def test_a_folders_identity_does_not_depend_on_its_place(folder, tmp_path):
    spec = resolve(choose(folder))
    moved = resolve(choose(shutil.copytree(folder, tmp_path / "elsewhere" / "vögel")))
    assert moved.path != spec.path
    assert moved.fingerprint == spec.fingerprint
    assert moved.key == spec.key


def test_a_relative_path_is_the_same_folder(folder, monkeypatch):
    spec = resolve(choose(folder))
    monkeypatch.chdir(folder.parent)
    assert resolve(choose("birds")) == spec
    assert resolve(choose("./birds/../birds")).path == folder


@pytest.mark.parametrize(
    "change",
    [
        lambda f: (f / "train" / "auk" / "9.png").rename(f / "train" / "auk" / "99.png"),
        lambda f: [(f / split / "auk").rename(f / split / "raven") for split in ("train", "test")],
        lambda f: (f / "train" / "auk" / "9.png").rename(f / "test" / "auk" / "9.png"),
        lambda f: (f / "train" / "auk" / "9.png").write_bytes(b"another size"),
        lambda f: write_image(f / "test" / "wren" / "9.png"),
    ],
    ids=["a file's name", "a class's name", "a file's split", "a file's size", "a new file"],
)
def test_another_content_is_another_identity(change, folder):
    write_image(folder / "train" / "auk" / "9.png")
    before = resolve(choose(folder))
    change(folder)
    assert resolve(choose(folder)).fingerprint != before.fingerprint
