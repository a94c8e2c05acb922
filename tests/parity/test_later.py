"""The methods published after CRD against the numbers of their authors' code: loss, its parts and all gradients."""

import json
from collections import Counter
from math import isclose, sqrt

import numpy as np
import pytest
import torch
from torch import Tensor

from bench.models.base import Network
from bench.models.reusing import Reusing
from bench.tasks.objectives import CLASSIFICATION
from bench.train.precision import as_float32
from bench.types import Affine, Batch, DataInfo, Features, Shapes
from methods import catalog
from methods.base import Distiller
from methods.mlld import OTHERS
from methods.ofd import negative_mean
from tests.conftest import OWN_GOLDENS
from tests.parity.reference import LATER, draw, fill, golden_losses

METHODS = catalog()
VARIANTS = {  # suffixes of the golden names, and what they set
    "_standardised": {"standardise": True},
    "_one_view": {"one_view": True},
    "_factor4": {"factor": 4},
    "_map": {"form": "map"},
    "_normalised": {"normalise": True},
}


def pytest_generate_tests(metafunc):
    if "expected" in metafunc.fixturenames:
        cases = list(golden_losses(metafunc.config.getoption("golden"), "later*.json"))
        metafunc.parametrize(("given", "name", "expected"), cases)


@pytest.fixture(autouse=True)
def double_precision():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def test_a_later_method_reproduces_its_golden_numbers(given, name, expected):
    method, variant = split(name)
    student, teacher = features(given, name, "student"), features(given, name, "teacher")
    for tensor in leaves(student):
        tensor.requires_grad_()
    distiller = build(method, given, variant | stated(method, expected), student, teacher)
    batch = batch_of(given)
    adapters = [distiller]
    own = student  # what the distiller reads
    if distiller.reuses_classifier:
        network = reusing(student, teacher, expected["factor"])
        adapters.append(network)
        own = network.projected(student)

    loss = distiller.loss(own, teacher, batch)
    loss.backward()
    norms = [tensor.grad.norm().item() for tensor in leaves(student) if tensor.grad is not None]
    assert close(loss.item(), expected["loss"])
    assert len(norms) == len(expected["student_grad_norms"])
    assert all(map(close, norms, expected["student_grad_norms"]))
    if "adapter_grad_norm" in expected:
        trained = [one for module in adapters for one in module.parameters() if one.requires_grad]
        squares = [parameter.grad.square().sum().item() for parameter in trained]
        assert close(sqrt(sum(squares)), expected["adapter_grad_norm"])
    parts = dict(zip(distiller.observes, distiller.observed(), strict=True))
    for part in parts.keys() & expected.keys():
        assert close(parts[part].item(), expected[part])
    for epoch, gradient in expected.get("theta_grad_by_epoch", {}).items():
        distiller.epoch, distiller.theta.grad = int(epoch), None
        distiller.loss(student, teacher, batch).backward()
        assert close(distiller.theta.grad.item(), gradient)
    if "margins" in expected:
        for norm, margins in zip(teacher.norms, expected["margins"], strict=True):
            assert all(map(close, negative_mean(norm)[:4].tolist(), margins))
    if "prediction" in expected:
        assert all(map(close, own.logits[0, :4].tolist(), expected["prediction"]))
    if "cross_entropy" in expected:
        views = [side for side in (student, student.second) if side is not None]
        found = sum(CLASSIFICATION.loss(view.logits, batch.targets).item() for view in views)
        assert close(found, expected["cross_entropy"])


def test_a_later_methods_loss_in_float32_and_bfloat16_is_near_its_golden(given, name, expected):
    """A network in bfloat16 gives its maps and outputs so; a method takes float32 unless it states `autocast`."""
    method, variant = split(name)
    exact = features(given, name, "student"), features(given, name, "teacher")
    distiller = build(method, given, variant | stated(method, expected), *exact).float()
    for dtype, tolerance in ((torch.float32, 1e-4), (torch.bfloat16, 2e-2)):
        own, others = (converted(side, dtype) for side in exact)
        if distiller.reuses_classifier:
            network = reusing(*exact, expected["factor"]).float()
            with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
                own = network.projected(own)
        sides = [as_float32(side, maps=not distiller.autocast) for side in (own, others)]
        with torch.autocast("cpu", torch.bfloat16, enabled=distiller.autocast and dtype == torch.bfloat16):
            loss = distiller.loss(*sides, batch_of(given))
        assert loss.dtype == torch.float32
        assert isclose(loss.item(), expected["loss"], rel_tol=tolerance)


@pytest.mark.parametrize("name", sorted(LATER))
def test_every_later_method_has_a_golden_loss_in_the_projects_own_folder(name):
    cases = json.loads((OWN_GOLDENS / "later.json").read_text())
    assert name in METHODS
    assert any(split(golden)[0] == name for case in cases for golden in case["losses"])


def split(name: str) -> tuple[str, dict]:
    """Return the method of a golden name and the parameters that the name sets."""
    for suffix, variant in VARIANTS.items():
        if name.endswith(suffix):
            return name.removesuffix(suffix), variant
    return name, {}


