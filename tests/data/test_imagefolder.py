"""Image folders: any image, in memory or streamed by worker processes, bitwise the same."""

import contextlib
import hashlib
import os
import random
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision import datasets
from torchvision.transforms import functional as tv

from bench.data import DataChoice, contents, resolve
from bench.data.batches import TrainingData
from bench.data.contents import look_at, measure
from bench.data.folders import list_divided
from bench.data.image_files import FileImages, read_image
from bench.data.images import MAX_RESIDENT_BYTES, ResidentImages, load_data
from bench.types import RequestError
from tests.few import short_or_whole

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
    return load_data(resolve(choose(folder, **changes)), Path("unused"), CPU, workers, resident_bytes)


def all_images(split):
    return torch.cat(list(split.images.batches(torch.arange(len(split)).split(7))))


def epoch_of(folder, workers, resident_bytes=MAX_RESIDENT_BYTES):
    """Return all that an epoch's batches hold."""
    spec = resolve(choose(folder))
    train, _ = load_data(spec, Path("unused"), CPU, workers, resident_bytes)
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


def test_the_size_of_all_images_is_taken_where_none_is_asked_for(folder):
    for path in folder.rglob("*.*"):
        Image.open(path).resize((36, 40)).save(path)
    spec = resolve(choose(folder, resize=None))
    train, test = load_data(spec, Path("unused"), CPU, workers=0)
    assert spec.size == (40, 36)
    assert all_images(train).shape == (36, 3, *spec.size)
    assert all_images(test).shape == (12, 3, *spec.size)


def test_images_of_several_sizes_need_a_resize_and_two_are_named(folder):
    place = re.escape(str(folder))
    with pytest.raises(RequestError, match=f"of 4 sizes .*{place}/train/Owl/0.png and .*: add resize: N"):
        resolve(choose(folder, resize=None))


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
    for workers in short_or_whole((0, 2), (0, 1, 3)):  # a worker loads torch
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
    train, _ = images.load_data(resolve(choice), Path("unused"), torch.device("cpu"), workers=2, resident_bytes=0)
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


# more than 8 bits


def grey(place, name, values):
    """Write values of 16 bits as an image file in the way that its name ends."""
    path = place / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".pgm":
        path.write_bytes(b"P5 %d %d 65535\n" % values.shape[::-1] + values.astype(">u2").tobytes())
    else:
        Image.fromarray(values).save(path)
    return str(path)


@pytest.mark.parametrize("ending", ["png", "tif", "pgm"])
@given(st.lists(st.integers(0, 65_535), min_size=4, max_size=4))
@settings(max_examples=15, deadline=None)
def test_16_bits_are_scaled_to_8(ending, tmp_path_factory, values):
    file = grey(tmp_path_factory.getbasetemp(), f"grey.{ending}", np.array(values, np.uint16).reshape(2, 2))
    expected = torch.tensor(values).reshape(2, 2).div(257).round().to(torch.uint8)
    assert torch.equal(read_image(file, (2, 2)), expected.expand(3, 2, 2))


@pytest.mark.parametrize(
    "values",
    [np.ones((40, 40), np.float32), np.full((40, 40), 300, np.int32), np.full((40, 40), -3, np.int16)],
    ids=["fractions", "32 bits", "signed"],
)
def test_pixels_of_no_known_range_are_refused_before_anything_is_trained(values, folder):
    path = folder / "train" / "auk" / "x.tif"
    Image.fromarray(values.astype(np.int32) if values.dtype == np.int16 else values).save(path)
    with pytest.raises(
        RequestError, match=f"{path}: its pixels are .*range is not known: convert the images to 8 or 16"
    ):
        resolve(choose(folder))


