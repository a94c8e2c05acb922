import math

import pytest
import torch
from torch.testing import assert_close

from tests.methods.samples import build


def test_ctkd_is_kd_at_its_learned_temperature(student, teacher, batch):
    distiller = build("ctkd")
    with torch.no_grad():
        distiller.theta.fill_(-0.5)
    temperature = 1 + 20 / (1 + math.exp(0.5))
    expected = build("kd", temperature=temperature).loss(student, teacher, batch)
    assert_close(distiller.loss(student, teacher, batch), expected)


@pytest.mark.parametrize(("epoch", "factor"), [(1, -0.02447174), (5, -0.5), (10, -1.0), (100, -1.0)])
def test_ctkd_turns_the_gradient_of_its_temperature_round_step_by_step(student, teacher, batch, epoch, factor):
    losses = []
    for size in (-1e-6, 1e-6):
        moved = build("ctkd")
        with torch.no_grad():
            moved.theta.add_(size)
        losses.append(moved.loss(student, teacher, batch).item())
    slope = (losses[1] - losses[0]) / 2e-6

    distiller = build("ctkd")
    distiller.epoch = epoch
    distiller.loss(student, teacher, batch).backward()
    assert_close(distiller.theta.grad.item(), factor * slope, rtol=1e-4, atol=0)


def test_ctkd_gives_the_student_its_whole_gradient_from_the_first_epoch(student, teacher, batch):
    found = []
    for epoch in (1, 50):
        distiller = build("ctkd")
        distiller.epoch = epoch
        found += torch.autograd.grad(distiller.loss(student, teacher, batch), student.logits)
    assert_close(*found, rtol=0, atol=0)


def test_ctkd_observes_its_temperature_and_the_factor(student, teacher, batch):
    distiller = build("ctkd", full_reversal=4)
    distiller.epoch = 2
    distiller.loss(student, teacher, batch)
    temperature, factor = distiller.observed()
    assert_close(temperature.item(), 1 + 20 / (1 + math.exp(-1)))
    assert_close(factor.item(), -0.5)
