"""Data that cannot be passed on, read from stand-ins in the published file formats."""

import numpy as np
import pytest
import torch
from torchvision import datasets
from torchvision.transforms import functional as tv

from bench.data import DataChoice, resolve
from bench.data.batches import TrainingData
from bench.data.image_files import FileImages
from bench.data.images import MAX_RESIDENT_BYTES, ResidentImages, ScaledImages, load_data
from bench.data.nyu import CLASSES
from bench.spec import IGNORED
from bench.types import RequestError
from tests.data.published import NYU_NAMES, WNIDS, write_imagenet, write_nyu, write_stl10, write_tiny_imagenet

CPU = torch.device("cpu")


def read(root, name, workers=0, resident_bytes=MAX_RESIDENT_BYTES, **choice):
    """Return a data set's (training, test) splits."""
    return load_data(resolve(DataChoice(name=name, **choice)), root, CPU, workers, resident_bytes)


def all_images(split):
    return torch.cat(list(split.images.batches(torch.arange(len(split)).split(7))))


# STL-10


def test_stl10s_images_stand_upright_and_its_labels_count_from_zero(tmp_path):
    written = write_stl10(tmp_path)
    for split, name in zip(read(tmp_path, "stl10"), ("train", "test"), strict=True):
        assert torch.equal(all_images(split), torch.from_numpy(written[f"{name}_X"]))
        assert split.targets.tolist() == written[f"{name}_y"].tolist()


def test_stl10s_unlabelled_images_have_no_labels_and_are_tested_without(tmp_path):
    written = write_stl10(tmp_path)
    for split, name in zip(read(tmp_path, "stl10_unlabelled"), ("unlabeled", "test"), strict=True):
        assert torch.equal(all_images(split), torch.from_numpy(written[f"{name}_X"]))
        assert split.targets is None


@pytest.mark.parametrize("size", [32, 64])
def test_stl10_is_scaled_as_by_torchvision(size, tmp_path):
    written = write_stl10(tmp_path)
    train, _ = read(tmp_path, "stl10_unlabelled", resize=size)
    assert isinstance(train.images, ResidentImages)
    assert torch.equal(all_images(train), tv.resize(torch.from_numpy(written["unlabeled_X"]), [size] * 2))


def test_images_that_do_not_fit_stay_in_their_file_and_are_the_same(tmp_path):
    write_stl10(tmp_path)
    resident, _ = read(tmp_path, "stl10_unlabelled", resize=64, train_fraction=0.5)
    mapped, _ = read(tmp_path, "stl10_unlabelled", resident_bytes=0, resize=64, train_fraction=0.5)
    assert isinstance(mapped.images, ScaledImages)
    assert len(mapped) == 15
    assert torch.equal(all_images(mapped), all_images(resident))


def test_batches_of_images_without_labels_have_none_and_methods_are_told_so(tmp_path):
    write_stl10(tmp_path)
    spec = resolve(DataChoice(name="stl10_unlabelled", resize=32))
    data = TrainingData(spec, load_data(spec, tmp_path, CPU, 0)[0], CPU, spec)
    batches = list(data.epoch(0, 1, 1, 16))
    assert [batch.targets for batch in batches] == [None, None]
    assert (data.info.n, data.info.classes, data.info.targets) == (30, 10, None)


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("file", ["train_X.bin", "train_y.bin"])
def test_a_damaged_stl10_is_refused_with_its_files_and_place(file, tmp_path):
    write_stl10(tmp_path)
    path = tmp_path / "stl10_binary" / file
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(RequestError, match=rf"looked for train_X.bin, .*test_y.bin in {path.parent} and .*--data DIR"):
        read(tmp_path, "stl10")


# TinyImageNet


def decoded(file):
    return tv.pil_to_tensor(datasets.folder.default_loader(str(file)))


@pytest.mark.parametrize("workers", [0, 2])
def test_tiny_imagenets_images_have_the_classes_of_folders_and_annotations(workers, tmp_path):
    written = write_tiny_imagenet(tmp_path)
    order = sorted(WNIDS)
    for split, name in zip(read(tmp_path, "tiny_imagenet", workers), ("train", "val"), strict=True):
        expected = sorted((order.index(wnid), file) for file, wnid in written[name].items())
        assert split.targets.tolist() == [label for label, _ in expected]
        assert torch.equal(all_images(split), torch.stack([decoded(file) for _, file in expected]))


def test_a_grey_image_of_tiny_imagenet_is_repeated_to_three_channels(tmp_path):
    write_tiny_imagenet(tmp_path)
    grey = all_images(read(tmp_path, "tiny_imagenet")[0])[1]
    assert torch.equal(grey[0], grey[1])
    assert torch.equal(grey[0], grey[2])


def test_a_subset_of_tiny_imagenet_holds_as_many_of_each_class(tmp_path):
    write_tiny_imagenet(tmp_path)
    train, test = read(tmp_path, "tiny_imagenet", train_per_class=2)
    assert train.targets.tolist() == [0, 0, 1, 1, 2, 2]
    assert len(test) == 6


@pytest.mark.parametrize(
    ("name", "missing"), [("tiny_imagenet", "tiny-imagenet-200/wnids.txt"), ("imagenet", "imagenet/train")]
)
def test_absent_folders_are_named_with_what_to_do(name, missing, tmp_path):
    with pytest.raises(RequestError, match=rf"data '{name}': looked for .*{tmp_path}/{missing}.*--data DIR"):
        read(tmp_path, name)


