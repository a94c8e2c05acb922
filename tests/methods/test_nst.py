from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from methods.nst import channel_discrepancy
from tests.methods.samples import STUDENT, TEACHER, build, shapes


def slow(student, teacher):
    """Return one stage's term, one pair of channels at a time."""

    def kernel(a, b):
        pairs = [(x.flatten(), y.flatten()) for x in a for y in b]
        return sum((x @ y / (x.norm() * y.norm())) ** 2 for x, y in pairs) / len(pairs)

    samples = list(zip(student, teacher, strict=True))
    return sum(kernel(t, t) + kernel(s, s) - 2 * kernel(s, t) for s, t in samples) / len(samples)


def test_nst_is_the_discrepancy_of_the_channels_in_all_stages_but_the_stem(student, teacher, batch):
    expected = sum(slow(s, t) for s, t in zip(student.stages[1:], teacher.stages[1:], strict=True))
    assert_close(build("nst").loss(student, teacher, batch), expected)


@pytest.mark.parametrize(("channels", "height"), [(3, 8), (40, 2)])
def test_nst_gives_the_same_by_channels_and_by_positions(channels, height):
    student = torch.randn(2, channels, height, height, dtype=torch.float64)
    teacher = torch.randn(2, channels + 2, height, height, dtype=torch.float64)
    assert_close(channel_discrepancy(student, teacher), slow(student, teacher))


def test_nst_ignores_the_order_and_the_scale_of_the_channels(teacher, batch):
    shuffled = replace(teacher, stages=tuple(3 * stage.flip(1) for stage in teacher.stages))
    loss = build("nst", student=TEACHER).loss(shuffled, teacher, batch)
    assert_close(loss.item(), 0.0, atol=1e-14, rtol=0)


def test_nst_needs_as_many_stages_on_both_sides():
    fewer = shapes("short", [(3, 8), (4, 8), (5, 4)], embedding=7)
    assert build("nst").inapplicable(fewer, TEACHER)
    assert build("nst").inapplicable(STUDENT, TEACHER) is None
