import math

import torch
from torch.testing import assert_close

from methods.cc import correlations
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


def test_ccs_paper_compares_kernels_of_all_pairs_of_samples(student, teacher, batch):
    kernels = []
    for side in (student, teacher):
        unit = [z / z.norm() for z in side.embedding]
        kernel = torch.zeros(6, 6, dtype=torch.float64)
        for i, a in enumerate(unit):
            for j, b in enumerate(unit):
                x = 0.8 * (a * b).sum()  # 2 * gamma times the cosine
                kernel[i, j] = math.exp(-0.8) * (1 + x + x**2 / 2)
        kernels.append(kernel)
    expected = ((kernels[0] - kernels[1]) ** 2).sum() / 36
    assert_close(build("cc", variant="paper").loss(student, teacher, batch), expected)


def test_ccs_paper_approximates_a_gaussian_kernel(student):
    z = student.embedding / student.embedding.norm(dim=1, keepdim=True)
    gaussian = torch.exp(-0.4 * torch.cdist(z, z) ** 2)
    assert_close(correlations(student.embedding), gaussian, atol=0.05, rtol=0)  # the first term left out is below


def test_cc_has_no_value_for_a_batch_of_one():
    one = features(STUDENT, seed=1, b=1), features(TEACHER, seed=2, b=1), batch_of([3])
    assert torch.isnan(build("cc").loss(*one))
