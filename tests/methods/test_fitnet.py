from dataclasses import replace

import pytest
from torch.testing import assert_close

from methods.fitnet import FitNet
from tests.methods.samples import DATA, STUDENT, TEACHER, build, shapes


@pytest.mark.parametrize("layer", [1, 2, 3])
def test_fitnet_is_the_mean_squared_error_of_the_regressed_stage(student, teacher, batch, layer):
    distiller = build("fitnet", layer=layer)
    error = distiller.regressor(student.stages[layer]) - teacher.stages[layer]
    assert_close(distiller.loss(student, teacher, batch), (error**2).sum() / error.numel())


def test_fitnet_is_zero_where_the_regressor_already_gives_the_teachers_map(student, teacher, batch):
    distiller = build("fitnet")
    reached = distiller.regressor(student.stages[2]).detach()
    same = replace(teacher, stages=(*teacher.stages[:2], reached, *teacher.stages[3:]))
    assert distiller.loss(student, same, batch) == 0


def test_fitnet_trains_its_regressor(student, teacher, batch):
    distiller = build("fitnet")
    distiller.loss(student, teacher, batch).backward()
    assert all(parameter.grad is not None for parameter in distiller.parameters())


def test_fitnet_refuses_a_stage_that_is_not_there():
    with pytest.raises(ValueError, match="layer=4: resnet8 has stages 0 to 3, FitNet reads stage 4"):
        FitNet(STUDENT, TEACHER, DATA, layer=4)


def test_fitnet_says_which_stage_no_regressor_fits():
    other = shapes("odd", [(3, 8), (4, 8), (5, 7), (6, 2)], embedding=7)
    assert FitNet.inapplicable(STUDENT, other).startswith("stage 2: no regressor maps 4x4 to 7x7")
    assert FitNet.inapplicable(STUDENT, other, layer=3) is None
