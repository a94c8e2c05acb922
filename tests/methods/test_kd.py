from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from tests.methods.samples import STUDENT, build, shapes


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_kd_is_the_divergence_of_softened_predictions_times_the_squared_temperature(
    student, teacher, batch, temperature
):
    total = 0.0
    for s, t in zip(student.logits, teacher.logits, strict=True):
        p_s, p_t = (s / temperature).softmax(0), (t / temperature).softmax(0)
        total += sum(p_t[k] * (p_t[k] / p_s[k]).log() for k in range(len(s)))
    expected = temperature**2 * total / len(student.logits)
    assert_close(build("kd", temperature=temperature).loss(student, teacher, batch), expected)


def test_kd_is_zero_for_logits_that_differ_by_a_constant(student, teacher, batch):
    same = replace(teacher, logits=teacher.logits + 3)
    assert_close(build("kd").loss(same, teacher, batch).item(), 0.0, atol=1e-12, rtol=0)


def test_kd_needs_the_same_classes_on_both_sides():
    other = shapes("vgg8", [(3, 8)], embedding=7, classes=11)
    reason = build("kd").inapplicable(STUDENT, other)
    assert reason == "resnet8 has 5 classes, vgg8 11; the method needs the same"


def test_kd_standardises_on_request(student, teacher, batch):
    sides = []
    for side in (student, teacher):
        rows = [(z - z.mean()) / (z.std() + 1e-7) for z in side.logits]
        sides.append(replace(side, logits=torch.stack(rows)))
    expected = build("kd", temperature=2.0).loss(*sides, batch)
    assert_close(build("kd", temperature=2.0, standardise=True).loss(student, teacher, batch), expected)
