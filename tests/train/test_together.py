"""Several teachers that are one: the mean of their probabilities."""

import itertools
from dataclasses import replace

import torch
from torch.testing import assert_close

from bench.train.features import together
from tests.methods import samples
from tests.methods.samples import build

TEACHERS = [samples.features(samples.TEACHER, seed=seed) for seed in (2, 3, 4)]
BATCH = samples.batch([3, 14, 15, 9, 26, 5])


def test_teachers_together_predict_the_mean_of_their_probabilities():
    mean = torch.stack([one.logits.softmax(dim=1) for one in TEACHERS]).mean(dim=0)
    assert_close(together(TEACHERS).logits.softmax(dim=1), mean)


def test_teachers_together_predict_for_a_second_view_too():
    two_views = [replace(one, second=other) for one, other in itertools.pairwise(TEACHERS)]
    assert_close(together(two_views).second.logits, together(TEACHERS[1:]).logits)


def test_classes_that_all_teachers_rule_out_have_finite_logits():
    sure = replace(TEACHERS[0], logits=1e4 * TEACHERS[0].logits)
    assert together([sure, sure]).logits.isfinite().all()


def test_the_mean_of_kds_terms_has_the_gradient_of_kd_from_the_mean_of_the_softened_probabilities():
    temperature = 4.0
    student = samples.features(samples.STUDENT, seed=1, trains=True)
    kd = build("kd", temperature=temperature)
    terms = torch.stack([kd.loss(student, one, BATCH) for one in TEACHERS]).mean()
    softened = [replace(one, logits=one.logits / temperature) for one in TEACHERS]
    mean = together(softened)
    of_mean = kd.loss(student, replace(mean, logits=temperature * mean.logits), BATCH)
    found, wanted = (torch.autograd.grad(loss, student.logits)[0] for loss in (terms, of_mean))
    assert_close(found, wanted)
