"""Small stand-ins for data that cannot be passed on, each written in exactly the published file format.

Each function writes below a data root, as `--data` names it, and returns what it wrote.
"""

from pathlib import Path

import h5py
import numpy as np
from PIL import Image
from scipy.io import savemat

WNIDS = ("n02002724", "n01443537", "n03584829")  # not in the order of their names, as in TinyImageNet's wnids.txt
NYU_NAMES = ("book", "bottle", "cabinet", "wall", "floor mat", "bag", "mug tree")


def pixels(seed, *shape):
    """Return uint8 noise that is the same for a seed."""
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def smooth(seed, height, width):
    """Return a colour image (height, width, 3) uint8 of large spots, which JPEG keeps well."""
    spots = Image.fromarray(pixels(seed, 4, 5, 3))
    return np.asarray(spots.resize((width, height), Image.Resampling.BICUBIC))


def write_stl10(root, train=40, test=20, unlabelled=30):
    """Write `stl10_binary/`; return images (n, 3, 96, 96) and labels from 0 by the files' names."""
    folder = Path(root) / "stl10_binary"
    folder.mkdir(parents=True, exist_ok=True)
    written = {}
    for seed, (name, count) in enumerate({"train": train, "test": test, "unlabeled": unlabelled}.items()):
        images = written[f"{name}_X"] = pixels(seed, count, 3, 96, 96)
        images.transpose(0, 1, 3, 2).tofile(folder / f"{name}_X.bin")  # columns come before rows
        if name != "unlabeled":
            labels = written[f"{name}_y"] = np.arange(count) % 10
            (labels + 1).astype(np.uint8).tofile(folder / f"{name}_y.bin")
    return written


def write_tiny_imagenet(root, train=4, val=6):
    """Write `tiny-imagenet-200/`, some of it grey; return each image file with the id of its class, by split."""
    folder = Path(root) / "tiny-imagenet-200"
    written = {"train": {}, "val": {}}
    for number, wnid in enumerate(WNIDS):
        place = folder / "train" / wnid / "images"
        place.mkdir(parents=True)
        (folder / "train" / wnid / f"{wnid}_boxes.txt").write_text(f"{wnid}_0.JPEG\t0\t10\t63\t58\n")
        for index in range(train):
            file = place / f"{wnid}_{index}.JPEG"
            image = Image.fromarray(smooth(100 * number + index, 64, 64))
            (image.convert("L") if index == 1 else image).save(file)
            written["train"][file] = wnid
    place = folder / "val" / "images"
    place.mkdir(parents=True)
    lines = []
    for index in range(val):
        file, wnid = place / f"val_{index}.JPEG", WNIDS[(index * 2) % len(WNIDS)]
        Image.fromarray(smooth(1000 + index, 64, 64)).save(file)
        lines.append(f"{file.name}\t{wnid}\t0\t32\t44\t62\n")
        written["val"][file] = wnid
    (folder / "val" / "val_annotations.txt").write_text("".join(lines))
    (folder / "wnids.txt").write_text("".join(f"{wnid}\n" for wnid in WNIDS))
    (folder / "words.txt").write_text("".join(f"{wnid}\ta thing\n" for wnid in WNIDS))
    return written


def write_imagenet(root, train=4, val=2):
    """Write `imagenet/`, images of many sizes, one in CMYK; return each image file with the id of its class, by split.

    The test images, of which nobody knows the classes, lie beside the others.
    """
    folder = Path(root) / "imagenet"
    written, number = {"train": {}, "val": {}}, 0
    for split, count in (("train", train), ("val", val)):
        for wnid in WNIDS:
            (folder / split / wnid).mkdir(parents=True)
            for index in range(count):
                number += 1
                name = f"{wnid}_{index}" if split == "train" else f"ILSVRC2012_val_{number:08d}"
                file = folder / split / wnid / f"{name}.JPEG"
                image = Image.fromarray(smooth(number, 60 + 17 * (number % 5), 75 + 29 * (number % 4)))
                (image.convert("CMYK") if number == 2 else image).save(file)
                written[split][file] = wnid
    (folder / "test").mkdir()
    Image.fromarray(smooth(0, 60, 60)).save(folder / "test" / "ILSVRC2012_test_00000001.JPEG")
    return written


def write_nyu(root, train=(1, 4, 6), test=(2, 3, 5)):
    """Write `nyu_depth_v2/`, split as said (counted from 1); return images, depths, labels, all rows before columns.

    Images are (n, 3, 480, 640) uint8, depths (n, 480, 640) float32 in metres, labels (n, 480, 640) uint16 with 0 for
    none, else a place in `NYU_NAMES`, counted from 1.
    """
    folder = Path(root) / "nyu_depth_v2"
    folder.mkdir(parents=True)
    count = len(train) + len(test)
    random = np.random.default_rng(7)
    images = np.stack([smooth(seed, 480, 640).transpose(2, 0, 1) for seed in range(count)])
    depths = random.uniform(0.7, 9.99, (count, 480, 640)).astype(np.float32)
    labels = random.integers(0, len(NYU_NAMES) + 1, (count, 480, 640)).astype(np.uint16)
    with h5py.File(folder / "nyu_depth_v2_labeled.mat", "w", userblock_size=512) as file:
        file["images"] = images.transpose(0, 1, 3, 2)  # MATLAB's columns come first in HDF5
        file["depths"] = depths.transpose(0, 2, 1)
        file["labels"] = labels.transpose(0, 2, 1)
        texts = file.create_group("#refs#")
        cells = file.create_dataset("names", (1, len(NYU_NAMES)), h5py.ref_dtype)
        for place, name in enumerate(NYU_NAMES):
            texts[f"n{place}"] = np.array([[ord(letter)] for letter in name], dtype=np.uint16)
            cells[0, place] = texts[f"n{place}"].ref
    with (folder / "nyu_depth_v2_labeled.mat").open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM")
    savemat(folder / "splits.mat", {"trainNdxs": np.array(train)[:, None], "testNdxs": np.array(test)[:, None]})
    return images, depths, labels
