"""What every method must keep to, whoever wrote it: this folder's methods and those of installed packages."""

import inspect
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity
from torch.testing import assert_close

from bench.types import Affine, Features
from methods.base import Distiller
from methods.catalog import FAMILIES
from tests.methods.samples import (
    METHODS,
    STUDENT,
    TEACHER,
    TOKENS,
    TWIN,
    batch,
    build,
    features,
    read_by,
    shapes,
    tensors,
)

INDICES = [3, 14, 15, 9, 26, 5]
OTHERS = [  # teachers that differ from the student in one way each
    TEACHER,
    shapes("fewer_stages", [(3, 8), (4, 8), (5, 4)], embedding=7),
    shapes("one_stage", [(3, 8)], embedding=7),
    shapes("more_classes", [(3, 8), (4, 8), (5, 4), (6, 2)], embedding=7, classes=11),
    shapes("odd_sizes", [(3, 11), (4, 11), (5, 7), (6, 3)], embedding=7),
    shapes("smaller_maps", [(3, 4), (4, 4), (5, 2), (6, 1)], embedding=7),
    TOKENS,
]


@pytest.fixture(params=METHODS)
def name(request):
    return request.param


@pytest.fixture
def pair(name):
    """Return shapes of a student and of a teacher that the method can serve, as it reads them."""
    cls = METHODS[name].load()
    teacher = next(other for other in (TEACHER, TWIN) if cls.inapplicable(STUDENT, other) is None)
    return read_by(name, STUDENT, teacher), teacher


def in_layout(side: Features, layout: torch.memory_format) -> dict[str, Tensor | tuple[Tensor, ...]]:
    """Return the maps of a network's features in a memory layout."""
    maps = {
        field: tuple(maps.contiguous(memory_format=layout) for maps in getattr(side, field))
        for field in ("stages", "preactivations")
    }
    return maps | {"final": side.final.contiguous(memory_format=layout)}


def in_precision(side: Features, precision: torch.dtype) -> Features:
    """Return a network's features with maps rounded to bfloat16 and held in a precision, the rest in float32."""
    maps = {
        field: tuple(map.bfloat16().to(precision) for map in getattr(side, field))
        for field in ("stages", "preactivations")
    }
    layers = [Affine(one.weight.float(), one.bias.float()) for one in (side.classifier, *side.norms)]
    return replace(
        side,
        embedding=side.embedding.float(),
        logits=side.logits.float(),
        final=side.final.bfloat16().to(precision),
        classifier=layers[0],
        norms=tuple(layers[1:]),
        **maps,
    )


def losses(distiller: Distiller, student: Features, teacher: Features, device: str = "cpu") -> list[Tensor]:
    """Return the losses of all stages that have one: the initial and the main."""
    torch.manual_seed(7)
    found = []
    if stage := distiller.initial_stage():
        found.append(stage.loss(student if stage.trains_student else None, teacher, batch(INDICES, device)))
    main = distiller.loss(student, teacher, batch(INDICES, device))
    return found if main is None else [*found, main]


def test_a_method_gives_a_finite_scalar(name, pair):
    found = losses(build(name, *pair), features(pair[0], seed=1), features(pair[1], seed=2))
    assert found
    assert all(loss.shape == () and loss.dtype == torch.float64 and loss.isfinite() for loss in found)


def test_a_method_draws_the_student_and_leaves_the_teacher_alone(name, pair):
    student, teacher = features(pair[0], seed=1, trains=True), features(pair[1], seed=2)
    before = [tensor.clone() for tensor in tensors(teacher)]
    distiller = build(name, *pair)
    sum(losses(distiller, student, teacher)).backward()
    distiller.after_step()
    gradients = [tensor.grad for tensor in tensors(student) if tensor.grad is not None]
    assert any(gradient.count_nonzero() for gradient in gradients)
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert all(tensor.grad is None for tensor in tensors(teacher))
    assert all(map(torch.equal, tensors(teacher), before))


