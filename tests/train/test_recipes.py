"""Recipes: one step of each part equals a plain PyTorch loop, and a run continues bit for bit."""

import copy

import pytest
import torch
from timm.optim import Lamb, param_groups_weight_decay
from timm.scheduler import CosineLRScheduler, StepLRScheduler
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from bench.data.mixing import Mix
from bench.models import build
from bench.schedule import Schedule
from bench.store import CHECKPOINT, Store
from bench.train import loop
from bench.train.build import inapplicable
from bench.train.learner import MAIN, smoothed_loss
from bench.train.optimizers import groups_of, learning_rate, optimizer_of
from bench.types import Batch
from tests.train.conftest import OFTEN, Silent, cell, rows, weights

TRAINING = {"epochs": 2, "batch_size": 16, "milestones": [1]}


def schedule(**keys: object) -> Schedule:
    return Schedule(epochs=20, milestones=(8, 15), **keys)


def small() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)).double()


def trained(network: nn.Module, optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    """Return a network's parameters after three steps on fixed data."""
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        images = torch.randn(8, 6, dtype=torch.float64, generator=generator)
        optimizer.zero_grad()
        network(images).square().mean().backward()
        optimizer.step()
    return [p.detach() for p in network.parameters()]


OPTIMIZERS = {
    "nesterov": ({"nesterov": True}, lambda p: torch.optim.SGD(p, 0.1, 0.9, weight_decay=0.2, nesterov=True)),
    "adamw": ({"optimizer": "adamw"}, lambda p: torch.optim.AdamW(p, 0.1, weight_decay=0.2)),
    "lamb": ({"optimizer": "lamb"}, lambda p: Lamb(p, 0.1, weight_decay=0.2)),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_takes_the_steps_of_its_library(name):
    keys, plain = OPTIMIZERS[name]
    recipe, ours, theirs = schedule(weight_decay=0.2, **keys), small(), small()
    groups = groups_of([ours], 0.1, recipe)
    assert_close(
        trained(ours, optimizer_of(groups, recipe)), trained(theirs, plain(theirs.parameters())), rtol=0, atol=0
    )


def test_norms_and_biases_have_no_decay_where_timm_gives_them_none():
    recipe, ours, theirs = schedule(weight_decay=0.2, no_decay_on_norms=True), small(), small()
    plain = torch.optim.SGD(param_groups_weight_decay(theirs, 0.2), 0.1, 0.9)
    optimizer = optimizer_of(groups_of([ours], 0.1, recipe), recipe)
    assert_close(trained(ours, optimizer), trained(theirs, plain), rtol=0, atol=0)


@pytest.mark.parametrize("course", ["cosine", "steps"])
def test_the_rate_is_timms_in_every_epoch(course):
    recipe = schedule(lr=0.5, schedule=course, min_lr=0.01 * (course == "cosine"), warmup_epochs=3, warmup_lr=0.02)
    optimizer = torch.optim.SGD(small().parameters(), lr=0.5)
    warmup = {"warmup_t": 3, "warmup_lr_init": 0.02, "warmup_prefix": False}
    if course == "cosine":
        theirs = CosineLRScheduler(optimizer, t_initial=20, lr_min=0.01, **warmup)
    else:
        recipe = recipe.model_copy(update={"milestones": (7, 14)})
        theirs = StepLRScheduler(optimizer, decay_t=7, decay_rate=0.1, **warmup)
    for epoch in range(1, 21):
        theirs.step(epoch - 1)
        assert learning_rate(recipe, epoch) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)


def labelled(soft: torch.Tensor | None = None) -> tuple[torch.Tensor, Batch]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 5, dtype=torch.float64, generator=generator)
    images = torch.zeros(4, 3, 8, 8)
    return logits, Batch(images, images, torch.tensor([0, 3, 1, 4]), torch.arange(4), soft_targets=soft)


def test_smoothed_labels_give_pytorchs_loss():
    logits, batch = labelled()
    assert_close(
        smoothed_loss(logits, batch, 0.1, is_binary=False), F.cross_entropy(logits, batch.targets, label_smoothing=0.1)
    )


def test_the_loss_of_mixed_images_is_that_of_both_labels_by_their_shares():
    logits, batch = labelled()
    soft = Mix(0.3).labels(batch.targets, 5)
    both = (F.cross_entropy(logits, targets, label_smoothing=0.1) for targets in (batch.targets, batch.targets.flip(0)))
    found = smoothed_loss(logits, labelled(soft)[1], 0.1, is_binary=False)
    assert_close(found, sum(share * loss for share, loss in zip((0.3, 0.7), both, strict=True)), rtol=1e-7, atol=0)


def test_binary_cross_entropy_is_the_mean_over_images_and_classes():
    logits, batch = labelled()
    total = 0.0
    for row, target in zip(logits.sigmoid(), batch.targets.tolist(), strict=True):
        for k, p in enumerate(row):
            y = 0.9 * (k == target) + 0.1 / 5
            total -= y * p.log() + (1 - y) * (1 - p).log()
    assert_close(smoothed_loss(logits, batch, 0.1, is_binary=True), total / 20)


