"""What CONTRIBUTING promises of extensions: each of them is one object in one place, and everything else follows.

A task, a metric, data sets, a network, a method and a figure that this file defines go through suite file, plan,
training and table; nothing in the project is changed for them but the entry that each has in its registry.
"""

import csv
import sys
from dataclasses import replace
from types import ModuleType

import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import nn

from bench.data.folders import list_folder
from bench.data.named import DATASETS, NamedData
from bench.figures import write
from bench.models import NETWORKS, NetworkEntry
from bench.models.base import Network
from bench.report.frame import results_frame
from bench.report.write import write_tables
from bench.tasks import STUDENT_TASKS, TASKS, Metric, Task
from bench.tasks.objectives import Classification, TopK
from bench.types import Features
from tests.train.conftest import Bench, document

METHOD = """
from methods.base import Distiller, register


@register("half", weight=2.0)
class Half(Distiller):
    def loss(self, student, teacher, batch):
        return (student.logits - teacher.logits).square().mean() / 2
"""


class Relearning(Task):
    name = "relearning"

    def student(self, run, teacher_data):
        return run.but(task=self.name)


class OneConvolution(Network):
    def __init__(self, num_classes: int, in_channels: int, width: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(in_channels, width, 3, padding=1)
        self.classifier = nn.Linear(width, num_classes)

    def features(self, x, preactivations=False):
        before = self.stem(x)
        stage = before.relu()
        embedding = stage.mean(dim=(2, 3))
        return Features((stage,), (before,) if preactivations else (), embedding, self.classifier(embedding))

    def trunk(self):
        return [self.stem]


def bright_and_dark(spec, root):
    """Return images that are bright or dark, and which of the two they are: 20 to train, 10 to test."""
    labels = torch.arange(30) % 2
    images = (labels[:, None, None, None] * 200).expand(30, 3, 32, 32).to(torch.uint8).contiguous()
    return (images[:20], labels[:20]), (images[20:], labels[20:])


def list_shades(spec, root):
    """Return the files of a folder with images that are bright or dark."""
    return list_folder(root / "shades")


def write_shades(folder):
    for split, count in (("train", 10), ("test", 5)):
        for name, value in (("bright", 200), ("dark", 0)):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                Image.new("RGB", (32, 32), (value,) * 3).save(folder / split / name / f"{number}.png")


def best(findings):
    """Yield a figure of one number, the best mean in the table."""
    figure = Figure()
    figure.suptitle(f"{max(one.mean for one in findings.frame.primary):.0f}")
    yield "best", figure


@pytest.fixture
def extended(monkeypatch):
    """Register the task, the metric, the data sets, the network and the figure."""
    task = Relearning()
    for registry in (TASKS, STUDENT_TASKS):
        monkeypatch.setitem(registry, task.name, task)
    monkeypatch.setattr(Classification, "metrics", (*Classification.metrics, Metric("miss", "share of misses")))
    compute = TopK.compute
    monkeypatch.setattr(TopK, "compute", lambda score: compute(score) | {"miss": 100 - compute(score)["top1"]})
    readers, models = ModuleType("bench.data.brightness"), ModuleType("bench.models.one_convolution")
    readers.bright_and_dark, readers.list_shades = bright_and_dark, list_shades
    models.OneConvolution = OneConvolution
    drawing = ModuleType("bench.figures.best")
    drawing.draw = best
    monkeypatch.setattr(write, "FIGURES", (*write.FIGURES, drawing))
    monkeypatch.setitem(sys.modules, readers.__name__, readers)
    monkeypatch.setitem(sys.modules, models.__name__, models)
    entry = NamedData(
        summary="bright and dark squares",
        classes=2,
        size=(32, 32),
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
        augment="none",
        train=20,
        test=10,
        min_per_class=10,
        reader="brightness.bright_and_dark",
    )
    monkeypatch.setitem(DATASETS, "brightness", entry)
    files = replace(entry, reader="brightness.list_shades", folder="shades", is_listed=True)
    monkeypatch.setitem(DATASETS, "shades", files)
    for width in (4, 8):
        network = NetworkEntry("one convolution", "one_convolution", "OneConvolution", {"width": width})
        monkeypatch.setitem(NETWORKS, f"one{width}", network)


def trained(folder, data):
    """Return plan, store, methods and the rows of table.csv of a suite that asks for everything new."""
    plugin = folder / "half.py"
    plugin.write_text(METHOD)
    suite = document(
        task="relearning",
        data=data,
        pairs=[{"teacher": "one8", "student": "one4"}],
        methods=["half"],
        training={"epochs": 3, "batch_size": 4, "lr": 0.05, "milestones": [], "initial_epochs": 0},
    )
    bench = Bench(folder, suite, [plugin])
    plan, store, _ = bench.run()
    write_tables(plan, store)
    with (store.suite_folder(plan.name) / "table.csv").open(encoding="utf-8") as file:
        return plan, store, bench.methods, list(csv.DictReader(file))


@pytest.mark.usefixtures("extended")
def test_a_new_task_metric_data_set_network_and_method_go_from_the_suite_file_to_the_table(tmp_path):
    _, _, _, rows = trained(tmp_path, "brightness")
    numbers = {(row["label"], row["metric"]): float(row["mean"]) for row in rows}
    assert {row["status"] for row in rows} == {"done"}
    for label in ("teacher", "none", "Half"):
        assert numbers[label, "top1"] + numbers[label, "miss"] == pytest.approx(100)
    assert numbers["Half", "top1"] == 100.0


@pytest.mark.usefixtures("extended")
def test_a_new_data_set_of_files_goes_from_the_suite_file_to_a_new_figure(tmp_path):
    write_shades(tmp_path / "data" / "shades")
    plan, store, methods, _ = trained(tmp_path, "shades")
    written = write.write_figures(results_frame(plan, store), store, methods)
    assert store.suite_folder(plan.name) / "figures" / "best.pdf" in written