def test_a_method_gives_the_same_whichever_way_maps_lie_in_memory(name, pair):
    found = []
    for layout in (torch.contiguous_format, torch.channels_last):
        student, teacher = features(pair[0], seed=1, trains=True), features(pair[1], seed=2)
        of_layout = [replace(side, **in_layout(side, layout)) for side in (student, teacher)]
        total = sum(losses(build(name, *pair), *of_layout))
        total.backward()
        found.append([total, *(tensor.grad for tensor in tensors(student) if tensor.grad is not None)])
    assert_close(found[0], found[1])


@pytest.mark.parametrize("name", [name for name in METHODS if METHODS[name].load().autocast])
def test_a_method_in_bfloat16_agrees_with_float32_on_the_same_maps(name, pair):
    found = []
    for precision in (torch.bfloat16, torch.float32):
        student, teacher = (in_precision(side, precision) for side in (features(pair[0], 1), features(pair[1], 2)))
        for tensor in tensors(student):
            tensor.requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
            of_stages = losses(build(name, *pair).float(), student, teacher)
        assert all(loss.dtype == torch.float32 for loss in of_stages)
        sum(of_stages).backward()
        found.append(([*of_stages], [tensor.grad.float() for tensor in tensors(student) if tensor.grad is not None]))
    (losses_low, gradients_low), (losses_high, gradients_high) = found
    assert_close(losses_low, losses_high, rtol=0.02, atol=0)
    for low, high in zip(gradients_low, gradients_high, strict=True):
        assert cosine_similarity(low.flatten(), high.flatten(), dim=0) > 0.97  # a ReLU near 0 may fall the other way


def test_a_method_goes_on_bitwise_from_its_state_dict(name, pair):
    student, teacher = features(pair[0], seed=1, trains=True), features(pair[1], seed=2)
    distiller = build(name, *pair)
    sum(losses(distiller, student, teacher)).backward()
    distiller.after_step()
    resumed = build(name, *pair, seed=99)
    resumed.load_state_dict(distiller.state_dict())
    assert all(map(torch.equal, losses(distiller, student, teacher), losses(resumed, student, teacher)))


def test_a_method_is_built_alike_under_the_same_seed(name, pair):
    first, second = build(name, *pair).state_dict(), build(name, *pair).state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(value, second[key]) for key, value in first.items())


def test_a_method_never_waits_for_its_device(name, pair):
    """Meta tensors hold no values, so a loss that reads one on the host (item, branch, boolean index) raises."""
    distiller = build(name, *pair).to("meta")
    student = features(pair[0], seed=1, trains=True, device="meta")
    sum(losses(distiller, student, features(pair[1], seed=2, device="meta"), device="meta")).backward()
    distiller.after_step()


@pytest.mark.parametrize("other", OTHERS, ids=lambda other: other.network)
def test_a_method_serves_a_pair_or_says_in_a_line_why_not(name, other):
    for pair in ((STUDENT, other), (other, STUDENT)):
        reason = METHODS[name].load().inapplicable(*pair)
        if reason is None:
            served = read_by(name, *pair), pair[1]
            student, teacher = features(served[0], seed=1), features(served[1], seed=2)
            assert all(loss.isfinite() for loss in losses(build(name, *served), student, teacher))
        else:
            assert isinstance(reason, str)
            assert len(reason) > 10
            assert "\n" not in reason


def test_a_methods_parameters_can_be_read_from_its_source(name):
    method = METHODS[name]
    signature = inspect.signature(method.load()).parameters
    assert list(signature)[:3] == ["student", "teacher", "data"]
    keywords = {key: value for key, value in signature.items() if value.kind is value.KEYWORD_ONLY}
    assert {key: value.default for key, value in keywords.items()} == {
        key: parameter.default for key, parameter in method.parameters.items()
    }
    assert all(isinstance(value.default, int | float | bool | str | None) for value in keywords.values())
    assert all(
        parameter.adapter.validate_python(parameter.default) == parameter.default
        for parameter in method.parameters.values()
    )


def test_a_methods_head_states_its_family_and_the_year_of_its_paper(name):
    assert METHODS[name].family in FAMILIES
    assert METHODS[name].year in range(2014, 2100)


def test_a_methods_head_states_paper_formula_reads_and_weight(name):
    summary = METHODS[name].summary
    assert summary.startswith(f"{METHODS[name].title}: ")
    assert all(f"\n{word}" in summary for word in ("Paper:", "Formula:", "Reads:", "Weight:"))
