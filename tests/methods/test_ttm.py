import pytest
from torch.testing import assert_close

from tests.methods.samples import build


@pytest.mark.parametrize("temperature", [1.0, 10.0])
def test_ttm_is_the_divergence_of_the_student_from_the_softened_teacher(student, teacher, batch, temperature):
    total = 0.0
    for s, t in zip(student.logits, teacher.logits, strict=True):
        p_s, p_t = s.softmax(0), (t / temperature).softmax(0)
        total += sum(p_t[k] * (p_t[k] / p_s[k]).log() for k in range(len(s)))
    found = build("ttm", temperature=temperature).loss(student, teacher, batch)
    assert_close(found, total / len(student.logits))
