"""The yardstick computes what the product computes: else their times could not be compared."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from bench.schedule import Schedule
from bench.spec import DataSpec, NetworkSpec, RunSpec, TermSpec
from bench.train.build import build_lane
from bench.train.epoch import train_epoch
from bench.train.lane import Lane
from bench.train.learner import INITIAL, Teacher
from bench.train.networks import build_network, network_shapes
from bench.types import Batch
from benchmarks import naive
from tests.methods import samples
from tests.methods.samples import DATA, STUDENT, TEACHER, TWIN, batch, build, features, tensors
from tests.parity.reference import LATER, UNPUBLISHED

CLOSE = {"rtol": 1e-9, "atol": 1e-15}
METHODS = {name: method for name, method in samples.METHODS.items() if name not in UNPUBLISHED | LATER}
INDICES = [3, 14, 15, 9, 26, 5]
NEGATIVES = torch.from_numpy(np.random.RandomState(0).randint(0, DATA.n, (len(INDICES), 20)))
PIXELS = DataSpec(name="noise", classes=5, size=(32, 32), mean=(0.0,) * 3, std=(1.0,) * 3, augment="none")


def distiller_of(name):
    """Return a method's distiller with CRD's draw handed in, and its teacher's shapes."""
    teacher = TEACHER if METHODS[name].load().inapplicable(STUDENT, TEACHER) is None else TWIN
    given = {"n_negatives": NEGATIVES.shape[1]} if name == "crd" else {}
    distiller = build(name, STUDENT, teacher, **given)
    distiller.draw_negatives = lambda indices: NEGATIVES[: len(indices)]
    return distiller, teacher


def naive_batch(one: Batch) -> naive.NaiveBatch:
    return naive.NaiveBatch(one.images.contiguous(), one.targets, one.indices, NEGATIVES[: len(one.indices)])


def assert_same_value_and_gradients(found, wanted, student):
    assert_close(found, wanted, **CLOSE)
    leaves = tensors(student)
    gradients = [torch.autograd.grad(loss, leaves, materialize_grads=True) for loss in (found, wanted)]
    for one, other in zip(*gradients, strict=True):
        assert_close(one, other, rtol=1e-8, atol=1e-12)


# terms


@pytest.mark.parametrize("name", METHODS)
def test_a_naive_term_is_the_products(name):
    distiller, teacher_shapes = distiller_of(name)
    student, teacher = features(STUDENT, seed=1, trains=True), features(teacher_shapes, seed=2)
    term, wanted = naive.main_term(name, distiller), distiller.loss(student, teacher, batch(INDICES))
    assert (term is None) == (wanted is None)
    if term is not None:
        assert_same_value_and_gradients(term(distiller, student, teacher, naive_batch(batch(INDICES))), wanted, student)


@pytest.mark.parametrize("name", ["at", "nst", "vid"])
def test_a_naive_term_pools_the_higher_map_as_the_product_does(name):
    tall = replace(
        TEACHER, stages=tuple((channels, 2 * height, 2 * width) for channels, height, width in STUDENT.stages)
    )
    for pair in ((STUDENT, tall), (tall, STUDENT)):
        student, teacher = features(pair[0], seed=1), features(pair[1], seed=2)
        distiller = build(name, *pair)
        found = naive.main_term(name, distiller)(distiller, student, teacher, naive_batch(batch(INDICES)))
        assert_close(found, distiller.loss(student, teacher, batch(INDICES)), **CLOSE)


def test_the_naive_banks_move_as_the_products_do():
    distiller, teacher_shapes = distiller_of("crd")
    student, teacher = features(STUDENT, seed=1), features(teacher_shapes, seed=2)
    term = naive.NaiveContrast(distiller)
    for _ in range(3):
        wanted = distiller.loss(student, teacher, batch(INDICES))
        assert_close(term(distiller, student, teacher, naive_batch(batch(INDICES))), wanted, **CLOSE)
        distiller.after_step()
        term.update(distiller.bank_momentum)
    assert_close(term.student_bank, distiller.student_bank, **CLOSE)
    assert_close(term.teacher_bank, distiller.teacher_bank, **CLOSE)


# whole steps


@pytest.fixture
def teachers():
    network = NetworkSpec(network="resnet14")
    teacher = build_network(network, PIXELS).double().eval().requires_grad_(False)
    return {"teacher": Teacher(teacher, network_shapes(network, PIXELS))}


