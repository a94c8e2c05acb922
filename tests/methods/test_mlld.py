from statistics import median

import pytest
import torch
from torch.testing import assert_close

from methods.mlld import share_up_to_the_median
from tests.methods.samples import build, features, shapes


def slow(s, t, temperatures):
    """Return the term of logits (B, K), entry by entry."""
    b, k = s.shape
    p = t.softmax(1)
    surest, summed = p.amax(1).tolist(), p.sum(0).tolist()
    m_b = sum(one <= median(surest) for one in surest) / b
    m_k = sum(one <= median(summed) for one in summed) / k
    total = 0.0
    for temperature in temperatures:
        p_s, p_t = (s / temperature).softmax(1), (t / temperature).softmax(1)
        total += m_b * temperature**2 * (p_t * (p_t / p_s).log()).sum() / b
        for i in range(k):
            for j in range(k):
                total += m_k * (p_t[:, i] @ p_t[:, j] - p_s[:, i] @ p_s[:, j]) ** 2 / k
        for i in range(b):
            for j in range(b):
                total += m_b * (p_t[i] @ p_t[j] - p_s[i] @ p_s[j]) ** 2 / b
    return total


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_mlld_of_one_view_sums_divergences_and_relations_over_five_temperatures(student, teacher, batch, temperature):
    expected = slow(student.logits, teacher.logits, [2, 3, temperature, 5, 6])
    distiller = build("mlld", temperature=temperature, one_view=True)
    assert_close(distiller.loss(student, teacher, batch), expected)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_mlld_adds_two_divergences_of_the_plain_and_three_of_the_distorted_view(student, teacher, batch, temperature):
    settings = [(student, teacher, t) for t in (2, 6)]
    settings += [(student.second, teacher.second, t) for t in (3, temperature, 5)]
    expected = build("mlld", temperature=temperature, one_view=True).loss(student, teacher, batch)
    for own, other, t in settings:
        p_s, p_t = (own.logits / t).softmax(1), (other.logits / t).softmax(1)
        expected = expected + t**2 * (p_t * (p_t / p_s).log()).sum(1).mean()
    assert_close(build("mlld", temperature=temperature).loss(student, teacher, batch), expected)


@pytest.mark.parametrize("b", [5, 6])
def test_mlld_counts_the_share_of_samples_up_to_the_median(b):
    values = features(shapes("resnet8", [(3, 8)], embedding=7), seed=3, b=b).logits[:, 0]
    assert share_up_to_the_median(values).item() == (0.5 if b == 6 else 0.6)


def test_mlld_standardises_the_divergences_only(student, teacher, batch):
    plain, standardised = build("mlld"), build("mlld", standardise=True)
    for distiller in (plain, standardised):
        distiller.loss(student, teacher, batch)
    before, after = torch.stack([*plain.observed()]), torch.stack([*standardised.observed()])
    assert_close(before[1:], after[1:])
    assert before[0] != after[0]


def test_mlld_observes_three_parts_that_sum_to_the_term(student, teacher, batch):
    distiller = build("mlld")
    loss = distiller.loss(student, teacher, batch)
    assert_close(sum(distiller.observed()), loss.detach())
