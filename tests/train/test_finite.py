"""Logits that are not finite: the lane has diverged, its failure says where, and the other lanes do not notice."""

import math

import pytest
import torch

from bench.data.images import ResidentImages, Split
from bench.models.ensemble import Ensemble
from bench.spec import PEER, STUDENT
from bench.store import Store
from bench.train.evaluation import evaluated
from bench.train.loop import Cohort, fit
from bench.train.process_group import ALONE
from tests.train.conftest import CPU, Silent, rows, weights

SHORT = {"epochs": 1, "batch_size": 16, "milestones": []}
DEV = {"name": "digits", "resize": 16, "train_per_class": 2, "dev_per_class": 1}
DML = {"method": "kd", "weight": 1.0, "task_weight": 1.0}


def breaks(network: torch.nn.Module, at: int) -> None:
    """Let a network answer one image of its evaluation number `at` with infinity."""
    evaluations = []

    def hook(module, _, logits):
        if not module.training:
            evaluations.append(logits)
            if len(evaluations) == at:
                logits[3, 0] = math.inf

    network.fc.register_forward_hook(hook)  # the first images are evaluated with `features`


@pytest.fixture
def trained(cohort, tmp_path):
    """Return a way to train lanes, of which one network breaks; it returns the lanes by label and their store."""

    def train(name: str, broken: str = "", network: str = STUDENT, at: int = 1, **changes: object):
        lanes, data, teachers, test = cohort(training=SHORT, data=DEV, **changes)
        lanes.pop("teacher", None)  # the students' teacher is there
        if broken:
            breaks(lanes[broken].networks[network], at)
        images = test.images.images
        first, second = (  # of one batch each
            Split(ResidentImages(images[at : at + 16], CPU), test.targets[at : at + 16]) for at in (0, 16)
        )
        of_cohort = list(lanes.values())
        store = Store(tmp_path / name)
        for lane in of_cohort:
            store.begin(lane.spec)
        fit(Cohort(of_cohort, teachers, data, first, 1, lambda _: {}, False, 1e9, ALONE, second), store, Silent())
        return lanes, store

    return train


@pytest.mark.parametrize(("at", "images"), [(1, "test"), (2, "dev")])
def test_one_network_of_several_whose_logits_are_not_finite_harms_no_other(trained, at, images):
    methods = ["kd", "at"]
    lanes, store = trained("one", broken="KD", at=at, methods=methods)
    _, sound = trained("none", methods=methods)
    failure = store.failure(lanes["KD"].spec.id)
    assert (failure.status, failure.reason) == (
        "diverged",
        f"the logits of resnet8 on the {images} images are not finite in epoch 1",
    )
    for label in ("none", "AT"):
        run = lanes[label].spec.id
        assert weights(store, run) == weights(sound, run)
        assert store.record(run)["metrics"] == sound.record(run)["metrics"]
        assert rows(store, run) == rows(sound, run)


@pytest.mark.parametrize(("network", "named"), [(STUDENT, "resnet8 (the student)"), (PEER, "resnet14 (the peer)")])
def test_the_failure_of_networks_that_teach_each_other_names_the_one_at_fault(trained, network, named):
    lanes, store = trained("one", broken="KD", network=network, task="mutual", methods=[DML])
    assert f"the logits of {named} on the test images are not finite" in store.failure(lanes["KD"].spec.id).reason


@pytest.mark.parametrize(("value", "is_finite"), [(-1e4, True), (math.nan, False)])
def test_several_teachers_may_rule_a_class_out_but_what_is_no_number_is_refused(cohort, value, is_finite):
    lanes, data, _, test = cohort(methods=["kd"])
    members = [lanes[label].student for label in ("none", "KD")]
    for member in members:
        torch.nn.init.constant_(member.fc.bias[:1], value)  # of class 0, whose probability is 0 then
    (found,) = evaluated([Ensemble(members)], test, data.spec, CPU, keeps_logits=True)
    assert found.is_finite == is_finite
    assert not found.logits[:, 0].isfinite().any()
