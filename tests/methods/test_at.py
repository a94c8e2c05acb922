from dataclasses import replace

import torch
from torch.nn.functional import adaptive_avg_pool2d
from torch.testing import assert_close

from tests.methods.samples import STUDENT, TEACHER, build, features, shapes


def slow(student, teacher):
    """Return the term of maps of equal size, one sample and position at a time."""
    total = 0.0
    for s, t in zip(student, teacher, strict=True):
        a_s = torch.stack([(s[:, y, x] ** 2).mean() for y in range(s.shape[1]) for x in range(s.shape[2])])
        a_t = torch.stack([(t[:, y, x] ** 2).mean() for y in range(t.shape[1]) for x in range(t.shape[2])])
        total += ((a_s / a_s.norm() - a_t / a_t.norm()) ** 2).sum()
    return total / (len(student) * student.shape[2] * student.shape[3])


def test_at_compares_the_energy_at_each_position_in_all_stages_but_the_stem(student, teacher, batch):
    expected = sum(slow(s, t) for s, t in zip(student.stages[1:], teacher.stages[1:], strict=True))
    assert_close(build("at").loss(student, teacher, batch), expected)


def test_at_pools_the_larger_map_to_the_smaller_one(student, batch):
    other = shapes("wide", [(4, 8), (6, 4), (7, 8), (8, 2)], embedding=9)
    teacher = features(other, seed=2)
    expected = (
        slow(adaptive_avg_pool2d(student.stages[1], 4), teacher.stages[1])
        + slow(student.stages[2], adaptive_avg_pool2d(teacher.stages[2], 4))
        + slow(student.stages[3], teacher.stages[3])
    )
    assert_close(build("at", teacher=other).loss(student, teacher, batch), expected)


def test_at_ignores_the_scale_of_the_students_maps(student, teacher, batch):
    louder = replace(student, stages=tuple(3 * stage for stage in student.stages))
    assert_close(build("at").loss(louder, teacher, batch), build("at").loss(student, teacher, batch))


def test_at_needs_as_many_stages_on_both_sides():
    fewer = shapes("short", [(3, 8), (4, 8), (5, 4)], embedding=7)
    assert "3" in build("at").inapplicable(fewer, TEACHER)
    assert build("at").inapplicable(STUDENT, TEACHER) is None
