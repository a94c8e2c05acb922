import pytest
from torch.testing import assert_close

from tests.methods.samples import build


@pytest.mark.parametrize("temperature", [2.0, 5.0])
def test_wttm_weighs_each_samples_divergence_by_the_teachers_smoothness(student, teacher, batch, temperature):
    total = 0.0
    for s, t in zip(student.logits, teacher.logits, strict=True):
        p_s, p_t = s.softmax(0), (t / temperature).softmax(0)
        smoothness = sum(p ** (1 / temperature) for p in t.softmax(0))
        total += smoothness * sum(p_t[k] * (p_t[k] / p_s[k]).log() for k in range(len(s)))
    found = build("wttm", temperature=temperature).loss(student, teacher, batch)
    assert_close(found, total / len(student.logits))


def test_wttm_at_temperature_1_is_ttm(student, teacher, batch):
    found = build("wttm", temperature=1.0).loss(student, teacher, batch)
    assert_close(found, build("ttm", temperature=1.0).loss(student, teacher, batch))
