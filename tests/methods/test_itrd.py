from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from tests.methods.samples import DATA, STUDENT, TWIN, build, features


def slow(h, own, t, lambda_corr, lambda_mutual, alpha):
    """Return the term in numpy: h and t (B, D) are compared by column, `own` (B, D) and t by sample."""
    b, d = t.shape
    columns = [((x - x.mean(0)) / x.std(0, ddof=1)) for x in (h, t)]
    c = [sum(columns[0][i, k] * columns[1][i, k] for i in range(b)) / b for k in range(d)]
    correlation = np.log2(sum(abs(one - 1) ** (2 * alpha) for one in c))
    g_s, g_t = (
        np.array([[x @ y / np.linalg.norm(x) / np.linalg.norm(y) for y in rows] for x in rows]) for rows in (own, t)
    )
    g_st = g_s * g_t
    mutual = ((g_s / np.trace(g_s)) ** 2).sum() - ((g_st / np.trace(g_st)) ** 2).sum()
    return lambda_corr * correlation + lambda_mutual * mutual


@pytest.mark.parametrize("settings", [{}, {"lambda_corr": 1.5, "lambda_mutual": 0.05, "alpha": 1.5}])
def test_itrd_compares_columns_by_correlation_and_samples_by_entropy(student, teacher, batch, settings):
    used = {"lambda_corr": 2.0, "lambda_mutual": 1.0, "alpha": 1.01} | settings
    distiller = build("itrd", **settings)
    with torch.no_grad():
        mapped = distiller.head(student.embedding).numpy()
    expected = slow(mapped, mapped, teacher.embedding.numpy(), **used)
    assert_close(distiller.loss(student, teacher, batch).item(), expected)


def test_itrd_compares_the_embedding_itself_by_sample_where_dimensions_agree(student, batch):
    teacher = features(TWIN, seed=2)
    distiller = build("itrd", STUDENT, TWIN, DATA)
    own = student.embedding.detach()
    with torch.no_grad():
        expected = slow(*(x.numpy() for x in (distiller.head(own), own, teacher.embedding)), 2.0, 1.0, 1.01)
    assert_close(distiller.loss(student, teacher, batch).item(), expected)


def test_itrd_leaves_out_units_that_are_dead_for_the_whole_batch(student, teacher, batch):
    embedding = teacher.embedding.clone()
    embedding[:, 4] = 0
    alive = [k for k in range(9) if k != 4]
    distiller = build("itrd")
    mapped = distiller.head(student.embedding)
    found = distiller.correlation_loss(mapped, embedding)
    assert_close(found, distiller.correlation_loss(mapped[:, alive], embedding[:, alive]))


@pytest.mark.parametrize("value", [0.0, 0.3])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_itrd_of_embeddings_without_spread_is_finite_with_its_gradient(student, teacher, batch, dtype, value):
    for flat in ("student", "teacher"):
        sides = {"student": student.embedding.detach().to(dtype), "teacher": teacher.embedding.to(dtype)}
        sides[flat] = torch.full_like(sides[flat], value)
        embedding = sides["student"].requires_grad_()
        distiller = build("itrd").to(dtype)
        loss = distiller.loss(
            replace(student, embedding=embedding), replace(teacher, embedding=sides["teacher"]), batch
        )
        loss.backward()
        assert loss.isfinite()
        assert embedding.grad.isfinite().all()
        assert embedding.grad.abs().max() < 10
