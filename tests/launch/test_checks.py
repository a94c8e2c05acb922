"""A dry run finds what would fail, by one step of each kind of run on random images, and remembers what does not."""

import random
import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.launch.checks import LARGEST, Checks
from bench.launch.preparation import check_gpus
from bench.models import build
from bench.types import RequestError
from bench.workflow import planned
from methods._description import IMPORTED
from methods._settings import SETTINGS
from methods.base import REGISTERED
from methods.fitnet import FitNet
from methods.kd import KD
from tests.stores import write_suite

CPU = torch.device("cpu")
METHOD = """
import torch
from torch import nn

from methods.base import Distiller, register


@register("{name}", weight=1.0)
class Odd(Distiller):
    def __init__(self, student, teacher, data):
        super().__init__(student, teacher, data)
        self.adapter = nn.Linear(student.embedding, teacher.embedding)

    def loss(self, student, teacher, batch):
        loss = (self.adapter(student.embedding) - teacher.embedding).square().mean()
        {deed}
        return loss
"""
LINE = 1 + METHOD.splitlines().index("        {deed}")  # in the file
SHAPE = "loss = (student.stages[-1] - teacher.stages[-1][:, :3]).mean()"
DEEDS = {  # what a method does, and what is said of it
    "fair": ("pass", ""),
    "vector": ("loss = loss.expand(3)", "its loss has the shape (3,), not that of a scalar"),
    "nan": ("loss = loss * float('nan')", "the loss is not finite in epoch 1"),
    "loose": ("loss = teacher.embedding.mean()", "its loss reaches no parameter of the student"),
    "untouched": (
        "loss = student.embedding.mean()",
        "no gradient reaches untouched: adapter.weight",
    ),
    "raising": ("raise ValueError('no luck')", f"ValueError: no luck (KEPT/raising.py:{LINE}, in epoch 1)"),
    "leaving": ("raise SystemExit(3)", f"SystemExit: 3 (KEPT/leaving.py:{LINE}, in epoch 1)"),
    "misshaped": (SHAPE, f"(KEPT/misshaped.py:{LINE}, in epoch 1)"),
    "writing": ("batch.images.zero_()", "writes into its batch or teacher"),
    "setting": ("torch.set_num_threads(7)", "changes the number of threads"),
    "many": ("assert len(batch.images) > 5", ""),  # it can train with batches of the suite's size
}
NETWORK = """
from pathlib import Path

from torch import nn

from bench.models import register_network


@register_network("{name}")
def tiny(num_classes, in_channels):
    with (Path(__file__).parent / "built").open("a") as file:
        file.write("x")
    return nn.Sequential(nn.Conv2d(in_channels, 4, 3), {layer}, nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(4, num_classes))
"""


