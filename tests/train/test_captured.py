"""Steps captured as CUDA graphs: the bits of training launch by launch, also after a resume."""

import logging
import random

import numpy as np
import pytest
import torch
from torch.nn.functional import dropout

from bench.train.captured import WARM_UP, CapturedSteps, host_generators, overwrite, with_layout
from bench.train.epoch import teacher_features, train_epoch
from bench.train.learner import MAIN
from bench.train.precision import set_products
from methods._draws import draw_again, keep_seeds, new_seed, numbers
from tests.methods.samples import TOKENS, features, tensors
from tests.parity.reference import LATER
from tests.train.conftest import ALL, CPU

GPU = torch.device("cuda")
SIZE = 8
SCHEDULE = {"epochs": 2, "batch_size": SIZE, "milestones": [1], "initial_epochs": 0}
STEPS = 7  # of an epoch: six whole batches and one of two images
CRD = {"method": "crd", "n_negatives": 16}
ROWS = [*(name for name in ALL if isinstance(name, str)), *sorted(LATER), CRD]
FEW = ["kd", "at", CRD]
RECIPE = {"optimizer": "adamw", "lr": 1e-3, "ema": 0.9, "gradient_clip": 1.0, "schedule": "cosine", "milestones": []}
on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.fixture
def gpu(cohort_of_50):
    """Return a way to make a cohort at its start: its lanes by label, what trains them, and the epochs' batches."""

    def make(methods=FEW, **training):
        lanes, data, teachers, _ = cohort_of_50(GPU, methods=methods, training=SCHEDULE | training)
        set_products(training.get("precision", "fp32"))
        everyone = list(lanes.values())
        second = any(lane.reads_second_view for lane in everyone)
        return lanes, CapturedSteps(teachers, everyone), lambda *rest: data.epoch(1, MAIN, *rest, second_view=second)

    yield make
    set_products("fp32")
    torch.backends.cudnn.deterministic = False


def trained(made, captured=True, epochs=(1,)):
    """Return lanes after some epochs."""
    lanes, steps, batches_of = made
    everyone = list(lanes.values())
    for epoch in epochs:
        batches = (with_layout(batch, steps.layout) for batch in batches_of(epoch, SIZE))
        done = steps.train_epoch(everyone, batches) if captured else train_epoch(steps.teachers, everyone, batches)
        assert list(done) == list(range(STEPS))
        for lane in everyone:
            lane.advance()
    assert {label: lane.failure for label, lane in lanes.items() if lane.failure} == {}
    return lanes


def assert_same_bits(lanes, others) -> None:
    for label, lane in lanes.items():
        assert lane.read() == others[label].read(), label
        for module, other in zip(lane.modules, others[label].modules, strict=True):
            for name, value in module.state_dict().items():
                assert torch.equal(value, other.state_dict()[name]), (label, name)


@pytest.mark.cuda
@on_gpu
@pytest.mark.parametrize("training", [{}, {"precision": "bf16"}, RECIPE], ids=["sgd", "bf16", "recipe"])
def test_every_method_trains_as_launch_by_launch(gpu, training):
    made = gpu(ROWS, **training)
    graphs = trained(made, epochs=(1, 2))
    assert made[1].refused == {}
    assert len(made[1].steps) == len(graphs)
    assert_same_bits(graphs, trained(gpu(ROWS, **training), captured=False, epochs=(1, 2)))


@pytest.mark.cuda
@on_gpu
def test_a_checkpoint_within_an_epoch_goes_on_with_the_same_bits(gpu):
    lanes, steps, batches_of = gpu()
    for step in steps.train_epoch(list(lanes.values()), batches_of(1, SIZE)):
        if step == WARM_UP + 1:
            break
    saved = {label: lane.checkpoint() for label, lane in lanes.items()}
    lanes, steps, batches_of = gpu()
    for label, lane in lanes.items():
        lane.restore(lane.opened(saved[label]))
    for _ in steps.train_epoch(list(lanes.values()), batches_of(1, SIZE, WARM_UP + 2)):
        pass
    for lane in lanes.values():
        lane.advance()
    assert_same_bits(lanes, trained(gpu()))


@pytest.mark.cuda
@on_gpu
def test_a_step_that_waits_for_the_gpu_trains_launch_by_launch_and_says_so_once(gpu, caplog):
    lanes, steps, batches_of = gpu(["kd", "at"])
    distiller = lanes["AT"].terms[0].distiller
    loss = distiller.loss
    distiller.loss = lambda *given: loss(*given) * (1.0 if loss(*given).item() > -1 else 2.0)
    with caplog.at_level(logging.INFO):
        trained((lanes, steps, batches_of), epochs=(1, 2))
    assert steps.refused.keys() == {lanes["AT"].spec.id}
    assert caplog.text.count("launch by launch") == 1
    assert_same_bits(lanes, trained(gpu(["kd", "at"]), epochs=(1, 2)))


