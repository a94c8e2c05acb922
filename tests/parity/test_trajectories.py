"""Whole training runs, step by step, through the trainer that runs suites.

Handed in are only what the golden files define: the batches, the filled weights, CRD's negatives and its banks' start.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.schedule import Schedule
from bench.spec import DataSpec, NetworkSpec, RunSpec, TermSpec
from bench.train.build import build_lane
from bench.train.epoch import train_epoch
from bench.train.lane import Lane
from bench.train.learner import INITIAL, Teacher
from bench.train.networks import build_network, network_shapes
from bench.types import Batch, DataInfo
from methods import catalog
from tests.parity.reference import LATER, UNPUBLISHED, draw, fill

METHODS = catalog()
CLOSE = {"rel": 1e-6, "abs": 1e-12}  # steps amplify rounding


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "golden" not in metafunc.fixturenames:
        return
    cases = []
    for path in sorted(metafunc.config.getoption("golden").glob("trajectories*.json")):
        document = json.loads(path.read_text())
        for run in document["runs"]:
            name = run["method"] + ("+kd" if run.get("with_kd") else "")
            marks = () if run["teacher"] == "resnet14" else pytest.mark.slow  # in short: each method on one pair
            names = f"{path.stem}-{name}-{run['teacher']}-{run['student']}"
            cases.append(pytest.param(document["input"], run, id=names, marks=marks))
    metafunc.parametrize(("settings", "golden"), cases)


@pytest.fixture(autouse=True)
def double_precision():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def test_the_trainer_follows_the_reference_step_by_step(settings, golden):
    lane, teachers = lane_at_start(settings, golden)
    batches = [batch(settings, i) for i in range(max(settings["steps"], settings["init_steps"]))]

    for wanted, one in zip(golden["init_losses"], batches, strict=False):
        assert lane.clock.stage == INITIAL
        assert epoch_of_one_batch(lane, teachers, one)["loss"] == pytest.approx(wanted, **CLOSE)
    for wanted, one in zip(golden["steps"], batches, strict=True):
        means = epoch_of_one_batch(lane, teachers, one)
        found = {"total": means["loss"], "ce": means["ce"], "term": means[f"term0_{golden['method']}"]}
        found["kl"] = means["term1_kd"] if golden["method"] != "kd" else found["term"]
        wanted = wanted if golden["method"] != "kd" else {**wanted, "term": wanted["kl"]}
        assert found == pytest.approx(wanted, **CLOSE)

    total = sum(p.square().sum() for p in lane.student.parameters()).item()
    assert total == pytest.approx(golden["student_parameter_sumsq"], **CLOSE)
    if golden["eval_logits"] is not None:
        lane.student.eval()
        with torch.no_grad():
            logits = lane.student(draw(settings["seed"] + 999, 4, 3, 32, 32))
        found = {"mean": logits.mean().item(), "std": logits.std().item(), "first": logits.flatten()[:4].tolist()}
        for name, value in golden["eval_logits"].items():
            assert found[name] == pytest.approx(value, **CLOSE)


def test_every_method_has_a_trajectory_in_the_projects_own_folder():
    own = json.loads((Path(__file__).parents[1] / "golden" / "trajectories.json").read_text())
    assert {run["method"] for run in own["runs"]} == METHODS.keys() - UNPUBLISHED - LATER


def epoch_of_one_batch(lane: Lane, teachers: dict[str, Teacher], one: Batch) -> dict[str, float]:
    """Train an epoch that consists of one batch; return its means and move the clock on."""
    for _ in train_epoch(teachers, [lane], [one]):
        pass
    assert lane.failure is None, lane.failure
    means = lane.learner.meter.read()
    lane.advance()
    return means


def lane_at_start(settings: dict, golden: dict) -> tuple[Lane, dict[str, Teacher]]:
    classes = settings["num_classes"]
    data = DataSpec(name="golden", classes=classes, size=(32, 32), mean=(0.0,) * 3, std=(1.0,) * 3, augment="none")
    network = NetworkSpec(network=golden["teacher"])
    teacher = fill(build_network(network, data)).train()
    for module in teacher.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the cumulative average: after one pass, that pass's statistics
    with torch.no_grad():
        teacher(draw(settings["seed"] + 500, 32, 3, 32, 32))
    teacher.eval().requires_grad_(False)
    teachers = {"teacher": Teacher(teacher, network_shapes(network, data))}

    name = golden["method"]
    kd = term("kd", golden["alpha"], {"temperature": settings["T"]})
    given = {"temperature": 0.07, "n_negatives": settings["nce_k"]} if name == "crd" else {}  # the reference's τ
    terms = [kd] if name == "kd" else [term(name, golden["beta"], given), kd]
    spec = RunSpec(
        student=NetworkSpec(network=golden["student"]),
        data=data,
        schedule=Schedule(
            epochs=settings["steps"],
            batch_size=settings["batch"],
            lr=settings["lr"],
            milestones=(),
            initial_epochs=len(golden["init_losses"]),
        ),
        seed=0,
        teachers=("teacher",),
        terms=tuple(terms),
        task_weight=float(golden["gamma"]),
    )
    targets = torch.arange(settings["n_data"]) % classes
    info = DataInfo(n=settings["n_data"], classes=classes, targets=targets)
    lane = build_lane(spec, teachers, info, METHODS, torch.device("cpu"))
    fill(lane.student)
    for one in lane.terms:
        fill(one.distiller)
    if name == "crd":
        hand_in_banks_and_negatives(lane, settings)
    return lane, teachers


def term(name: str, weight: float, given: dict) -> TermSpec:
    method = METHODS[name]
    defaults = {key: parameter.default for key, parameter in method.parameters.items()}
    return TermSpec(method=name, version=method.version, weight=float(weight), parameters=defaults | given)


def hand_in_banks_and_negatives(lane: Lane, settings: dict) -> None:
    crd = lane.terms[0].distiller
    n, seed = settings["n_data"], settings["seed"]
    for bank, offset in ((crd.student_bank, 400), (crd.teacher_bank, 401)):
        rows = draw(seed + offset, *bank.shape)
        bank.copy_(rows / rows.norm(dim=1, keepdim=True))
    drawn = iter(
        torch.from_numpy(np.random.RandomState(seed + 300 + i).randint(0, n, (settings["batch"], settings["nce_k"])))
        for i in range(settings["steps"])
    )
    crd.draw_negatives = lambda indices: next(drawn)


def batch(settings: dict, i: int) -> Batch:
    seed, size = settings["seed"], settings["batch"]
    images = draw(seed + i, size, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    targets = torch.from_numpy(np.random.RandomState(seed + 100 + i).randint(0, settings["num_classes"], size))
    order = np.random.RandomState(seed + 200).permutation(settings["n_data"])
    return Batch(images, images, targets, torch.from_numpy(order[i * size : (i + 1) * size]))
