from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from methods._logits import standardised, without_target
from tests.methods.samples import METHODS, build

STANDARDISE = [name for name, method in METHODS.items() if "standardise" in method.parameters]


def test_standardised_logits_have_mean_0_and_standard_deviation_1(student):
    found = standardised(3 * student.logits + 5)
    assert_close(found.mean(dim=1), torch.zeros(6, dtype=torch.float64))
    assert_close(found.std(dim=1), torch.ones(6, dtype=torch.float64), rtol=1e-6, atol=0)


def test_the_logits_without_the_target_keep_their_order(student, batch):
    found = without_target(student.logits, batch.targets)
    for row, logits, target in zip(found.tolist(), student.logits.tolist(), batch.targets.tolist(), strict=True):
        assert row == logits[:target] + logits[target + 1 :]


@pytest.mark.parametrize("name", STANDARDISE)
def test_standardised_terms_ignore_scale_and_shift_of_logits(name, student, teacher, batch):
    settings = {"standardise": True}
    moved = replace(student, logits=7 * student.logits - 2), replace(teacher, logits=0.5 * teacher.logits + 1)
    found, expected = build(name, **settings), build(name, **settings)
    if name == "mlld":  # its relations read the raw logits
        found.loss(*moved, batch), expected.loss(student, teacher, batch)
        assert_close(found.observed()[0], expected.observed()[0], rtol=1e-5, atol=0)
    else:
        losses = found.loss(*moved, batch), expected.loss(student, teacher, batch)
        assert_close(*losses, rtol=1e-5, atol=0)  # the 1e-7 beside the standard deviation


@pytest.mark.parametrize("name", STANDARDISE)
@pytest.mark.parametrize("value", [0.0, 0.1])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_constant_logits_standardised_are_finite_with_their_gradient(name, student, teacher, batch, value, dtype):
    for flat in (student, teacher):
        logits = {id(side): side.logits.detach().to(dtype) for side in (student, teacher)}
        logits[id(flat)] = torch.full_like(logits[id(flat)], value)
        own = logits[id(student)].requires_grad_()
        loss = (
            build(name, standardise=True)
            .to(dtype)
            .loss(replace(student, logits=own), replace(teacher, logits=logits[id(teacher)]), batch)
        )
        loss.backward()
        assert loss.isfinite()
        assert own.grad.isfinite().all()
