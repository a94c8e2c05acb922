import math

import torch
from torch.nn.functional import adaptive_avg_pool2d
from torch.testing import assert_close

from tests.methods.samples import STUDENT, TEACHER, build, features, shapes


def slow(gaussian, student, teacher):
    """Return one stage's term, one teacher channel at a time."""
    mean = gaussian.mean(student)
    total = 0.0
    for c, rho in enumerate(gaussian.rho):
        variance = math.log(1 + math.exp(rho.item())) + 1e-5
        total += ((mean[:, c] - teacher[:, c]) ** 2 / variance + math.log(variance)).sum()
    return total / 2 / teacher.numel()


def test_vid_is_the_gaussian_likelihood_of_the_teachers_maps(student, teacher, batch):
    distiller = build("vid")
    with torch.no_grad():
        for gaussian in distiller.gaussians:
            gaussian.rho.normal_()
    stages = zip(distiller.gaussians, student.stages[1:], teacher.stages[1:], strict=True)
    assert_close(distiller.loss(student, teacher, batch), sum(slow(*stage) for stage in stages))


def test_vid_starts_with_a_variance_of_five():
    for gaussian in build("vid").gaussians:
        variance = torch.nn.functional.softplus(gaussian.rho) + 1e-5
        assert_close(variance, torch.full_like(variance, 5), rtol=1e-6, atol=0)


def test_vid_pools_before_it_guesses(student, batch):
    other = shapes("small", [(4, 8), (6, 4), (7, 4), (8, 2)], embedding=9)
    teacher = features(other, seed=2)
    distiller = build("vid", teacher=other)
    first = slow(distiller.gaussians[0], adaptive_avg_pool2d(student.stages[1], 4), teacher.stages[1])
    rest = zip(distiller.gaussians[1:], student.stages[2:], teacher.stages[2:], strict=True)
    assert_close(distiller.loss(student, teacher, batch), first + sum(slow(*stage) for stage in rest))


def test_vid_trains_means_and_variances(student, teacher, batch):
    distiller = build("vid")
    distiller.loss(student, teacher, batch).backward()
    assert all(parameter.grad.count_nonzero() for parameter in distiller.parameters())


def test_vid_needs_as_many_stages_on_both_sides():
    fewer = shapes("short", [(3, 8), (4, 8), (5, 4)], embedding=7)
    assert build("vid").inapplicable(fewer, TEACHER)
    assert build("vid").inapplicable(STUDENT, TEACHER) is None