@pytest.mark.cuda
@on_gpu
def test_a_teacher_that_waits_for_the_gpu_runs_launch_by_launch_and_says_so_once(gpu, caplog):
    made = gpu(["kd", "at"])
    (teacher,) = made[1].teachers.values()
    first = teacher.network.features
    teacher.network.features = lambda images, *rest: first(images * torch.tensor(1.0, device=images.device), *rest)
    with caplog.at_level(logging.INFO):
        lanes = trained(made, epochs=(1, 2))
    assert caplog.text.count("launch by launch") == 1
    assert len(made[1].steps) == len(lanes)
    assert_same_bits(lanes, trained(gpu(["kd", "at"]), epochs=(1, 2)))


@pytest.mark.cuda
@on_gpu
def test_a_step_that_draws_on_the_host_trains_launch_by_launch(gpu):
    lanes, steps, batches_of = gpu(["kd", "at"])
    distiller = lanes["AT"].terms[0].distiller
    loss = distiller.loss
    distiller.loss = lambda *given: loss(*given) * float(torch.rand(()))
    trained((lanes, steps, batches_of))
    assert "on the host" in steps.refused[lanes["AT"].spec.id]
    assert lanes["KD"].spec.id in steps.steps


@pytest.mark.cuda
@on_gpu
def test_captures_with_later_learning_rates_take_no_more_memory(gpu):
    made = gpu(FEW, **RECIPE | {"epochs": 6})
    reserved = []
    for epoch in range(1, 7):
        trained(made, epochs=(epoch,))
        reserved.append(torch.cuda.memory_reserved())
    assert reserved[-1] < 1.2 * reserved[1]


@pytest.mark.cuda
@on_gpu
def test_dropout_draws_as_launch_by_launch(gpu):
    def dropping():
        made = gpu(["kd", "at"])
        for lane in made[0].values():
            features = lane.student.features
            lane.student.features = lambda images, *rest, of=features: of(dropout(images, 0.5), *rest)
        return made

    assert_same_bits(trained(dropping()), trained(dropping(), captured=False))


@pytest.mark.cuda
@on_gpu
def test_a_lane_that_fails_leaves_the_bits_of_the_others(gpu):
    def refuse(*_):
        raise ValueError("no loss")

    lanes, steps, batches_of = gpu(["kd", "at"])
    for step in steps.train_epoch(list(lanes.values()), batches_of(1, SIZE)):
        if step == WARM_UP + 1:
            lanes["AT"].terms[0].distiller.loss = refuse  # for the last batch, which is no whole one
    assert lanes.pop("AT").failure is not None
    for lane in lanes.values():
        assert lane.failure is None
        lane.advance()
    assert_same_bits(lanes, trained(gpu(["kd", "at"])))


@pytest.mark.cuda
@on_gpu
def test_a_suite_with_a_plugin_trains_on_a_gpu(bench, tmp_path, caplog):
    plugin = tmp_path / "own.py"
    plugin.write_text(
        "from methods.base import Distiller, register\n\n\n"
        '@register("own", weight=1.0)\n'
        "class Own(Distiller):\n"
        "    def loss(self, student, teacher, batch):\n"
        "        return (student.embedding - teacher.embedding).square().mean()\n"
    )
    suite = bench(plugins=[plugin], methods=["own", "ab", "kd"], training=SCHEDULE | {"initial_epochs": 1})
    with caplog.at_level(logging.INFO):
        plan, store, _ = suite.run(device="cuda")
    assert caplog.text.count("launch by launch") == 1
    assert {store.state(name) for name in plan.runs} == {"done"}


def test_kept_seeds_are_set_to_what_is_drawn_anew():
    with keep_seeds(CPU) as kept:
        first = [new_seed(), new_seed()]
    torch.manual_seed(3)
    expected = [new_seed(), new_seed()]
    torch.manual_seed(3)
    draw_again(kept)
    assert [int(seed) for seed in first] == [int(seed) for seed in kept] == expected
    assert torch.equal(numbers(first[0], (5,), CPU), numbers(expected[0], (5,), CPU))


@pytest.mark.parametrize("draw", [lambda: torch.rand(()), random.random, np.random.rand], ids=["torch", "random", "np"])
def test_a_draw_on_the_host_is_noticed(draw):
    before = host_generators()
    assert host_generators() == before
    draw()
    assert host_generators() != before


def test_no_method_draws_anything_but_seeds_on_the_host(cohort):
    lanes, data, teachers, _ = cohort(methods=ROWS, training=SCHEDULE)
    batch = next(iter(data.epoch(1, MAIN, 1, SIZE, second_view=True)))
    everyone = list(lanes.values())
    taught = teacher_features(teachers, everyone, batch)
    for lane in everyone:
        lane.begin_epoch()
        before = host_generators()
        with keep_seeds(CPU):
            lane.train_on(batch, taught)
        assert host_generators() == before, lane.spec.terms


def test_features_are_overwritten_in_place():
    own, others = features(TOKENS, seed=0), features(TOKENS, seed=1)
    kept = [one for view in (own, own.second) for one in tensors(view)]
    overwrite({"teacher": own}, {"teacher": others})
    for one, wanted in zip(kept, (one for view in (others, others.second) for one in tensors(view)), strict=True):
        assert torch.equal(one, wanted)