def test_the_last_class_of_tiny_imagenet_is_read_whether_or_not_its_line_ends(tmp_path):
    write_tiny_imagenet(tmp_path)
    whole = read(tmp_path, "tiny_imagenet")[0].targets
    for name in ("wnids.txt", "val/val_annotations.txt"):
        file = tmp_path / "tiny-imagenet-200" / name
        file.write_text(file.read_text().rstrip("\n"))
    assert torch.equal(read(tmp_path, "tiny_imagenet")[0].targets, whole)


def test_a_folder_that_lacks_published_images_is_read_with_a_warning(tmp_path, caplog):
    write_tiny_imagenet(tmp_path)
    read(tmp_path, "tiny_imagenet")
    (message,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "found 3 classes, 12 training and 6 test images of 200, 100000 and 10000" in message


def test_a_validation_image_without_annotation_is_refused(tmp_path):
    write_tiny_imagenet(tmp_path)
    notes = tmp_path / "tiny-imagenet-200" / "val" / "val_annotations.txt"
    notes.write_text("".join(notes.read_text().splitlines(keepends=True)[1:]))
    with pytest.raises(RequestError, match=r"val_0\.JPEG: found no class of wnids.txt for it"):
        read(tmp_path, "tiny_imagenet")


# ImageNet


def test_imagenets_folders_are_the_classes_and_its_validation_images_the_test_split(tmp_path):
    written = write_imagenet(tmp_path)
    order = sorted(WNIDS)
    for split, name in zip(read(tmp_path, "imagenet"), ("train", "val"), strict=True):
        assert split.targets.tolist() == sorted(order.index(wnid) for wnid in written[name].values())


def test_imagenets_training_images_are_never_in_memory(tmp_path):
    write_imagenet(tmp_path)
    train, _ = read(tmp_path, "imagenet")
    assert isinstance(train.images, FileImages)


def test_imagenets_test_images_are_scaled_to_256_and_their_middle_cut_out(tmp_path):
    written = write_imagenet(tmp_path)
    files = sorted((wnid, file) for file, wnid in written["val"].items())
    expected = [
        tv.pil_to_tensor(tv.center_crop(tv.resize(datasets.folder.default_loader(str(file)), 256), 224))
        for _, file in files
    ]
    assert torch.equal(all_images(read(tmp_path, "imagenet")[1]), torch.stack(expected))


# NYU Depth V2


@pytest.fixture(scope="module")
def nyu(tmp_path_factory):
    """Return a data root with the stand-in, and its images, depths and labels."""
    root = tmp_path_factory.mktemp("nyu")
    return root, write_nyu(root)


def read_nyu_at_full_size(root):
    spec = resolve(DataChoice(name="nyu_depth_v2")).model_copy(update={"size": (480, 640)})
    return load_data(spec, root, CPU, workers=0)


def test_nyus_images_and_depth_stand_upright_in_the_published_split(nyu):
    root, (images, depths, _) = nyu
    for split, places in zip(read_nyu_at_full_size(root), ([0, 3, 5], [1, 2, 4]), strict=True):
        stored = all_images(split)
        assert stored.dtype == torch.int16
        assert torch.equal(stored[:, :3], torch.from_numpy(images[places].astype(np.int16)))
        assert torch.equal(stored[:, 3], torch.from_numpy(np.rint(1000 * depths[places]).astype(np.int16)))


def test_nyus_pixels_are_labelled_by_the_name_of_their_object(nyu):
    root, (_, _, labels) = nyu
    train, _ = read_nyu_at_full_size(root)
    classes = {"book": "books", "cabinet": "cabinet", "wall": "wall", "floor mat": "floor mat", "bag": "bag"}
    assert train.targets.dtype == torch.uint8
    for place, name in enumerate(("unlabelled", *NYU_NAMES)):
        found = train.targets.numpy()[labels[[0, 3, 5]] == place]
        assert set(found) == {CLASSES.index(classes[name]) if name in classes else IGNORED}, name


def test_nyu_has_37_classes(nyu):
    assert len(set(CLASSES)) == 37 == resolve(DataChoice(name="nyu_depth_v2")).classes


def test_nyu_is_halved_unless_told_otherwise_colours_smooth_depth_and_labels_picked(nyu):
    root, (images, _, _) = nyu
    full, _ = read_nyu_at_full_size(root)
    half, _ = read(root, "nyu_depth_v2")
    assert torch.equal(
        all_images(half)[:, :3].to(torch.uint8), tv.resize(torch.from_numpy(images[[0, 3, 5]]), [240, 320])
    )
    assert torch.equal(all_images(half)[:, 3], all_images(full)[:, 3, 1::2, 1::2])
    assert torch.equal(half.targets, full.targets[:, 1::2, 1::2])


def test_a_missing_file_of_nyu_is_named_with_what_to_do(tmp_path):
    write_nyu(tmp_path, train=(1,), test=(2,))
    file = tmp_path / "nyu_depth_v2" / "nyu_depth_v2_labeled.mat"
    file.unlink()
    with pytest.raises(
        RequestError, match=f"data 'nyu_depth_v2': looked for the file {file}, which is missing.*--data"
    ):
        read(tmp_path, "nyu_depth_v2")


@pytest.mark.parametrize("name", ["nyu_depth_v2_labeled.mat", "splits.mat"])
def test_a_damaged_file_of_nyu_is_named(name, tmp_path):
    write_nyu(tmp_path, train=(1,), test=(2,))
    file = tmp_path / "nyu_depth_v2" / name
    file.write_bytes(b"torn" * 50)
    with pytest.raises(RequestError, match=f"looked for the file {file}, which cannot be read"):
        read(tmp_path, "nyu_depth_v2")
