"""NYU Depth V2: photographs of rooms with depth, from its labelled MATLAB file.

Paper:  Silberman, Hoiem, Kohli and Fergus, Indoor Segmentation and Support Inference from RGBD Images, ECCV 2012.
Files:  nyu_depth_v2_labeled.mat (version 7.3, which is HDF5: every array comes with its axes reversed) and splits.mat.
Labels: the field's 37 classes, those of the 40 of Gupta, Arbelaez and Malik (CVPR 2013) that are things of one kind.
        Their mapping of all 894 names of the file is a separate file; we use only the objects whose name in the
        labelled file is that of a class, and ignore the pixels of all others.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
import torch
from scipy.io import loadmat
from torch import Tensor

from bench.data.arrays import Arrays, nearest, scaled
from bench.data.folders import absent
from bench.data.named import DATASETS
from bench.spec import IGNORED, DataSpec

CLASSES = (
    *("wall", "floor", "cabinet", "bed", "chair", "sofa", "table", "door", "window", "bookshelf", "picture"),
    *("counter", "blinds", "desk", "shelves", "curtain", "dresser", "pillow", "mirror", "floor mat", "clothes"),
    *("ceiling", "books", "refridgerator", "television", "paper", "towel", "shower curtain", "box", "whiteboard"),
    *("person", "night stand", "toilet", "sink", "lamp", "bathtub", "bag"),
)
ALSO = {"book": "books"}  # the file has both names
CHUNK = 32  # images read at a time: at full size they and their depth take 80 MB
MILLIMETRES = 1000  # per metre, the unit of the file's depth


def read_nyu(spec: DataSpec, root: Path) -> Arrays:
    """Return the training and the test split of `splits.mat`, in the order of the labelled file, scaled to `spec.size`.

    Images are (n, 4, H, W) int16: red, green and blue from 0 to 255, then the depth in millimetres, holes filled in as
    in the file. Labels are (n, H, W) uint8, `IGNORED` where a pixel has no class.
    """
    folder = root / str(DATASETS[spec.name].folder)
    with _reading(folder / "splits.mat") as path:
        splits = loadmat(path)  # MATLAB's positions count from 1
        train, test = (np.sort(splits[key].ravel()).astype(np.int64) - 1 for key in ("trainNdxs", "testNdxs"))
    with _reading(folder / "nyu_depth_v2_labeled.mat") as path, h5py.File(path) as file:
        labels = _class_of_each(file)
        tested = _read(file, test, labels, spec.size) if spec.opens_test else None
        return _read(file, train, labels, spec.size), tested


@contextmanager
def _reading(path: Path) -> Iterator[Path]:
    """Turn any error of reading into one that names the file."""
    try:
        yield path
    except Exception as error:  # scipy and h5py raise many kinds for a missing, truncated or foreign file
        problem = "is missing"
        if path.is_file():
            problem = f"cannot be read ({' '.join(str(error).split())})"
        raise absent("nyu_depth_v2", f"looked for the file {path}, which {problem}") from error


def _class_of_each(file: h5py.File) -> np.ndarray:
    """Return the class (uint8) of each label in the file: 0 means no label, 1 the first of the names."""
    # a cell array is an array of references to texts in UTF-16
    names = ["".join(map(chr, file[reference][()].ravel())) for reference in file["names"][()].ravel()]
    classes = {name: place for place, name in enumerate(CLASSES)}
    return np.array([IGNORED, *(classes.get(ALSO.get(name, name), IGNORED) for name in names)], dtype=np.uint8)


def _read(file: h5py.File, positions: np.ndarray, labels: np.ndarray, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    images = torch.empty(len(positions), 4, *size, dtype=torch.int16)
    targets = torch.empty(len(positions), *size, dtype=torch.uint8)
    for start in range(0, len(positions), CHUNK):
        chosen, place = positions[start : start + CHUNK], slice(start, start + CHUNK)
        depth = np.rint(file["depths"][chosen] * MILLIMETRES).astype(np.int16)
        stored = np.concatenate([file["images"][chosen].astype(np.int16), depth[:, None]], axis=1)
        images[place] = scaled(torch.from_numpy(stored).transpose(2, 3), size)
        classes = labels[file["labels"][chosen]]
        targets[place] = nearest(torch.from_numpy(classes).transpose(1, 2), size)
    return images, targets
