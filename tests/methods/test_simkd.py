from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from bench.models import build as build_network
from bench.models import shapes as shapes_of
from bench.models.reusing import Reusing
from methods import catalog
from tests.methods.samples import STUDENT, TEACHER, TWIN, build, features, read_by, shapes

SimKD = catalog()["simkd"].load()
HIGHER = shapes("higher", [(4, 16), (6, 16), (7, 8), (8, 8)], embedding=9)


def reusing(name="resnet8", teacher="resnet14", factor=2):
    """Return a student that predicts with another network's classifier, that network, and images."""
    torch.manual_seed(0)
    own, other = build_network(name, num_classes=10), build_network(teacher, num_classes=10)
    network = Reusing(own, shapes_of(own, name, 3, 32, 32), shapes_of(other, teacher, 3, 32, 32), factor)
    network.take(other.linear_classifier())
    return network.eval(), other.eval(), torch.randn(2, 3, 32, 32)


@pytest.mark.parametrize("teacher", [TEACHER, HIGHER], ids=["equal", "higher"])
def test_simkd_is_the_mean_squared_difference_of_the_final_maps(teacher, batch):
    served = read_by("simkd", STUDENT, teacher)
    student, taught = features(served, seed=1), features(teacher, seed=2)
    wanted = taught.final.unflatten(3, (2, -1)).unflatten(2, (2, -1)).mean(dim=(3, 5))  # in 2 x 2 cells
    loss = build("simkd", served, teacher).loss(student, taught, batch)
    assert_close(loss, (student.final - wanted).square().mean())


def test_simkd_predicts_with_the_teachers_classifier_on_the_mean_of_the_projected_map():
    network, teacher, images = reusing()
    found = network.features(images)
    projected = network.projector(network.student.features(images).final)
    weight, bias = teacher.linear_classifier().weight, teacher.linear_classifier().bias
    assert_close(found.final, projected)
    assert_close(network(images), projected.mean(dim=(2, 3)) @ weight.T + bias)


def test_simkd_leaves_the_students_own_stages_as_they_are():
    network, _, images = reusing()
    assert_close(network.features(images).stages, network.student.features(images).stages)


def test_simkds_projector_has_the_channels_that_the_factor_leaves():
    network, _, _ = reusing(factor=4)
    convolutions = [layer for layer in network.projector if isinstance(layer, nn.Conv2d)]
    assert [tuple(one.weight.shape) for one in convolutions] == [(16, 64, 1, 1), (16, 16, 3, 3), (64, 16, 1, 1)]


def test_simkd_pools_a_students_higher_map_before_it_projects_it():
    network, _, images = reusing(teacher="wrn_16_1")
    network.size = (4, 4)
    assert network.features(images).final.shape == (2, 64, 4, 4)


def test_simkd_trains_the_projector_and_no_classifier():
    network, _, images = reusing()
    network(images).sum().backward()
    trained = {name.partition(".")[0] for name, one in network.named_parameters() if one.grad is not None}
    assert trained == {"student", "projector"}
    assert network.student.linear_classifier().weight.grad is None


@pytest.mark.parametrize(
    ("student", "teacher", "reason"),
    [
        (STUDENT, TEACHER, None),
        (replace(STUDENT, final=None), TEACHER, "resnet8 does not give the map whose mean is its embedding"),
        (STUDENT, replace(TEACHER, final=None), "resnet14 does not give the map whose mean is its embedding"),
        (STUDENT, replace(TWIN, has_classifier=False), "resnet20 has no linear classifier on its embedding"),
        (STUDENT, replace(TWIN, classes=11), "resnet8 has 5 classes, resnet20 11; the method needs the same"),
    ],
)
def test_simkd_needs_final_maps_and_a_classifier(student, teacher, reason):
    assert SimKD.inapplicable(student, teacher) == reason
