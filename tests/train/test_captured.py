"""Steps captured as CUDA graphs: eager training's numbers, its draws, and bit for bit the same after a resume."""

import logging

import pytest
import torch

from bench.train.captured import WARM_UP, CapturedSteps
from bench.train.epoch import train_epoch
from bench.train.learner import MAIN
from methods._draws import draw_again, keep_seeds, new_seed, numbers
from tests.parity.reference import LATER
from tests.train.conftest import ALL, CPU

GPU = torch.device("cuda")
SCHEDULE = {"epochs": 2, "batch_size": 8, "milestones": [1], "initial_epochs": 0}  # 6 whole batches and one of 2
CRD = {"method": "crd", "n_negatives": 16}
ROWS = [*(name for name in ALL if isinstance(name, str)), *sorted(LATER), CRD]
on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def trained(cohort, captured=True, epochs=(1,), methods=ROWS, **training):
    """Return lanes after some epochs, and what trained them."""
    lanes, data, teachers, _ = cohort(GPU, methods=methods, training=SCHEDULE | training)
    everyone = list(lanes.values())
    steps = CapturedSteps(teachers, GPU)
    second = any(lane.reads_second_view for lane in everyone)
    for epoch in epochs:
        batches = data.epoch(1, MAIN, epoch, 8, second_view=second)
        for _ in steps.train_epoch(everyone, batches) if captured else train_epoch(teachers, everyone, batches):
            pass
        for lane in everyone:
            lane.advance()
    assert {label: lane.failure for label, lane in lanes.items() if lane.failure} == {}
    return lanes, steps


def parameters(lane) -> list[torch.Tensor]:
    return [value for module in lane.modules for value in module.state_dict().values()]


@pytest.mark.cuda
@on_gpu
@pytest.mark.parametrize(
    "training",
    [
        {},
        {"precision": "bf16"},
        {"optimizer": "adamw", "lr": 1e-3, "ema": 0.9, "gradient_clip": 1.0, "schedule": "cosine"},
    ],
    ids=["sgd", "bf16", "recipe"],
)
def test_every_method_has_the_losses_of_its_steps_launch_by_launch(cohort, training, caplog):
    caplog.set_level(logging.INFO)
    graphs, steps = trained(cohort, epochs=(1, 2), **training)
    launches, _ = trained(cohort, captured=False, epochs=(1, 2), **training)
    assert not steps.refused, caplog.text
    assert len(steps.steps) == len(graphs)
    for label, lane in graphs.items():
        found, expected = lane.read(), launches[label].read()
        tolerance = 0.05 if training.get("precision") else 2e-3
        assert found == pytest.approx(expected, rel=tolerance, abs=tolerance), label


@pytest.mark.cuda
@on_gpu
def test_training_twice_gives_the_same_bits(cohort):
    first, _ = trained(cohort, methods=["kd", "at", CRD])
    again, _ = trained(cohort, methods=["kd", "at", CRD])
    for label, lane in first.items():
        assert all(map(torch.equal, parameters(lane), parameters(again[label]))), label


@pytest.mark.cuda
@on_gpu
def test_a_checkpoint_within_an_epoch_goes_on_with_the_same_bits(cohort):
    whole, _ = trained(cohort, methods=["kd", CRD])
    lanes, data, teachers, _ = cohort(GPU, methods=["kd", CRD], training=SCHEDULE)
    everyone = list(lanes.values())
    for step in CapturedSteps(teachers, GPU).train_epoch(everyone, data.epoch(1, MAIN, 1, 8)):
        if step == WARM_UP + 1:
            break
    again, data, teachers, _ = cohort(GPU, methods=["kd", CRD], training=SCHEDULE)
    for label, lane in lanes.items():
        again[label].restore(again[label].opened(lane.checkpoint()))
    resumed = list(again.values())
    for _ in CapturedSteps(teachers, GPU).train_epoch(resumed, data.epoch(1, MAIN, 1, 8, WARM_UP + 2)):
        pass
    for label, lane in whole.items():
        assert all(map(torch.equal, parameters(lane), parameters(again[label]))), label


@pytest.mark.cuda
@on_gpu
def test_a_step_that_waits_for_the_gpu_is_not_captured(cohort, caplog, monkeypatch):
    lanes, data, teachers, _ = cohort(GPU, methods=["kd", "at"], training=SCHEDULE)
    distiller = lanes["AT"].terms[0].distiller
    loss = distiller.loss
    monkeypatch.setattr(distiller, "loss", lambda *given: loss(*given) * (1.0 + 0 * loss(*given).item()))
    steps = CapturedSteps(teachers, GPU)
    with caplog.at_level(logging.INFO):
        for first in (0, 7):
            for _ in steps.train_epoch(list(lanes.values()), data.epoch(1, MAIN, 1, 8)):
                pass
            assert {lane.trained for lane in lanes.values()} == {first + 7}
    assert steps.refused == {lanes["AT"].spec.id}
    assert caplog.text.count("is trained launch by launch") == 1
    assert {label: lane.failure for label, lane in lanes.items() if lane.failure} == {}


@pytest.mark.cuda
@on_gpu
def test_dropout_draws_as_launch_by_launch(cohort):
    def dropping(captured):
        lanes, data, teachers, _ = cohort(GPU, methods=["kd", "at"], training=SCHEDULE)
        for lane in lanes.values():
            lane.student.features = dropped(lane.student.features)
        everyone = list(lanes.values())
        epoch = data.epoch(1, MAIN, 1, 8)
        for _ in (
            CapturedSteps(teachers, GPU).train_epoch(everyone, epoch)
            if captured
            else train_epoch(teachers, everyone, epoch)
        ):
            pass
        return lanes

    def dropped(features):
        return lambda images, *rest: features(torch.nn.functional.dropout(images, 0.5), *rest)

    graphs, launches = dropping(True), dropping(False)
    for label, lane in graphs.items():
        assert lane.read() == pytest.approx(launches[label].read(), rel=2e-3, abs=2e-3), label


@pytest.mark.cuda
@on_gpu
def test_a_lane_that_fails_leaves_the_others_bits_as_they_are(cohort, monkeypatch):
    undisturbed, _ = trained(cohort, methods=["kd", "at"])
    lanes, data, teachers, _ = cohort(GPU, methods=["kd", "at"], training=SCHEDULE)

    def refuse(*_):
        raise ValueError("no loss")

    for step in CapturedSteps(teachers, GPU).train_epoch(list(lanes.values()), data.epoch(1, MAIN, 1, 8)):
        if step == WARM_UP + 1:
            monkeypatch.setattr(lanes["AT"].terms[0].distiller, "loss", refuse)  # met by the last, partial batch
    assert lanes["AT"].failure is not None
    for label in ("none", "KD"):
        assert lanes[label].failure is None
        assert all(map(torch.equal, parameters(lanes[label]), parameters(undisturbed[label]))), label


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
    assert "launch by launch" in caplog.text
    for one in plan.cells:
        assert store.record(one.runs[0].id)["metrics"]["top1"] > 0, one.label


def test_kept_seeds_are_set_to_what_would_be_drawn_anew():
    with keep_seeds(CPU) as kept:
        first = [new_seed(), new_seed()]
    torch.manual_seed(3)
    expected = [new_seed(), new_seed()]
    torch.manual_seed(3)
    draw_again(kept)
    assert [int(seed) for seed in first] == [int(seed) for seed in kept] == expected
    assert torch.equal(numbers(first[0], (5,), CPU), numbers(expected[0], (5,), CPU))
