from dataclasses import replace

import torch
from torch.testing import assert_close

from tests.methods.samples import STUDENT, TEACHER, build


def slow(features):
    """Return the similarities of all samples to each other, rows of unit length."""
    flat = [sample.flatten() for sample in features]
    rows = [torch.stack([(a * b).sum() for b in flat]) for a in flat]
    return torch.stack([row / row.norm() for row in rows])


def test_sp_compares_the_similarities_within_the_batch(student, teacher, batch):
    difference = slow(teacher.stages[-1]) - slow(student.stages[-1])
    assert_close(build("sp").loss(student, teacher, batch), (difference**2).sum() / 6**2)


def test_sps_paper_sums_over_all_stages_but_the_stem(student, teacher, batch):
    stages = zip(student.stages[1:], teacher.stages[1:], strict=True)
    expected = sum(((slow(t) - slow(s)) ** 2).sum() / 6**2 for s, t in stages)
    assert_close(build("sp", variant="paper").loss(student, teacher, batch), expected)


def test_sps_paper_needs_as_many_stages_on_both_sides():
    fewer = replace(TEACHER, stages=TEACHER.stages[:-1])
    assert "they pair up one to one" in build("sp").inapplicable(STUDENT, fewer, "paper")
    assert build("sp").inapplicable(STUDENT, fewer) is None


def test_sp_is_zero_for_rotated_features(teacher, batch):
    flat = teacher.stages[-1].flatten(1)
    rotation = torch.linalg.qr(torch.randn(flat.shape[1], flat.shape[1], dtype=flat.dtype)).Q
    turned = replace(teacher, stages=(*teacher.stages[:-1], 5 * (flat @ rotation).view_as(teacher.stages[-1])))
    assert_close(build("sp").loss(turned, teacher, batch).item(), 0.0, atol=1e-20, rtol=0)
