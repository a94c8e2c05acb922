from dataclasses import replace

import torch
from torch.nn.functional import cosine_similarity
from torch.testing import assert_close

from methods.pkt import affinities
from tests.methods.samples import build


def slow(embedding):
    rows = []
    for a in embedding:
        closeness = torch.stack([(1 + cosine_similarity(a, b, dim=0)) / 2 for b in embedding])
        rows.append(closeness / closeness.sum())
    return torch.stack(rows)


def test_pkt_is_the_divergence_of_the_neighbourhoods(student, teacher, batch):
    p_s, p_t = slow(student.embedding), slow(teacher.embedding)
    expected = sum(p_t[i, j] * (p_t[i, j] / p_s[i, j]).log() for i in range(6) for j in range(6)) / 36
    assert_close(build("pkt").loss(student, teacher, batch), expected, rtol=1e-4, atol=1e-8)  # the 1e-7 are left out


def test_pkt_ignores_the_scale_of_the_student_embedding(student, teacher, batch):
    louder = replace(student, embedding=3 * student.embedding)
    loss = build("pkt").loss(student, teacher, batch)
    assert_close(build("pkt").loss(louder, teacher, batch), loss, rtol=1e-5, atol=0)


def test_pkt_affinities_are_probabilities(student):
    found = affinities(student.embedding)
    assert found.min() >= 0
    assert_close(found.sum(dim=1), torch.ones(6, dtype=torch.float64))


def test_pkt_of_an_embedding_with_a_zero_row_is_finite_with_its_gradient(student, teacher, batch):
    embedding = student.embedding.detach().clone()
    embedding[2] = 0
    dead = replace(student, embedding=embedding.requires_grad_())
    loss = build("pkt").loss(dead, teacher, batch)
    loss.backward()
    assert loss.isfinite()
    assert embedding.grad.isfinite().all()


def test_pkt_shows_a_broken_embedding(student, teacher, batch):
    broken = replace(student, embedding=student.embedding * float("nan"))
    assert build("pkt").loss(broken, teacher, batch).isnan()