def test_what_is_read_scaled_converted_and_left_out_is_told(folder, caplog):
    grey(folder, "train/auk/x.png", np.zeros((40, 40), np.uint16))
    write_image(folder / "train" / ".ipynb_checkpoints" / "0.png")
    (folder / "train" / "auk" / "notes.txt").write_text("seen at dawn")
    with caplog.at_level("INFO"):
        read(folder)
    said = caplog.text
    assert "3 classes, 37 training and 12 test images of 5 sizes, scaled to 32x32" in said
    assert "1 image(s) of 16 or 12 bits (mode I;16) are scaled to 8 bits" in said
    assert "being no classes: .ipynb_checkpoints" in said
    assert "1 file(s) whose names do not end as an image's" in said


def test_frames_and_turns_that_are_not_read_are_told(folder, caplog):
    first, *others = (Image.new("L", (40, 40), 80 * number) for number in range(3))
    first.save(folder / "train/auk/x.gif", save_all=True, append_images=others)
    first.save(folder / "train/auk/x.tif", save_all=True, append_images=others)
    turned = Image.Exif()
    turned[274] = 6
    first.save(folder / "train/auk/x.jpg", exif=turned)
    with caplog.at_level("INFO"):
        read(folder)
    assert caplog.text.count("1 image(s) have several frames, of which the first is read") == 2  # of modes L and P
    assert "1 image(s) are to be turned when they are shown" in caplog.text


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


def test_a_named_pipe_among_the_images_is_refused_at_once(folder):
    os.mkfifo(folder / "train" / "auk" / "z.png")
    with pytest.raises(RequestError, match=r"z\.png: is a FIFO"):
        resolve(choose(folder))


def test_a_broken_image_is_named_when_the_folder_is_looked_at(folder):
    path = folder / "train" / "Owl" / "0.png"
    path.write_bytes(b"no image")
    with pytest.raises(RequestError, match=f"{path}: cannot be read as an image"):
        resolve(choose(folder))


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
        (
            lambda f: write_image(f / "train" / "auk" / "old" / "0.png"),
            r"auk/old/0.png: images in folders within a class",
        ),
        (lambda f: write_image(f / "train" / "0.png"), r"train/0.png: is in none of the class folders"),
        (
            lambda f: [shutil.rmtree(f / "test"), write_image(f / "test" / "0.png")],
            r"birds/test: found 0 class folders",
        ),
    ],
    ids=[
        "no folder",
        "no test split",
        "an empty class",
        "one class",
        "a test class of its own",
        "a dangling link",
        "a folder in a class",
        "an image in no class",
        "a test split without classes",
    ],
)
def test_a_folder_that_lacks_what_it_needs_is_refused_with_the_place(break_it, message, folder):
    break_it(folder)
    with pytest.raises(RequestError, match=message):
        resolve(choose(folder))


def test_more_images_a_class_than_there_are_are_refused(folder):
    with pytest.raises(RequestError, match=r"train_per_class is 13, but .*birds has 12 in some class"):
        resolve(choose(folder, train_per_class=13))


def test_images_smaller_than_the_networks_were_made_for_need_a_resize(tmp_path):
    for split in ("train", "test"):
        for name in ("a", "b"):
            write_image(tmp_path / split / name / "0.png", size=(40, 28))
    with pytest.raises(RequestError, match="add resize: 32"):
        resolve(choose(tmp_path, resize=None))
    assert resolve(choose(tmp_path, resize=16)).size == (16, 16)


# identity


def exchange(one, other):
    between = one.with_name("between")
    for path, name in ((one, between), (other, one), (between, other)):
        path.rename(name)


@pytest.mark.parametrize("name", [".ipynb_checkpoints", "__MACOSX", "@eaDir", ".git"])
def test_a_hidden_folder_is_no_class(name, folder):
    before = resolve(choose(folder))
    write_image(folder / "train" / name / "0.png")
    write_image(folder / "train" / "auk" / name / "0.png")
    (folder / "train" / "auk" / "._0.png").write_bytes(b"what macOS writes beside a file")
    assert resolve(choose(folder)) == before


def test_a_test_split_without_classes_gives_way_to_val(folder):
    before = resolve(choose(folder))
    (folder / "test").rename(folder / "val")
    write_image(folder / "test" / "0.png")
    assert resolve(choose(folder)) == before