def test_a_step_of_a_whole_recipe_equals_a_plain_loop(cohort):
    keys = {"optimizer": "adamw", "label_smoothing": 0.1, "gradient_clip": 0.5, "ema": 0.9, "no_decay_on_norms": True}
    lanes, data, teachers, _ = cohort(methods=["kd"], training=TRAINING | keys)
    lane = lanes["none"]
    plain, average = copy.deepcopy(lane.student), copy.deepcopy(lane.student)
    optimizer = torch.optim.AdamW(param_groups_weight_decay(plain, lane.schedule.weight_decay), lane.schedule.lr)
    batches = list(data.epoch(1, MAIN, 1, 16))[:2]
    for _ in loop.train_epoch(teachers, [lane], batches):
        pass
    plain.train()
    for batch in batches:
        optimizer.zero_grad()
        F.cross_entropy(plain(batch.images), batch.targets, label_smoothing=0.1).backward()
        nn.utils.clip_grad_norm_(plain.parameters(), 0.5)
        optimizer.step()
        for mean, value in zip(average.state_dict().values(), plain.state_dict().values(), strict=True):
            mean.copy_(0.9 * mean + 0.1 * value if mean.is_floating_point() else value)
    assert_close(lane.student.state_dict(), plain.state_dict(), rtol=1e-3, atol=1e-4)
    assert_close(lane.networks["student"].state_dict(), average.state_dict(), rtol=1e-3, atol=1e-4)


class Interrupted(Silent):
    """Ends the process's work within the second epoch of the student."""

    def step(self, lanes, step, steps) -> None:
        if lanes[0].spec.teachers and lanes[0].clock.epoch == 2 and step == 2:
            raise KeyboardInterrupt


def test_an_interrupted_run_continues_bit_for_bit(bench):
    keys = {
        "optimizer": "adamw",
        "lr": 0.001,
        "schedule": "cosine",
        "milestones": [],
        "warmup_epochs": 1,
        "warmup_lr": 0.0001,
    }
    training = TRAINING | keys | {"ema": 0.9, "mixup": 0.8, "cutmix": 1.0}
    teacher = {"epochs": 1, "mixup": 0.0, "cutmix": 0.0}
    suite = bench(methods=["kd"], training=training, teacher_training=teacher, **OFTEN)
    plan, whole, _ = suite.run("whole", only=["KD"])
    with pytest.raises(KeyboardInterrupt):
        suite.run("torn", only=["KD"], observer=Interrupted(), teachers=whole)
    run = cell(plan, "KD").runs[0]
    torn = Store(suite.folder / "torn")
    assert (torn.folder(run.id) / CHECKPOINT).is_file()
    suite.run("torn", only=["KD"])
    assert weights(torn, run.id) == weights(whole, run.id)
    assert rows(torn, run.id) == rows(whole, run.id)


def test_a_checkpoint_from_a_gpu_continues_on_a_cpu(cohort):
    lanes, data, teachers, _ = cohort(methods=["kd"], training=TRAINING | {"optimizer": "adamw"})
    first, second = list(data.epoch(1, MAIN, 1, 16))[:2]
    lane = lanes["none"]
    list(loop.train_epoch(teachers, [lane], [first]))
    state = lane.learner.state()
    of_gpu = {"param_groups": [group | {"capturable": True} for group in state["optimizer"]["param_groups"]]}
    lane.learner.load_state(state | {"optimizer": state["optimizer"] | of_gpu}, MAIN)
    list(loop.train_epoch(teachers, [lane], [second]))
    assert lane.failure is None


def test_a_run_with_mixed_images_has_the_bits_that_it_has_alone(cohort):
    changes = {"methods": ["kd", "at"], "training": TRAINING | {"mixup": 0.8, "randaugment": 9.0, "ema": 0.9}}
    lanes, data, teachers, _ = cohort(**changes)
    alone, _, _, _ = cohort(**changes)
    for together in ([lanes["none"], lanes["KD"], lanes["AT"]], [alone["AT"]]):
        for _ in loop.train_epoch(teachers, together, data.epoch(1, MAIN, 1, 16)):
            pass
    for name, value in lanes["AT"].networks["student"].state_dict().items():
        assert torch.equal(value, alone["AT"].networks["student"].state_dict()[name])


def test_methods_that_need_one_label_per_image_say_so_where_images_are_mixed(bench):
    methods = ["kd", "dkd", "nkd", {"method": "crd", "n_negatives": 8}, "mlld"]
    suite = bench(methods=methods, training=TRAINING | {"cutmix": 1.0})
    plan = suite.plan()
    reasons = {
        one.label.split()[0]: inapplicable(
            one.runs[0], {name: plan.runs[name] for name in one.runs[0].teachers}, suite.methods
        )
        for one in plan.cells
    }
    one_label = "needs images with one label each; mixup and cutmix mix them"
    assert reasons == {
        **dict.fromkeys(("teacher", "none", "KD")),
        **{name: f"{name.lower()} {one_label}" for name in ("DKD", "NKD", "CRD")},
        "MLLD": "mlld needs a second view of each image; mixup and cutmix mix the first alone",
    }


def test_positions_of_a_timm_network_have_no_decay():
    network = build("timm.test_vit", num_classes=10, image_size=(32, 32))
    decayed, free = groups_of([network], 0.1, schedule(no_decay_on_norms=True))
    names = {id(p): name for name, p in network.named_parameters()}
    matrices = {names[id(p)] for p in free["params"] if p.ndim > 1}
    assert {name.rpartition(".")[2] for name in matrices} >= {"pos_embed", "cls_token"}
    assert len(decayed["params"]) + len(free["params"]) == len(names)
