from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from tests.methods.samples import build


def slow(s, t, target, alpha, beta, temperature):
    """Return the term of one sample's logits (K,)."""
    p_s, p_t = (s / temperature).softmax(0), (t / temperature).softmax(0)
    part = sum(a * (a / b).log() for a, b in ((p_t[target], p_s[target]), (1 - p_t[target], 1 - p_s[target])))
    others = [k for k in range(len(s)) if k != target]
    q_s, q_t = (s[others] / temperature).softmax(0), (t[others] / temperature).softmax(0)
    rest = sum(a * (a / b).log() for a, b in zip(q_t, q_s, strict=True))
    return temperature**2 * (alpha * part + beta * rest)


@pytest.mark.parametrize("settings", [{}, {"alpha": 0.5, "beta": 2.0, "temperature": 1.0}])
def test_dkd_weighs_the_target_and_the_other_classes_apart(student, teacher, batch, settings):
    used = {"alpha": 1.0, "beta": 8.0, "temperature": 4.0} | settings
    each = [slow(*one, **used) for one in zip(student.logits, teacher.logits, batch.targets, strict=True)]
    assert_close(build("dkd", **settings).loss(student, teacher, batch), sum(each) / len(each))


def test_dkd_observes_its_two_parts(student, teacher, batch):
    distiller = build("dkd", alpha=3.0, beta=5.0)
    loss = distiller.loss(student, teacher, batch)
    target, non_target = distiller.observed()
    assert_close(3 * target + 5 * non_target, loss.detach())


@pytest.mark.parametrize("standardise", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_dkd_of_sure_networks_is_finite_with_its_gradient(student, teacher, batch, dtype, standardise):
    sure = torch.zeros_like(student.logits, dtype=dtype)
    sure[range(6), batch.targets] = 1000
    for pair in ((sure, teacher.logits.to(dtype)), (student.logits.detach().to(dtype), sure)):
        logits = pair[0].clone().requires_grad_()
        sides = replace(student, logits=logits), replace(teacher, logits=pair[1])
        loss = build("dkd", temperature=1.0, standardise=standardise).loss(*sides, batch)
        loss.backward()
        assert loss.isfinite()
        assert logits.grad.isfinite().all()
