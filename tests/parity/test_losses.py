"""Every method against the golden losses: value, gradients, initial stage and, for CRD, the memory."""

import importlib
import json
from math import isclose

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bench.types import Batch, DataInfo, Features, Shapes
from methods import own_files
from methods.base import REGISTERED, Distiller
from tests.conftest import OWN_GOLDENS
from tests.parity.reference import LATER, UNPUBLISHED, draw, fill, golden_losses

PARAMETERS = {  # the golden files' names for what suite files call otherwise
    "T": "temperature",
    "hint_layer": "layer",
    "feat_dim": "dim",
    "nce_k": "n_negatives",
    "nce_t": "temperature",
    "nce_m": "bank_momentum",
}
METHODS = [path.stem for path in own_files() if path.stem not in UNPUBLISHED | LATER]


def pytest_generate_tests(metafunc):
    if "expected" in metafunc.fixturenames:
        cases = list(golden_losses(metafunc.config.getoption("golden"), "losses*.json"))
        metafunc.parametrize(("given", "name", "expected"), cases)


@pytest.fixture(autouse=True)
def float64_everywhere():
    """Build modules in float64 from the start: VID's start value rounds otherwise."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def test_a_method_reproduces_its_golden_numbers(given, name, expected):
    method = name.removesuffix("_init")
    student, teacher = features(given, "student"), features(given, "teacher")
    shapes = shapes_of("student", student), shapes_of("teacher", teacher)
    if "error" in expected:
        assert distiller_class(method).inapplicable(*shapes)
        return
    distiller = build(method, given, expected, shapes)
    batch = batch_of(given)

    loss = compute(distiller, student, teacher, batch, initial=expected.get("stage") == "init")
    assert close(loss.item(), expected["loss"])
    if "student_grad_norms" in expected:
        loss.backward()
        norms = [tensor.grad.norm().item() for tensor in leaves(student) if tensor.grad is not None]
        assert len(norms) == len(expected["student_grad_norms"])
        assert all(map(close, norms, expected["student_grad_norms"]))
    if "Z" in expected:
        assert all(map(close, distiller.log_z.exp().tolist(), expected["Z"]))
        distiller.after_step()
        check_memory(distiller.student_bank[batch.indices], expected["student_memory_after"])
        check_memory(distiller.teacher_bank[batch.indices], expected["teacher_memory_after"])
        assert close(distiller.loss(student, teacher, batch).item(), expected["second_call_loss"])


def test_the_golden_folder_given_holds_losses(pytestconfig):
    assert list(pytestconfig.getoption("golden").glob("losses*.json"))


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_a_golden_loss_in_the_projects_own_folder(name):
    cases = [case for path in OWN_GOLDENS.glob("losses*.json") for case in json.loads(path.read_text())]
    assert any("loss" in case["losses"].get(name, {}) for case in cases)


def features(given: dict, side: str) -> Features:
    """Return a side's generated features; the student's are leaves that collect gradients."""
    seed, b, shift = given["seed"], given["batch"], 0 if side == "student" else 50
    sizes = [(b, c, hw, hw) for c, hw in zip(given[f"{side}_channels"], given[f"{side}_hw"], strict=True)]
    offset = 0 if side == "student" else 1
    made = Features(
        stages=tuple(draw(seed + shift + i, *size).relu() for i, size in enumerate(sizes)),
        preactivations=tuple(draw(seed + 100 + shift + i, *size) for i, size in enumerate(sizes)),
        embedding=draw(seed + 200 + offset, b, given[f"{side}_dim"]).relu(),
        logits=draw(seed + 202 + offset, b, given["classes"]),
    )
    for tensor in leaves(made):
        tensor.requires_grad_(side == "student")
    return made


def leaves(made: Features) -> list[Tensor]:
    return [*made.stages, *made.preactivations, made.embedding, made.logits]


def shapes_of(network: str, made: Features) -> Shapes:
    stages, preactivations = (tuple(tuple(f.shape[1:]) for f in maps) for maps in (made.stages, made.preactivations))
    return Shapes(network, stages, preactivations, made.embedding.shape[1], made.logits.shape[1])


def batch_of(given: dict) -> Batch:
    indices = np.random.RandomState(given["seed"] + 302).permutation(given["n_data"])[: given["batch"]]
    images = torch.zeros(given["batch"], 3, 32, 32)  # no method reads them
    return Batch(images, images, None, torch.from_numpy(indices))


def distiller_class(name: str) -> type[Distiller]:
    importlib.import_module(f"methods.{name}")
    return REGISTERED[name]


def build(name: str, given: dict, expected: dict, shapes: tuple[Shapes, Shapes]) -> Distiller:
    """Return the filled distiller; CRD's banks and its draw of negatives are the golden's."""
    parameters = {ours: expected[theirs] for theirs, ours in PARAMETERS.items() if theirs in expected}
    data = DataInfo(given["n_data"], given["classes"], torch.arange(given["n_data"]) % given["classes"])
    cls = with_given_negatives(given) if name == "crd" else distiller_class(name)
    distiller = fill(cls(*shapes, data, **parameters))
    if name == "crd":
        for offset, bank in enumerate((distiller.student_bank, distiller.teacher_bank)):
            bank.copy_(nn.functional.normalize(draw(given["seed"] + 300 + offset, *bank.shape)))
    return distiller


def with_given_negatives(given: dict) -> type[Distiller]:
    size = given["batch"], given["nce_k"]
    negatives = np.random.RandomState(given["seed"] + 303).randint(0, given["n_data"], size)

    class GivenNegatives(distiller_class("crd")):
        def draw_negatives(self, indices):
            return torch.from_numpy(negatives)

    return GivenNegatives


def compute(distiller: Distiller, student: Features, teacher: Features, batch: Batch, initial: bool) -> Tensor:
    if not initial:
        return distiller.loss(student, teacher, batch)
    stage = distiller.initial_stage()
    return stage.loss(student if stage.trains_student else None, teacher, batch)


def check_memory(rows: Tensor, expected: dict) -> None:
    assert close(rows.mean().item(), expected["mean"])
    assert close(rows.std().item(), expected["std"])
    assert all(map(close, rows.flatten()[:4].tolist(), expected["first"]))


def close(actual: float, expected: float) -> bool:
    return isclose(actual, expected, rel_tol=1e-9, abs_tol=1e-12)
