import torch
from torch.testing import assert_close

from tests.methods.samples import STUDENT, TEACHER, build, features
from tests.methods.samples import batch as batch_of


def test_cc_multiplies_the_gaps_of_neighbouring_samples(student, teacher, batch):
    distiller = build("cc")
    e_s, e_t = distiller.student_head(student.embedding), distiller.teacher_head(teacher.embedding)
    total = 0.0
    for i in range(5):
        total += sum(abs(e_s[i, d] - e_t[i, d]) * abs(e_s[i + 1, d] - e_t[i + 1, d]) for d in range(128))
    assert_close(distiller.loss(student, teacher, batch), total / 5)


def test_cc_trains_both_heads(student, teacher, batch):
    distiller = build("cc", dim=16)
    distiller.loss(student, teacher, batch).backward()
    assert all(parameter.grad.count_nonzero() for parameter in distiller.parameters())


def test_cc_has_no_value_for_a_batch_of_one():
    one = features(STUDENT, seed=1, b=1), features(TEACHER, seed=2, b=1), batch_of([3])
    assert torch.isnan(build("cc").loss(*one))