def lane_of(name: str, teachers: dict[str, Teacher]) -> Lane:
    """Return a method's lane in float64, at its start; `none` has no terms."""
    terms, task_weight = (), 1.0
    if name != "none":
        parameters = {key: parameter.default for key, parameter in METHODS[name].parameters.items()}
        parameters |= {"n_negatives": NEGATIVES.shape[1]} if name == "crd" else {}
        terms = (TermSpec(method=name, version=1, weight=METHODS[name].weight, parameters=parameters),)
        task_weight = METHODS[name].task_weight
    spec = RunSpec(
        student=NetworkSpec(network="resnet8"),
        data=PIXELS,
        schedule=Schedule(epochs=2, batch_size=4, lr=0.01, milestones=(), initial_epochs=2),
        seed=0,
        teachers=("teacher",) if terms else (),
        terms=terms,
        task_weight=task_weight,
    )
    lane = build_lane(spec, teachers, DATA, METHODS, torch.device("cpu"))
    lane.student.double()
    for term in lane.terms:
        term.distiller.double()
        term.distiller.draw_negatives = lambda indices: NEGATIVES[: len(indices)]
    return lane


@pytest.mark.parametrize("name", ["none", *METHODS])
def test_naive_steps_have_the_losses_of_the_products_lane(name, teachers):
    lane = lane_of(name, teachers)
    teacher, distiller = (teachers["teacher"].network, lane.terms[0].distiller) if lane.terms else (None, None)
    run = naive.NaiveRun(name, lane.student, teacher, distiller, lane.schedule)
    while lane.clock.stage == INITIAL:
        lane.advance()
    for i in range(2):
        images = torch.from_numpy(np.random.RandomState(i).standard_normal((4, 3, 32, 32)))
        indices = torch.arange(4 * i, 4 * i + 4)
        one = Batch(images, images, DATA.targets[indices], indices)
        for _ in train_epoch(teachers, [lane], [one]):
            pass
        assert lane.failure is None, lane.failure
        assert run.step(naive_batch(one)) == pytest.approx(lane.learner.meter.read()["loss"], rel=1e-9)
        lane.advance()


def test_a_naive_run_computes_on_contiguous_tensors_whatever_it_is_given(teachers):
    lane, layouts = lane_of("kd", teachers), []
    run = naive.NaiveRun("kd", lane.student, teachers["teacher"].network, lane.terms[0].distiller, lane.schedule)
    for network in (run.student, run.teacher):
        network.conv1.register_forward_hook(lambda module, given, output: layouts.append(output.is_contiguous()))
    images = torch.randn(4, 3, 32, 32, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
    run.step(naive.NaiveBatch(images, DATA.targets[:4], torch.arange(4), NEGATIVES[:4, :0]))
    assert layouts == [True, True]


def test_a_naive_run_leaves_the_lanes_networks_as_they_are(teachers):
    lane = lane_of("kd", teachers)
    before = [value.clone() for value in lane.student.state_dict().values()]
    naive.NaiveRun("kd", lane.student, teachers["teacher"].network, lane.terms[0].distiller, lane.schedule).step(
        naive_batch(Batch(*[torch.randn(4, 3, 32, 32, dtype=torch.float64)] * 2, DATA.targets[:4], torch.arange(4)))
    )
    assert all(map(torch.equal, before, lane.student.state_dict().values()))
    assert lane.student.conv1.weight.is_contiguous(memory_format=torch.channels_last)


# the loader


def test_the_loader_crops_flips_and_normalises():
    images = np.random.RandomState(0).randint(1, 256, (1, 8, 8, 3), dtype=np.uint8)
    torch.manual_seed(0)
    padded = np.pad(images[0], ((4, 4), (4, 4), (0, 0)))
    possible = {
        np.ascontiguousarray(crop[:, ::step]).tobytes()
        for top in range(9)
        for left in range(9)
        for crop in [padded[top : top + 8, left : left + 8]]
        for step in (1, -1)
    }
    seen = set()
    for _ in range(20):
        (one,) = naive.loader(images, np.array([2]), mean=(0.5,) * 3, std=(0.25,) * 3, batch_size=4, workers=0)
        assert one.images.is_contiguous()
        assert one.images.dtype == torch.float32
        pixels = ((one.images[0] * 0.25 + 0.5) * 255).round().byte().permute(1, 2, 0).contiguous()
        seen.add(pixels.numpy().tobytes())
    assert seen <= possible
    assert len(seen) > 10


def test_the_loader_gives_each_sample_once_with_distinct_negatives_of_other_classes():
    targets = DATA.targets.numpy()
    images = np.zeros((len(targets), 8, 8, 3), dtype=np.uint8)
    batches = list(naive.loader(images, targets, (0.5,) * 3, (0.5,) * 3, batch_size=16, workers=0, n_negatives=20))
    assert [len(one.images) for one in batches] == [16, 16, 8]
    assert sorted(torch.cat([one.indices for one in batches]).tolist()) == list(range(40))
    for one in batches:
        assert one.targets.equal(DATA.targets[one.indices])
        assert (DATA.targets[one.negatives] != one.targets[:, None]).all()
        assert all(len(row.unique()) == 20 for row in one.negatives)


def test_the_loader_draws_no_negatives_unless_asked():
    (one,) = naive.loader(np.zeros((4, 8, 8, 3), np.uint8), np.arange(4), (0.5,) * 3, (0.5,) * 3, 4, workers=0)
    assert one.negatives.shape == (4, 0)
