from dataclasses import replace

import pytest
import torch
from torch.nn.functional import adaptive_avg_pool2d, mse_loss
from torch.testing import assert_close

from tests.methods.samples import STUDENT, TEACHER, build, shapes


def slow(side, resolution, normalise):
    """Return class activation maps, each class's a weighted sum of channels, then pooled."""
    maps = torch.stack([(w[None, :, None, None] * side.final).sum(1) for w in side.classifier.weight], 1)
    maps = adaptive_avg_pool2d(maps, resolution)
    return maps / maps.flatten(2).norm(dim=2)[:, :, None, None] if normalise else maps


@pytest.mark.parametrize(("resolution", "normalise"), [(2, False), (2, True), (1, False), (4, False)])
def test_catkd_compares_class_activation_maps(student, teacher, batch, resolution, normalise):
    expected = mse_loss(*(slow(side, resolution, normalise) for side in (student, teacher)))
    found = build("catkd", resolution=resolution, normalise=normalise).loss(student, teacher, batch)
    assert_close(found, expected)


def test_catkd_trains_the_students_classifier_and_not_its_bias(student, teacher, batch):
    build("catkd").loss(student, teacher, batch).backward()
    assert student.classifier.weight.grad.count_nonzero()
    assert student.classifier.bias.grad is None


def test_catkd_of_a_map_of_zeros_is_finite_with_its_gradient(student, teacher, batch):
    final = torch.zeros_like(student.final, requires_grad=True)
    loss = build("catkd", normalise=True).loss(replace(student, final=final), teacher, batch)
    loss.backward()
    assert loss.isfinite()
    assert final.grad.isfinite().all()


def test_catkd_needs_classifier_and_final_map_of_both():
    bare = shapes("bare", [(3, 8)], embedding=7)
    for lacking, reason in (("has_classifier", "has no linear classifier"), ("final", "does not give the map")):
        other = replace(bare, **{lacking: None if lacking == "final" else False})
        assert reason in build("catkd").inapplicable(STUDENT, other)
        assert reason in build("catkd").inapplicable(other, TEACHER)
