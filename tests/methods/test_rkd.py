from dataclasses import replace
from itertools import product

import torch
from torch.nn.functional import cosine_similarity
from torch.testing import assert_close

from tests.methods.samples import STUDENT, TEACHER, build, features
from tests.methods.samples import batch as batch_of


def smooth(a, b):
    gap = abs(a - b)
    return gap**2 / 2 if gap < 1 else gap - 0.5


def slow(z_s, z_t):
    """Return the term, one pair and one triple at a time."""
    n = len(z_s)
    mean_s, mean_t = ([(z[i] - z[j]).norm() for i, j in product(range(n), repeat=2) if i != j] for z in (z_s, z_t))
    mean_s, mean_t = sum(mean_s) / len(mean_s), sum(mean_t) / len(mean_t)
    distance = sum(
        smooth((z_s[i] - z_s[j]).norm() / mean_s, (z_t[i] - z_t[j]).norm() / mean_t)
        for i, j in product(range(n), repeat=2)
    )
    angle = sum(
        smooth(
            cosine_similarity(z_s[i] - z_s[k], z_s[j] - z_s[k], dim=0),
            cosine_similarity(z_t[i] - z_t[k], z_t[j] - z_t[k], dim=0),
        )
        for i, j, k in product(range(n), repeat=3)
        if k not in (i, j)
    )
    return 25 * distance / n**2 + 50 * angle / n**3


def test_rkd_compares_distances_and_angles_within_the_batch(student, teacher, batch):
    assert_close(build("rkd").loss(student, teacher, batch), slow(student.embedding, teacher.embedding))


def test_rkd_is_zero_for_a_moved_turned_and_stretched_embedding(teacher, batch):
    rotation = torch.linalg.qr(torch.randn(9, 9, dtype=torch.float64)).Q
    turned = replace(teacher, embedding=4 * teacher.embedding @ rotation + 2)
    assert_close(build("rkd").loss(turned, teacher, batch).item(), 0.0, atol=1e-20, rtol=0)


def test_rkd_has_a_gradient_where_two_samples_are_equal(teacher, batch):
    embedding = torch.randn(6, 7, dtype=torch.float64)
    embedding[1] = embedding[0]
    student = replace(teacher, embedding=embedding.requires_grad_())
    build("rkd").loss(student, teacher, batch).backward()
    assert embedding.grad.isfinite().all()


def test_rkd_has_no_value_for_a_batch_of_one():
    one = features(STUDENT, seed=1, b=1), features(TEACHER, seed=2, b=1), batch_of([3])
    assert torch.isnan(build("rkd").loss(*one))
