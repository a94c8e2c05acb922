from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from tests.methods.samples import STUDENT, build


def factor(features):
    """Return the normalised energy of one sample's positions."""
    energy = (features**2).mean(dim=0).flatten()
    return energy / energy.norm()


def test_ft_compares_the_translated_student_with_the_paraphrased_teacher(student, teacher, batch):
    distiller = build("ft")
    translated = distiller.translator(student.stages[-1])
    paraphrased = distiller.paraphraser.encoder(teacher.stages[-1])
    gaps = [abs(factor(s) - factor(t)).mean() for s, t in zip(translated, paraphrased, strict=True)]
    assert_close(distiller.loss(student, teacher, batch), sum(gaps) / 6)


def test_ft_first_trains_the_paraphraser_to_repeat_the_teacher(teacher, batch):
    distiller = build("ft")
    stage = distiller.initial_stage()
    error = distiller.paraphraser(teacher.stages[-1]) - teacher.stages[-1]
    assert_close(stage.loss(None, teacher, batch), (error**2).sum() / error.numel())
    assert stage.modules == (distiller.paraphraser,)
    assert not stage.trains_student


def test_ft_leaves_the_paraphraser_alone_in_the_main_stage(student, teacher, batch):
    distiller = build("ft")
    distiller.loss(student, teacher, batch).backward()
    assert all(parameter.grad is None for parameter in distiller.paraphraser.parameters())
    assert all(parameter.grad is not None for parameter in distiller.translator.parameters())


@pytest.mark.parametrize(
    ("network", "lr"), [("resnet8", 0.01), ("resnet8x4", 0.01), ("wrn_16_2", 0.01), ("ResNet50", None), ("vgg8", None)]
)
def test_ft_slows_its_initial_stage_for_resnets_and_wrns(network, lr):
    assert build("ft", student=replace(STUDENT, network=network)).initial_stage().lr == lr


def test_ft_ignores_the_scale_of_the_factors(student, teacher, batch):
    distiller = build("ft")
    loss = distiller.loss(student, teacher, batch)
    with torch.no_grad():
        norm = distiller.translator[-2]
        norm.weight *= 3
        norm.bias *= 3
    assert_close(distiller.loss(student, teacher, batch), loss)
