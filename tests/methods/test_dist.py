from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from tests.methods.samples import build


@pytest.mark.parametrize("settings", [{}, {"beta": 1.0, "gamma": 3.0, "temperature": 1.0}])
def test_dist_is_one_minus_pearsons_correlation_of_samples_and_of_classes(student, teacher, batch, settings):
    used = {"beta": 2.0, "gamma": 2.0, "temperature": 4.0} | settings
    p_s, p_t = ((side.logits / used["temperature"]).softmax(1) for side in (student, teacher))
    samples = [torch.corrcoef(torch.stack(rows))[0, 1] for rows in zip(p_s, p_t, strict=True)]
    classes = [torch.corrcoef(torch.stack(columns))[0, 1] for columns in zip(p_s.T, p_t.T, strict=True)]
    between, within = 1 - sum(samples) / len(samples), 1 - sum(classes) / len(classes)
    expected = used["temperature"] ** 2 * (used["beta"] * between + used["gamma"] * within)
    assert_close(build("dist", **settings).loss(student, teacher, batch), expected, rtol=1e-5, atol=0)


def test_dist_is_zero_for_equal_logits(teacher, batch):
    assert abs(build("dist").loss(teacher, teacher, batch).item()) < 1e-3  # the 1e-8 beside the norms


def test_dist_of_equal_logits_in_all_classes_is_finite_with_its_gradient(student, teacher, batch):
    logits = torch.zeros_like(student.logits, requires_grad=True)
    loss = build("dist").loss(replace(student, logits=logits), teacher, batch)
    loss.backward()
    assert loss.isfinite()
    assert logits.grad.isfinite().all()