@pytest.fixture(autouse=True)
def _forgotten(monkeypatch, tmp_path_factory, forgets_networks):
    """Remember no earlier test, and forget at the end which methods a test has registered."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    yield
    for name in (*DEEDS, "killing"):
        REGISTERED.pop(name, None)


def checks_of(folder: Path, *plugins: Path, **changes: object) -> Checks:
    """Return the checks of a small suite, before they have run."""
    path = write_suite(folder, controls=False, **changes)
    plan, _, methods = planned(path, (), folder / "results", plugins, trains=True)
    return Checks(plan, list(plan.runs.values()), methods, CPU)


def ran(checks: Checks, processes: int | None = None) -> Checks:
    for _ in checks.run(processes):
        pass
    return checks


def write_method(folder: Path, name: str, deed: str = "pass") -> Path:
    path = folder / f"{name}.py"
    path.write_text(METHOD.format(name=name, deed=deed))
    return path


# what would fail


@pytest.fixture(scope="module")
def said(tmp_path_factory) -> tuple[Path, dict[str, str]]:
    """Return the folder of a suite with all methods above, and what its dry run says of each row."""
    folder = tmp_path_factory.mktemp("odd")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        plugins = [write_method(folder, name, deed) for name, (deed, _) in DEEDS.items()]
        rows = [{"method": name, "label": name} for name in DEEDS]
        changes = {"pairs": [{"teacher": "resnet8", "student": "resnet8"}], "training": {"epochs": 1, "batch_size": 6}}
        checks = ran(checks_of(folder, *plugins, methods=["kd", "ab", *rows], **changes))
    lines = [re.fullmatch(r"\S+: pairs: resnet8->resnet8, row (.+?): (.+)", line) for line in checks.problems]
    assert all(lines)
    return folder, {row: line[2] for line in lines for row in line[1].split(", ")}


@pytest.mark.parametrize("name", DEEDS)
def test_what_a_method_does_wrong_is_told_by_its_row(name, said):
    folder, problems = said
    reason = DEEDS[name][1].replace("KEPT", folder.name)
    assert reason in problems.get(name, "") if reason else name not in problems


def test_what_is_told_of_a_plugin_names_its_file_and_a_line(said):
    folder, problems = said
    for name, text in problems.items():
        assert re.search(rf"{folder.name}/{name}\.py:\d+", text)


def test_rows_beside_those_that_would_fail_are_not_told(said):
    assert not {"teacher", "none", "KD", "AB"} & set(said[1])


OWN = {  # what a change to a method of the project could do, and what is said of it
    "nan in the gradient": (
        lambda self, student, teacher, batch: (student.logits - student.logits.detach()).square().sum().sqrt(),
        "row KD: the loss is not finite in epoch 1",
    ),
    "vector": (
        lambda self, student, teacher, batch: student.logits.mean(dim=1),
        "row KD: MethodError: term kd: its loss has the shape",
    ),
    "writing": (
        lambda self, student, teacher, batch: student.logits.mean() + batch.images.zero_().sum(),
        "writes into its batch or teacher",
    ),
    "viewing maps": (
        lambda self, student, teacher, batch: student.stages[-1].view(len(batch.images), -1).mean(),
        "view size is not compatible",  # maps have their channels last in memory
    ),
}


@pytest.mark.parametrize("name", OWN)
def test_what_a_method_of_the_project_does_wrong_is_told_too(name, tmp_path, monkeypatch):
    loss, said = OWN[name]
    monkeypatch.setattr(KD, "loss", loss)
    (line,) = ran(checks_of(tmp_path, methods=["kd"], training={"epochs": 1, "batch_size": 6})).problems
    assert said in line


def test_a_method_of_the_project_may_view_its_convolutions_as_in_training(tmp_path, monkeypatch):
    loss = FitNet.loss
    monkeypatch.setattr(FitNet, "loss", lambda self, *args: loss(self, *args) + self.regressor[0].weight.view(-1).sum())
    assert ran(checks_of(tmp_path, methods=["fitnet"], training={"epochs": 1, "batch_size": 6})).problems == []


def test_a_users_network_that_cannot_train_is_told_with_its_rows(tmp_path):
    path = tmp_path / "odd_network.py"
    path.write_text(NETWORK.format(name="odd", layer="nn.Bilinear(1, 1, 1)"))
    checks = ran(checks_of(tmp_path, path, pairs=[{"teacher": "resnet8", "student": "odd"}]))
    (line,) = checks.problems
    what = "odd cannot take images of 32x32 pixels: TypeError: "
    assert line.startswith(f"{tmp_path / 'table.yaml'}: pairs: resnet8->odd, row none, KD: {what}")


def test_all_problems_are_told_at_once_with_exit_2_and_without_results(cli, tmp_path):
    torch.save(build("resnet8x4", num_classes=10).state_dict(), tmp_path / "wide.pth")
    pairs = [{"teacher": {"network": "resnet8", "checkpoint": "wide.pth"}, "student": "resnet8"}]
    suite = write_suite(tmp_path, pairs=pairs, methods=["raising"], data="tiny_imagenet", training={"batch_size": 2})
    plugin = write_method(tmp_path, "raising", DEEDS["raising"][0])
    before = sorted(tmp_path.iterdir())
    words = [suite, "--plugin", plugin, "--results", tmp_path / "results", "--data", tmp_path / "data", "--dry-run"]
    status, out, err = cli(*words)
    assert (status, out) == (2, "")
    kinds = ["data 'tiny_imagenet'", "pairs[0].teacher", "pairs: resnet8->resnet8, row Odd"]
    assert [
        line.removeprefix(f"{suite}: ")[: len(kind)] for line, kind in zip(err.splitlines(), kinds, strict=True)
    ] == kinds
    assert sorted(tmp_path.iterdir()) == before


def test_what_cannot_be_applied_is_no_problem(tmp_path):
    checks = ran(checks_of(tmp_path, methods=["fsp"], pairs=[{"teacher": "resnet8x4", "student": "resnet8"}]))
    assert checks.problems == []
    assert ["needs" in reason or "channels" in reason for reason in checks.reasons.values()] == [True]


def test_large_images_are_not_tried(tmp_path):
    side = int(LARGEST**0.5) + 32
    checks = ran(checks_of(tmp_path, data={"name": "digits", "resize": side}, methods=["kd"]))
    assert checks.problems == []
    assert checks.untried == [
        f"not tried: resnet14->resnet8, row teacher, none, KD: images of {side}x{side} pixels take too long"
    ]


@pytest.mark.parametrize(("device", "processes", "gpus"), [("cuda", 2, 1), ("cuda:1", 2, 2), ("cuda", 1, 0)])
def test_more_processes_than_gpus_are_refused(device, processes, gpus):
    with pytest.raises(
        RequestError, match=f"training: processes: {processes}: each process needs a GPU, .* sees {gpus}"
    ):
        check_gpus(torch.device(device), processes, gpus)
    check_gpus(torch.device(device), processes, gpus=8)
    check_gpus(CPU, processes, gpus)


def test_a_dry_run_leaves_the_settings_and_all_generators_as_they_were(tmp_path, monkeypatch, request):
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", False)
    request.addfinalizer(partial(torch.set_num_threads, torch.get_num_threads()))
    torch.set_num_threads(3)
    checks = checks_of(tmp_path, methods=["kd"])
    settings = {name: getter() for name, (getter, _) in SETTINGS.items()}
    generator, python, numpy = torch.get_rng_state(), random.getstate(), np.random.get_state()[1]
    ran(checks)
    assert {name: getter() for name, (getter, _) in SETTINGS.items()} == settings
    assert torch.equal(torch.get_rng_state(), generator)
    assert random.getstate() == python
    assert (np.random.get_state()[1] == numpy).all()


# several processes


def test_processes_side_by_side_find_what_one_finds(tmp_path):
    plugins = [write_method(tmp_path, name, DEEDS[name][0]) for name in ("fair", "nan")]
    pairs = [{"teacher": "resnet8x4", "student": "resnet8"}, {"teacher": "resnet14", "student": "resnet8"}]
    rows = ["kd", "fsp", "fair", {"method": "nan", "label": "nan"}]
    one, two = (checks_of(tmp_path, *plugins, methods=rows, pairs=pairs) for _ in range(2))
    assert ran(one, processes=1).problems
    ran(two, processes=2)
    assert (two.problems, two.reasons, len(two)) == (one.problems, one.reasons, 0)
    assert len(checks_of(tmp_path, *plugins, methods=rows, pairs=pairs)) == 2  # those that would fail


def test_a_process_that_is_killed_is_told(tmp_path):
    plugin = write_method(tmp_path, "killing", "import os; os.kill(os.getpid(), 9)")
    with pytest.raises(RequestError, match=r"a process of the dry run has died \(signal 9\). Maybe memory ran out"):
        ran(checks_of(tmp_path, plugin, methods=["killing"]), processes=2)


def test_a_process_that_a_plugin_ends_with_status_0_is_told(tmp_path):
    plugin = write_method(tmp_path, "ending", "import os; os._exit(0)")
    with pytest.raises(RequestError, match="a process of the dry run has ended before it had tried all its rows"):
        ran(checks_of(tmp_path, plugin, methods=["ending"]), processes=2)


# what is remembered


@pytest.fixture
def counted(tmp_path):
    """Return the checks of a suite whose networks say how often they were built, and that number."""
    path = tmp_path / "tiny_network.py"
    path.write_text(NETWORK.format(name="tiny", layer="nn.ReLU()"))
    pairs = [{"teacher": "tiny", "student": "tiny"}]
    return (
        lambda **changes: checks_of(tmp_path, path, **{"pairs": pairs, **changes}),
        lambda: len((tmp_path / "built").read_text()),
    )


def test_a_second_dry_run_tries_nothing_and_builds_no_network(counted):
    checks_of_tiny, built = counted
    first = ran(checks_of_tiny())
    number = built()
    again = checks_of_tiny()
    assert (len(first), len(again)) == (0, 0)
    assert ran(again).problems == []
    assert built() == number > 0


def test_seeds_and_lengths_make_no_other_kind_of_run_but_methods_and_images_do(counted):
    checks_of_tiny, _ = counted
    ran(checks_of_tiny())
    assert len(checks_of_tiny(seeds=3, training={"epochs": 7, "milestones": [3]})) == 0
    assert len(checks_of_tiny(methods=["kd", "dkd"])) == 1
    assert (
        len(checks_of_tiny(methods=["kd"], data={"name": "digits", "resize": 64})) == 2
    )  # the teacher is as the student


def test_changed_code_of_a_plugin_is_tried_again(tmp_path):
    assert len(checks_of(tmp_path, write_method(tmp_path, "fair"), methods=["kd", "fair"])) == 4
    ran(checks_of(tmp_path, tmp_path / "fair.py", methods=["kd", "fair"]))
    IMPORTED.clear()  # as in a new process
    assert len(checks_of(tmp_path, write_method(tmp_path, "fair", "loss = 2 * loss"), methods=["kd", "fair"])) == 1


def test_what_would_fail_is_tried_again(tmp_path):
    plugin = write_method(tmp_path, "nan", DEEDS["nan"][0])
    ran(checks_of(tmp_path, plugin, methods=["nan"], training={"epochs": 1, "batch_size": 2}))
    again = checks_of(tmp_path, plugin, methods=["nan"], training={"epochs": 1, "batch_size": 2})
    assert len(again) == 1
    assert len(ran(again).problems) == 1
