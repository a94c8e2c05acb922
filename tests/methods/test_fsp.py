from torch.nn.functional import adaptive_avg_pool2d
from torch.testing import assert_close

from methods.fsp import FSP
from tests.methods.samples import STUDENT, TEACHER, TWIN, build, features, shapes


def slow(earlier, later):
    """Return the Gram matrices of two stages' maps of equal size, one position at a time."""
    positions = [(y, x) for y in range(later.shape[2]) for x in range(later.shape[3])]
    return sum(later[:, :, None, y, x] * earlier[:, None, :, y, x] for y, x in positions) / len(positions)


def slow_flows(stages):
    stem, first, second, third = stages
    return [
        slow(stem, first),
        slow(adaptive_avg_pool2d(first, 4), second),
        slow(adaptive_avg_pool2d(second, 2), third),
    ]


def test_fsp_compares_the_gram_matrices_of_consecutive_stages(student, batch):
    teacher = features(TWIN, seed=2)
    pairs = zip(slow_flows(student.stages), slow_flows(teacher.stages), strict=True)
    expected = sum(((g_s - g_t) ** 2).sum() / g_s.numel() for g_s, g_t in pairs)
    assert_close(build("fsp", teacher=TWIN).initial_stage().loss(student, teacher, batch), expected)


def test_fsp_takes_teachers_whose_maps_have_another_size(student, batch):
    small = shapes("small", [(3, 4), (4, 4), (5, 2), (6, 1)], embedding=7)
    assert build("fsp", teacher=small).initial_stage().loss(student, features(small, seed=2), batch) > 0


def test_fsp_trains_the_trunk_first_and_nothing_afterwards(student, batch):
    distiller = build("fsp", teacher=TWIN)
    assert distiller.initial_stage().trains_student
    assert distiller.initial_stage().modules == ()
    assert distiller.loss(student, features(TWIN, seed=2), batch) is None


def test_fsp_needs_equal_channels_stage_by_stage():
    other = shapes("wide", [(3, 8), (4, 8), (9, 4), (6, 2)], embedding=7)
    assert FSP.inapplicable(STUDENT, other) == "stage 2 has 5 channels, teacher 9; FSP needs equal ones"
    assert FSP.inapplicable(STUDENT, TWIN) is None
    assert FSP.inapplicable(STUDENT, shapes("short", [(3, 8), (4, 8)], embedding=7))
    assert FSP.inapplicable(STUDENT, TEACHER)
