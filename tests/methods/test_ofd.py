from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import truncnorm
from torch.nn.functional import adaptive_avg_pool2d, batch_norm, conv2d
from torch.testing import assert_close

from bench.types import Affine
from methods.ofd import negative_mean
from tests.methods.samples import STUDENT, TEACHER, build, shapes


def slow(connected, t, margin):
    """Return the term of one stage's maps, entry by entry."""
    total = 0.0
    for d, one in zip(connected, t, strict=True):
        for channel, of_channel, m in zip(d, one, margin, strict=True):
            for a, b in zip(channel.flatten(), of_channel.flatten(), strict=True):
                wanted = max(b.item(), m.item())
                if a > wanted or b > 0:
                    total += (a - wanted) ** 2
    return total


def test_ofd_moves_only_what_is_on_the_wrong_side_of_the_margin(student, teacher, batch):
    distiller = build("ofd")
    total = 0.0
    maps = zip(student.preactivations[1:], teacher.preactivations[1:], strict=True)
    for place, (connector, (s, t), norm) in enumerate(zip(distiller.connectors, maps, teacher.norms, strict=True)):
        connected = batch_norm(conv2d(s, connector[0].weight), None, None, training=True)
        total += 2.0 ** (place - 2) * slow(connected, adaptive_avg_pool2d(t, s.shape[2]), negative_mean(norm))
    assert_close(distiller.loss(student, teacher, batch), total / 6)


def test_ofds_margins_are_the_means_of_truncated_normals():
    weight, bias = np.array([1.0, -0.5, 2.0, 0.1]), np.array([0.3, -1.0, 2.0, 5.0])
    found = negative_mean(Affine(torch.tensor(weight), torch.tensor(bias)))
    expected = truncnorm.mean(-np.inf, -bias / abs(weight), loc=bias, scale=abs(weight))
    assert_close(found[:3], torch.tensor(expected[:3]))
    assert found[3].item() == pytest.approx(-0.3)  # 50 deviations above 0: never negative


def test_ofds_margins_of_a_norm_with_weight_0_are_finite():
    norm = Affine(torch.zeros(2, dtype=torch.float64), torch.tensor([0.5, -0.5], dtype=torch.float64))
    assert negative_mean(norm).isfinite().all()


def test_ofd_needs_the_teachers_norms_and_pre_activations_of_both():
    whole = shapes("whole", [(3, 8), (4, 8), (5, 4), (6, 2)], embedding=7)
    assert "whole gives no pre-activations" in build("ofd").inapplicable(replace(whole, preactivations=()), TEACHER)
    reason = build("ofd").inapplicable(STUDENT, replace(whole, has_norms=False))
    assert "whole does not give the norms" in reason
    assert build("ofd").inapplicable(replace(whole, has_norms=False), TEACHER) is None
