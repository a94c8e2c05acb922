"""Every small suite runs from its file to its table, cut down to seconds; the code that runs is the whole of it."""

import csv
import gzip
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from sklearn.datasets import load_digits

from bench.cli import main
from bench.data import DATASETS
from bench.figures.write import FIGURES
from bench.tasks.objectives import ANSWERED
from tests.few import short_or_whole

SMALL = Path(__file__).parent.parent / "suites" / "small"
FEW = {
    **{name: {"train_per_class": 4} for name in ("digits", "fashion_mnist", "photo_patches")},
    "stereo_motorcycle": {"train_fraction": 0.2},
}
# in the short form: a suite of several teachers, and of each task but compression, which other tests train
SHORT = ("digits_mutual_learning", "digits_ensemble", "fashion_mnist_transfer")
SHORT += ("photos_luminance_chrominance",)
TESTED = short_or_whole(40, 100)  # images; networks answer several times, of corrupted images, too
SCHEDULES = ("training", "teacher_training")


def shrunk(value: object) -> object:
    """Return a suite's document with one epoch and seed, few images, pairs and rows, and the least batch."""
    if isinstance(value, list):
        return [shrunk(item) for item in value]
    if not isinstance(value, dict):
        return value
    found = {key: shrunk(item) for key, item in value.items()}
    for key in SCHEDULES:
        if key in found:
            found[key] |= {"epochs": 1, "milestones": [1], "evaluate_every": 1, "batch_size": 16}
            found[key].pop("initial_epochs", None)
    if "training" in found and "pairs" in found:
        found["training"]["initial_epochs"] = 1
        pairs, methods = short_or_whole((1, 2), (2, 6))
        seeds = dict.fromkeys(found["seeds"], 2) if isinstance(found.get("seeds"), dict) else 1
        found |= {"threads": 1, "seeds": seeds, "pairs": found["pairs"][:pairs], "methods": found["methods"][:methods]}
    if "tuning" in found:
        found["tuning"] = {"trials": 2, "dev_per_class": 1}
    found |= FEW.get(str(found.get("name")), {})
    return found


def write_fashion_mnist(root: Path) -> None:
    """Write some digits as Fashion-MNIST is published: four gzip files of IDX arrays."""
    digits = load_digits()
    images = np.kron(digits.images * 15, np.ones((3, 3))).astype(np.uint8)
    images = np.pad(images, ((0, 0), (2, 2), (2, 2)))
    folder = root / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    for name, part in (("train", slice(0, 400)), ("t10k", slice(400, 400 + TESTED))):
        for kind, array in (("images-idx3", images[part]), ("labels-idx1", digits.target[part].astype(np.uint8))):
            head = bytes([0, 0, 8, array.ndim]) + b"".join(side.to_bytes(4, "big") for side in array.shape)
            (folder / f"{name}-{kind}-ubyte.gz").write_bytes(gzip.compress(head + array.tobytes()))


@pytest.fixture
def few_patches(monkeypatch):
    """Let the photographs be cut into hundreds of patches, not thousands."""
    for name in ("photo_patches", "stereo_motorcycle"):
        monkeypatch.setitem(DATASETS, name, replace(DATASETS[name], train=200, test=TESTED, min_per_class=20))


@pytest.mark.usefixtures("few", "few_patches")
@pytest.mark.parametrize(
    "suite",
    [
        pytest.param(path, id=path.stem, marks=() if path.stem in SHORT else pytest.mark.slow)
        for path in sorted(SMALL.glob("*.yaml"))
    ],
)
def test_a_small_suite_ends_with_every_cell_filled(suite, tmp_path, monkeypatch):
    for path in SMALL.glob("*.yaml"):  # all, since one may evaluate the networks of another
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
        (tmp_path / path.name).write_text(yaml.safe_dump(shrunk(document)), encoding="utf-8")
    write_fashion_mnist(tmp_path / "data")
    folders = ["--results", str(tmp_path / "results"), "--data", str(tmp_path / "data")]
    monkeypatch.setattr(sys, "argv", ["run_suite.py", str(tmp_path / suite.name), "--device", "cpu", *folders])
    if suite.stem == SHORT[0]:  # one suite with all figures, also in the short form
        monkeypatch.setattr("bench.figures.write.FIGURES", FIGURES)
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 0
    with (tmp_path / "results" / suite.stem / "table.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["status"] for row in rows} <= {"done", "inapplicable"}
    measured = [row for row in rows if not row["metric"].endswith(tuple(kind.name for kind in ANSWERED))]
    assert all(0 <= float(row["mean"]) <= 100 for row in measured if row["status"] == "done")
    assert {"teacher", "none"} < {row["method"] for row in rows}
    shutil.rmtree(tmp_path / "results")
