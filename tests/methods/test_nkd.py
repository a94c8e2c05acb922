from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from tests.methods.samples import build


def slow(s, t, target, gamma, temperature):
    """Return the term of one sample's logits (K,)."""
    of_target = -t.softmax(0)[target] * s.softmax(0)[target].log()
    others = [k for k in range(len(s)) if k != target]
    q_s, q_t = (s[others] / temperature).softmax(0), (t[others] / temperature).softmax(0)
    return of_target - gamma * temperature**2 * sum(q_t[k] * q_s[k].log() for k in range(len(others)))


@pytest.mark.parametrize("settings", [{}, {"gamma": 3.5, "temperature": 3.0}])
def test_nkd_is_two_cross_entropies_with_the_teachers_predictions(student, teacher, batch, settings):
    used = {"gamma": 1.5, "temperature": 1.0} | settings
    each = [slow(*one, **used) for one in zip(student.logits, teacher.logits, batch.targets, strict=True)]
    assert_close(build("nkd", **settings).loss(student, teacher, batch), sum(each) / len(each))


def test_nkd_observes_its_two_parts(student, teacher, batch):
    distiller = build("nkd", gamma=3.0)
    loss = distiller.loss(student, teacher, batch)
    target, non_target = distiller.observed()
    assert_close(target + 3 * non_target, loss.detach())


def test_nkd_of_sure_networks_is_finite_with_its_gradient(student, teacher, batch):
    sure = torch.zeros_like(student.logits)
    sure[range(6), batch.targets] = 1000
    for pair in ((sure, teacher.logits), (student.logits.detach(), sure)):
        logits = pair[0].float().requires_grad_()
        sides = replace(student, logits=logits), replace(teacher, logits=pair[1].float())
        loss = build("nkd").loss(*sides, batch)
        loss.backward()
        assert loss.isfinite()
        assert logits.grad.isfinite().all()