@pytest.fixture
def unchanged(folder, tmp_path, monkeypatch):
    """Return a folder whose files changed long enough ago for a look at them to be remembered in `tmp_path`/cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for path in folder.rglob("*.*"):
        os.utime(path, (1e9, 1e9))
    return folder


def look(folder):
    """Return what the files of a folder hold, which is remembered however few they are."""
    return look_at(list_divided(folder, None), folder, remembered_bytes=0)


def test_files_that_have_not_changed_are_not_read_again(unchanged):
    before = look(unchanged)
    for path in unchanged.rglob("*.*"):
        status = path.stat()
        path.write_bytes(b"?" * status.st_size)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert look(unchanged) == before
    os.utime(unchanged / "train" / "auk" / "1.png")
    with pytest.raises(RequestError, match=r"1\.png: cannot be read as an image"):
        look(unchanged)


def test_files_that_have_just_changed_are_read_again(unchanged):
    changed = unchanged / "train" / "auk" / "1.png"
    os.utime(changed, (time.time() + 60, time.time() + 60))  # still new after a pause of this process
    look(unchanged)
    status = changed.stat()
    changed.write_bytes(b"?" * status.st_size)
    os.utime(changed, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(RequestError, match=r"1\.png: cannot be read as an image"):
        look(unchanged)


@pytest.mark.parametrize(
    "damage", [lambda b: b"", lambda b: b[:-9], lambda b: b.replace(b"RGB", b"RGX", 1), lambda b: b"["]
)
def test_a_damaged_memory_of_a_folder_is_not_used(damage, unchanged, tmp_path):
    before = look(unchanged)
    (file,) = (tmp_path / "cache" / "distillation-bench").iterdir()
    file.write_bytes(damage(file.read_bytes()))
    assert look(unchanged) == before


def test_a_small_folder_leaves_nothing_in_the_users_cache(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    resolve(choose(folder))
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("key", ["mean", "std"])
def test_a_mean_or_deviation_of_0_to_255_is_refused_with_the_divided_values(key, folder):
    choice = choose(folder, **{key: (127.5, 51.0, 102.0)})
    assert choice.problems() == [
        f"{key} is [127.5, 51.0, 102.0], but images are in [0, 1] here: divide by 255, {key}: [0.5, 0.2, 0.4]"
    ]


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
        lambda f: write_image(f / "train" / "auk" / "9.png", size=(50, 50)),
        lambda f: write_image(f / "test" / "wren" / "9.png"),
        lambda f: exchange(f / "train" / "auk" / "7.bmp", f / "train" / "auk" / "8.bmp"),
        lambda f: write_image(f / "train" / "auk" / "8.bmp", seed=9),
    ],
    ids=[
        "a file's name",
        "a class's name",
        "a file's split",
        "a file's size",
        "a new file",
        "two files' names",
        "pixels",
    ],
)
def test_another_content_is_another_identity(change, folder):
    write_image(folder / "train" / "auk" / "9.png")
    for seed in (7, 8):
        write_image(folder / "train" / "auk" / f"{seed}.bmp", seed=seed)
    before = resolve(choose(folder))
    change(folder)
    assert resolve(choose(folder)).fingerprint != before.fingerprint


# in one line


def in_one_line(folder, **changes):
    return DataChoice(name="imagefolder", path=str(folder), **changes)


@pytest.fixture
def flat(tmp_path):
    """Write class folders without splits: 10 images of each of two classes, of one size."""
    for number in range(20):
        write_image(tmp_path / "flat" / ("cat", "dog")[number % 2] / f"{number // 2}.png", seed=number)
    return tmp_path / "flat"


def test_mean_and_deviation_are_those_of_the_training_images(folder):
    files = sorted((folder / "train").rglob("*.*"))
    images = [np.asarray(Image.open(file).convert("RGB"), np.float64) / 255 for file in files]
    mean = np.mean([image.mean((0, 1)) for image in images], 0)
    std = np.sqrt(np.mean([(image**2).mean((0, 1)) for image in images], 0) - mean**2)
    spec = resolve(in_one_line(folder, resize=32))
    assert spec.mean == pytest.approx(mean, abs=5.1e-5)
    assert spec.std == pytest.approx(std, abs=5.1e-5)
    assert all(round(value, 4) == value for value in spec.mean + spec.std)
    assert spec.augment == "crop"


def test_measured_values_give_the_run_that_stated_ones_give(folder):
    measured = resolve(in_one_line(folder, resize=32))
    assert resolve(in_one_line(folder, resize=32, mean=measured.mean, std=measured.std, augment="crop")) == measured


def test_measured_values_are_remembered_until_an_image_changes(unchanged, monkeypatch):
    def measured():
        return measure(list_divided(unchanged, None), look(unchanged), unchanged, remembered_bytes=0)

    before = measured()
    monkeypatch.setattr(contents, "_moments", None)  # would fail if called
    assert measured() == before
    write_image(unchanged / "train" / "auk" / "new.png", seed=99)
    with pytest.raises(TypeError):
        measured()


def test_images_of_one_colour_have_no_deviation_to_measure(tmp_path):
    for split, name in [(split, name) for split in ("train", "test") for name in "ab"]:
        (tmp_path / split / name).mkdir(parents=True)
        Image.new("RGB", (40, 40), (9, 9, 9)).save(tmp_path / split / name / "0.png")
    with pytest.raises(RequestError, match=r"the same value in all training images.*state 'mean' and 'std'"):
        resolve(in_one_line(tmp_path))


def test_a_mean_without_a_deviation_is_refused(folder):
    assert in_one_line(folder, mean=(0.5,) * 3).problems() == [
        "give both 'mean' and 'std', or neither: they are then measured"
    ]


def test_several_sizes_ask_for_a_resize_with_what_was_found(folder):
    with pytest.raises(RequestError, match=r"images of 4 sizes \(height x width\), such as .*: add resize: N"):
        resolve(in_one_line(folder))


@pytest.mark.parametrize("below_train", [False, True])
def test_a_share_of_each_class_is_for_testing(below_train, flat):
    if below_train:
        (flat / "train").mkdir()
        for name in ("cat", "dog"):
            (flat / name).rename(flat / "train" / name)
    train, test = load_data(resolve(in_one_line(flat, test_fraction=0.3)), Path("unused"), CPU, workers=0)
    assert torch.bincount(train.targets).tolist() == [7, 7]
    assert torch.bincount(test.targets).tolist() == [3, 3]
    seen = {image.numpy().tobytes() for split in (train, test) for image in all_images(split)}
    assert len(seen) == 20


def test_a_larger_share_contains_a_smaller_one(flat):
    small, large = ({*list_divided(flat, share)["test"]["dog"]} for share in (0.3, 0.6))
    assert small < large


def test_shares_are_runs_of_their_own(flat):
    assert len({resolve(in_one_line(flat, test_fraction=share)).key for share in (0.2, 0.3)}) == 2


def test_a_share_next_to_a_test_split_is_refused(folder):
    with pytest.raises(RequestError, match=r"test_fraction is 0.2, but there is the folder .*test: leave one out"):
        resolve(in_one_line(folder, test_fraction=0.2, resize=32))


def test_a_folder_without_a_test_split_is_told_of_the_share(folder):
    shutil.rmtree(folder / "test")
    with pytest.raises(RequestError, match=r"To test on a share of each class instead, add test_fraction: 0\.2"):
        resolve(in_one_line(folder, resize=32))


def test_class_folders_without_splits_are_told_of_the_share(flat):
    with pytest.raises(RequestError, match=r"flat/train, and found none. If the classes are the folders cat, dog, add"):
        resolve(in_one_line(flat))


def test_a_class_of_one_image_cannot_be_shared(flat):
    write_image(flat / "emu" / "0.png")
    with pytest.raises(RequestError, match=r"there is one image in .*class emu: 2 are needed"):
        resolve(in_one_line(flat, test_fraction=0.2))
