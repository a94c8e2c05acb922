"""The later methods through the trainer: ten steps and more equal a plain loop that is written out here."""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.testing import assert_close

from bench.data.images import load_data
from bench.launch.inputs import stored_network
from bench.launch.preparation import unserved
from bench.train.epoch import train_epoch
from bench.train.evaluation import evaluate
from methods import catalog
from tests.few import use_few_digits
from tests.parity.reference import LATER
from tests.train.conftest import CPU, cell

METHODS = catalog()
EPOCHS = 5  # of 2 steps or, in the whole form, 4
WARMUP = 3  # epochs; CTKD's reversal takes as long
LR = [0.05, 0.05, 0.005, 0.005, 0.005]


def settings(name: str) -> dict:
    own = {"full_reversal": WARMUP} if name == "ctkd" else {}
    return {"method": name, "warmup": WARMUP, "label": "later", **own}


@pytest.mark.parametrize("name", sorted(LATER & METHODS.keys()))
def test_the_trainer_follows_a_plain_loop(name, cohort):
    training = {"epochs": EPOCHS, "batch_size": 16, "milestones": [2], "initial_epochs": 0}
    lanes, data, teachers, _ = cohort(methods=[settings(name)], training=training)
    lane, (teacher,) = lanes["later"], teachers.values()
    student, distiller = deepcopy(lane.student), deepcopy(lane.terms[0].distiller)
    method = METHODS[name]

    found = []
    while not lane.done:
        for _ in train_epoch(teachers, [lane], data.epoch(1, *lane.clock, 16, second_view=lane.reads_second_view)):
            pass
        found.append(lane.learner.meter.read()["loss"])
        lane.advance()
    assert lane.failure is None

    trained = [one for one in (*student.parameters(), *distiller.parameters()) if one.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=LR[0], momentum=0.9, weight_decay=5e-4)
    expected = []
    for epoch in range(1, EPOCHS + 1):
        optimizer.param_groups[0]["lr"], distiller.epoch = LR[epoch - 1], epoch
        total, samples = 0.0, 0
        for batch in data.epoch(1, 1, epoch, 16, second_view=name == "mlld"):
            with torch.no_grad():
                wanted = teacher.network.features(batch.teacher_images, preactivations=True)
            own = student.features(batch.images, preactivations=True)
            labels = cross_entropy(own.logits, batch.targets)
            if name == "mlld":
                with torch.no_grad():
                    wanted = replace(wanted, second=teacher.network.features(batch.second))
                own = replace(own, second=student.features(batch.second))
                labels = labels + cross_entropy(own.second.logits, batch.targets)
            weight = method.weight * min(epoch / WARMUP, 1)
            loss = method.task_weight * labels
            loss = loss + weight * distiller.loss(own, wanted, batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total, samples = total + loss.item() * len(batch.images), samples + len(batch.images)
        expected.append(total / samples)

    assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert_close(lane.student.state_dict(), student.state_dict(), rtol=1e-4, atol=1e-6)
    assert_close(lane.terms[0].distiller.state_dict(), distiller.state_dict(), rtol=1e-4, atol=1e-6)


def test_a_lane_that_reads_two_views_leaves_the_others_as_they_are(cohort):
    found = []
    for labels in (["KD"], ["MLLD", "KD"]):
        lanes, data, teachers, _ = cohort(methods=["kd", "mlld"])
        lanes = [lanes[label] for label in labels]
        second = any(lane.reads_second_view for lane in lanes)
        for _ in train_epoch(teachers, lanes, data.epoch(1, *lanes[0].clock, 16, second_view=second)):
            pass
        assert not any(lane.failure for lane in lanes)
        found.append(lanes[-1].student.state_dict())
    assert all(map(torch.equal, found[0].values(), found[1].values()))


def test_a_stored_student_predicts_with_its_teachers_classifier_as_when_it_was_evaluated(bench):
    suite = bench(methods=["simkd"], training={"epochs": 1, "batch_size": 16, "milestones": [1]})
    plan, store, _ = suite.run(only=["SimKD"])
    run = cell(plan, "SimKD").runs[0]
    network, teacher = (stored_network(one, store).eval() for one in (run, plan.runs[run.teachers[0]]))
    assert torch.equal(network.linear_classifier().weight, teacher.linear_classifier().weight)
    with pytest.MonkeyPatch.context() as patch:
        use_few_digits(patch)
        _, test = load_data(run.data, suite.folder, CPU, workers=0)
    metrics = evaluate({"student": network}, test, run.data, CPU)["student"]
    assert metrics == store.record(run.id)["metrics"]


def test_a_student_starts_from_the_same_weights_whatever_classifier_it_has(cohort):
    lanes, *_ = cohort(methods=["simkd"])
    own, alone = lanes["SimKD"].student.student.state_dict(), lanes["none"].student.state_dict()
    assert all(map(torch.equal, own.values(), alone.values()))


def test_a_student_reuses_the_classifier_of_one_teacher_only(bench):
    suite = bench(methods=["simkd"], pairs=[{"teachers": {"network": "resnet14", "n": 2}, "student": "resnet8"}])
    plan = suite.plan()
    reasons = unserved(plan, plan.runs.values(), suite.methods)
    assert list(reasons.values()) == ["simkd reuses the classifier of one teacher; this pair has 2"]