def stated(method: str, expected: dict) -> dict:
    """Return the parameters that stand beside a golden number."""
    if method == "mlld":  # one of its five temperatures is a parameter
        (temperature,) = (Counter(expected["temperatures"]) - Counter(OTHERS)).elements()
        return {"temperature": temperature}
    return {key: value for key, value in expected.items() if key in METHODS[method].parameters}


def build(method: str, given: dict, parameters: dict, student: Features, teacher: Features) -> Distiller:
    shapes = shapes_of("student", student), shapes_of("teacher", teacher)
    assert METHODS[method].load().inapplicable(*shapes) is None
    return fill(METHODS[method].load()(*shapes, DataInfo(100, given["classes"], None), **parameters))


def reusing(student: Features, teacher: Features, factor: int) -> Reusing:
    """Return the layers between a student's final map and its prediction, with the teacher's classifier."""
    network = fill(Reusing(Network(), shapes_of("student", student), shapes_of("teacher", teacher), factor))
    network.take(teacher.classifier)
    return network


def features(given: dict, name: str, side: str) -> Features:
    """Return a side's generated features; the golden's maps are all stages but a stem, which no later method reads."""
    seed, b, is_teacher = given["seed"], given["batch"], side == "teacher"

    def of_side(key: str) -> object:
        return given.get(f"teacher_{key}", given[key]) if is_teacher else given[key]

    sizes = [(b, c, hw, hw) for c, hw in zip(of_side("channels"), of_side("hw"), strict=True)]
    stem = torch.zeros(b, 3, *sizes[0][2:])
    stages = [draw(seed + 10 + 10 * is_teacher + i, *size).relu() for i, size in enumerate(sizes)]
    preactivations = [draw(seed + 40 + 10 * is_teacher + i, *size) for i, size in enumerate(sizes)]
    embedding = draw(seed + 30 + is_teacher, b, of_side("dim")).relu()
    if name == "itrd":
        embedding = draw(seed + 32 + is_teacher, b, of_side("dim"))
    if name == "srrl_map":
        embedding = stages[-1].mean(dim=(2, 3))
    weight = draw(seed + (80 if is_teacher else 82), given["classes"], of_side("dim")) / sqrt(of_side("dim"))
    norms = [Affine(draw(seed + 60 + i, size[1]), draw(seed + 70 + i, size[1])) for i, size in enumerate(sizes)]
    second = None
    if name in ("mlld", "mlld_standardised"):  # which read nothing but the logits of it
        logits = (1 + is_teacher) * draw(seed + 3 + is_teacher, b, given["classes"])
        second = Features(stages=(), preactivations=(), embedding=embedding, logits=logits)
    return Features(
        stages=(stem, *stages),
        preactivations=(stem, *(stages if is_teacher and name == "reviewkd" else preactivations)),
        embedding=embedding,
        logits=(1 + is_teacher) * draw(seed + is_teacher, b, given["classes"]),
        final=stages[-1],
        classifier=Affine(weight, draw(seed + 81, given["classes"]) if is_teacher else torch.zeros(given["classes"])),
        norms=tuple(norms),
        second=second,
    )


def converted(made: Features, dtype: torch.dtype) -> Features:
    """Return features as a network of that precision gives them: its parameters are in float32."""
    made_by = (made.classifier, *made.norms)
    layers = [None if one is None else Affine(one.weight.float(), one.bias.float()) for one in made_by]
    return Features(
        stages=tuple(one.to(dtype) for one in made.stages),
        preactivations=tuple(one.to(dtype) for one in made.preactivations),
        embedding=made.embedding.to(dtype),
        logits=made.logits.to(dtype),
        final=None if made.final is None else made.final.to(dtype),
        classifier=layers[0],
        norms=tuple(layers[1:]),
        second=None if made.second is None else converted(made.second, dtype),
    )


def leaves(made: Features) -> list[Tensor]:
    of_second = [] if made.second is None else [made.second.logits]
    return [*made.stages, *made.preactivations, made.embedding, made.logits, *of_second, made.classifier.weight]


def shapes_of(network: str, made: Features) -> Shapes:
    stages, preactivations = (tuple(tuple(f.shape[1:]) for f in maps) for maps in (made.stages, made.preactivations))
    sizes = made.embedding.shape[1], made.logits.shape[1]
    return Shapes(network, stages, preactivations, *sizes, stages[-1], has_classifier=True, has_norms=True)


def batch_of(given: dict) -> Batch:
    targets = np.random.RandomState(given["seed"] + 2).randint(0, given["classes"], given["batch"])
    images = torch.zeros(given["batch"], 3, 32, 32)  # no method reads them
    return Batch(images, images, torch.from_numpy(targets), torch.arange(given["batch"]))


def close(actual: float, expected: float) -> bool:
    return isclose(actual, expected, rel_tol=1e-9, abs_tol=1e-12)
