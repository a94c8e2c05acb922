from dataclasses import replace

from torch import nn
from torch.testing import assert_close

from methods.ab import AB
from tests.methods.samples import STUDENT, TEACHER, TWIN, build, features, shapes


def slow(connected, teacher):
    total = 0.0
    for c, t in zip(connected.flatten(), teacher.flatten(), strict=True):
        if t <= 0 and c > -1:
            total += (c + 1) ** 2
        if t > 0 and c <= 1:
            total += (c - 1) ** 2
    return total


def test_ab_counts_activations_on_the_wrong_side_of_the_boundary(student, teacher, batch):
    distiller = build("ab")
    layers = list(zip(distiller.connectors, student.preactivations[1:], teacher.preactivations[1:], strict=True))
    expected = sum(2 ** (i - 3 + 1) * slow(c(s), t) for i, (c, s, t) in enumerate(layers)) * 3 / 1000 / 6
    assert_close(distiller.initial_stage().loss(student, teacher, batch), expected)


def test_ab_is_zero_once_every_activation_is_past_the_margin(batch):
    twin = features(TWIN, seed=2)
    past = replace(twin, preactivations=tuple(1.1 * f.sign() for f in twin.preactivations))
    assert build("ab", teacher=TWIN).initial_stage().loss(past, twin, batch) == 0


def test_ab_needs_no_connector_where_the_shapes_agree():
    assert all(isinstance(connector, nn.Identity) for connector in build("ab", teacher=TWIN).connectors)
    assert not any(isinstance(connector, nn.Identity) for connector in build("ab").connectors)


def test_ab_trains_connectors_and_trunk_first_and_nothing_afterwards(student, teacher, batch):
    distiller = build("ab")
    stage = distiller.initial_stage()
    assert stage.modules == (distiller.connectors,)
    assert stage.trains_student
    assert stage.lr is None
    assert distiller.loss(student, teacher, batch) is None


def test_ab_says_why_it_cannot_serve_a_pair():
    fewer = shapes("short", [(3, 8), (4, 8), (5, 4)], embedding=7)
    odd = shapes("odd", [(3, 8), (4, 8), (5, 7), (6, 2)], embedding=7)
    assert AB.inapplicable(STUDENT, fewer)
    assert AB.inapplicable(STUDENT, odd).startswith("stage 2: no regressor maps 4x4 to 7x7")
    assert (
        AB.inapplicable(replace(STUDENT, preactivations=()), TEACHER)
        == "resnet8 gives no pre-activations, which AB reads"
    )
