"""One lane: its rate, its stages, its evaluation, what it records; and that an epoch never waits for the device."""

import math

import pytest
import torch
from sklearn.metrics import top_k_accuracy_score
from torch.utils._python_dispatch import TorchDispatchMode

from bench.data.batches import TrainingData
from bench.data.images import ResidentImages, Split
from bench.data.views import ViewTransform
from bench.schedule import Schedule
from bench.tasks import TASKS
from bench.train.epoch import train_epoch
from bench.train.evaluation import evaluate
from bench.train.lane import Clock, Lane
from bench.train.learner import INITIAL, MAIN
from bench.train.loop import checkpoint_due, summary
from bench.train.optimizers import learning_rate
from methods._banks import ENTRIES_AT_ONCE
from tests.few import short_or_whole
from tests.train.conftest import CPU, FIFTY, Silent, cell, rows


def epoch(lanes: list[Lane], data: TrainingData, teachers: dict) -> None:
    """Train one epoch and move the clocks on."""
    clock, batch_size = lanes[0].clock, lanes[0].schedule.batch_size
    for _ in train_epoch(teachers, lanes, data.epoch(1, *clock, batch_size)):
        pass
    for lane in lanes:
        lane.advance()


def test_the_first_lower_rate_is_that_of_the_epoch_after_the_milestone():
    schedule = Schedule(epochs=240, lr=0.05, milestones=(150, 180, 210))
    rates = {number: learning_rate(schedule, number) for number in (1, 150, 151, 180, 181, 211, 240)}
    wanted = {1: 0.05, 150: 0.05, 151: 0.005, 180: 0.005, 181: 5e-4, 211: 5e-5, 240: 5e-5}
    assert rates == pytest.approx(wanted)


def test_the_optimizer_follows_the_schedule(cohort):
    lanes, data, teachers, _ = cohort(methods=["kd"])
    lane = lanes["none"]
    seen = []
    while not lane.done:
        epoch([lane], data, teachers)
        seen.append(lane.learner.optimizer.param_groups[0]["lr"])
    assert seen == pytest.approx([0.05, 0.005])


@pytest.mark.parametrize("label", ["AB", "FSP"])
def test_an_initial_stage_trains_the_trunk_and_leaves_the_rest_of_the_student_alone(cohort, label):
    lanes, data, teachers, _ = cohort(methods=[label.lower()])
    lane = lanes[label]
    trunk = {id(p) for module in lane.student.trunk() for p in module.parameters()}
    before = {name: p.detach().clone() for name, p in lane.student.named_parameters()}
    assert lane.clock == Clock(INITIAL, 1)
    epoch([lane], data, teachers)
    for name, p in lane.student.named_parameters():
        assert torch.equal(p, before[name]) == (id(p) not in trunk), name


def test_fts_initial_stage_trains_the_paraphraser_alone(cohort):
    lanes, data, teachers, _ = cohort(methods=["ft"])
    lane = lanes["FT"]
    before = {name: value.clone() for name, value in lane.student.state_dict().items()}
    distiller = lane.terms[0].distiller
    paraphraser = [p.detach().clone() for p in distiller.initial_stage().modules[0].parameters()]
    epoch([lane], data, teachers)
    assert all(torch.equal(value, before[name]) for name, value in lane.student.state_dict().items())
    trained = distiller.initial_stage().modules[0].parameters()
    assert not any(torch.equal(p, was) for p, was in zip(trained, paraphraser, strict=True))


@pytest.mark.parametrize("label", ["AB", "FT"])
def test_what_the_initial_stage_trained_is_frozen_afterwards(cohort, label):
    lanes, data, teachers, _ = cohort(methods=[label.lower()])
    lane = lanes[label]
    epoch([lane], data, teachers)
    assert lane.clock == Clock(MAIN, 1)
    modules = lane.terms[0].distiller.initial_stage().modules
    before = [{name: value.clone() for name, value in module.state_dict().items()} for module in modules]
    epoch([lane], data, teachers)
    for module, was in zip(modules, before, strict=True):
        assert not module.training
        assert all(torch.equal(value, was[name]) for name, value in module.state_dict().items())


def test_the_main_stage_starts_with_momentum_from_zero(cohort):
    lanes, data, teachers, _ = cohort(methods=["ab"])
    lane = lanes["AB"]
    epoch([lane], data, teachers)
    assert not lane.learner.optimizer.state


def test_lanes_without_an_initial_stage_wait_for_those_that_have_one(bench):
    plan, store, observer = bench(methods=["ab", "kd"]).run()
    assert observer.epochs[cell(plan, "AB").runs[0].id] == 3
    assert observer.epochs[cell(plan, "KD").runs[0].id] == 2
    assert [row["stage"] for row in rows(store, cell(plan, "AB").runs[0].id)] == ["initial", "main", "main"]


def test_an_initial_stage_may_have_a_number_of_steps_and_end_within_an_epoch(bench):
    class Steps(Silent):
        def __init__(self) -> None:
            super().__init__()
            self.steps: list[tuple[str, int, int, int]] = []

        def step(self, lanes, step, steps) -> None:
            self.steps.append((lanes[0].stage, lanes[0].clock.epoch, step, steps))

    observer = Steps()
    training = {"epochs": 1, "batch_size": 16, "milestones": [1], "initial_steps": 6}
    plan, store, _ = bench(methods=["ab"], data=FIFTY, training=training).run(only=["AB"], observer=observer)
    initial = [seen[1:] for seen in observer.steps if seen[0] == "initial"]
    assert initial == [(1, 1, 4), (1, 2, 4), (1, 3, 4), (1, 4, 4), (2, 1, 2), (2, 2, 2)]  # 4 steps see 50 images
    (run,) = cell(plan, "AB").runs
    assert [row["stage"] for row in rows(store, run.id)] == ["initial", "initial", "main"]


def test_accuracy_is_what_scikit_learn_says(cohort):
    lanes, data, _, digits = cohort(methods=["kd"])
    n = short_or_whole(200, 897)
    test = Split(ResidentImages(digits.images.images[:n], CPU), digits.targets[:n])
    network = lanes["none"].student
    found = evaluate({"none": network}, test, data.spec, torch.device("cpu"))["none"]
    with torch.no_grad():
        images = next(test.images.batches([torch.arange(len(test))]))
        logits = network.eval()(ViewTransform(data.spec, torch.device("cpu"))(images))
    for k in (1, 5):
        wanted = 100 * top_k_accuracy_score(test.targets, logits, k=k, labels=range(10))
        assert found[f"top{k}"] == pytest.approx(wanted, abs=101 / n)  # one image may stand on the edge


def test_the_result_is_the_last_epochs_and_the_best_is_beside_it():
    said = [(1, 50.0, 60.0), (2, 90.0, 91.0), (3, 80.0, 95.0)]
    history = [{"stage": "main", "epoch": e, "top1": one, "top5": five, "wall_s": 1.0} for e, one, five in said]
    found = summary(history, TASKS["compression"])
    assert found["metrics"] == {"top1": 80.0, "top5": 95.0}
    assert found["best"] == {"epoch": 2, "top1": 90.0, "top5": 91.0}


def test_a_record_says_after_how_many_epochs_a_run_was_evaluated():
    history = [{"stage": "main", "epoch": epoch, "wall_s": 1.0} for epoch in range(1, 4)]
    history.append({"stage": "main", "epoch": 4, "top1": 90.0, "top5": 91.0, "wall_s": 1.0})
    found = summary(history, TASKS["compression"])
    assert (found["epochs"], found["evaluated_epochs"]) == (4, 1)


def test_each_of_two_networks_has_a_best_epoch_of_its_own():
    row = {"stage": "main", "wall_s": 1.0, "top5": 99.0, "peer_top5": 98.0}
    history = [row | {"epoch": 1, "top1": 70.0, "peer_top1": 60.0}, row | {"epoch": 2, "top1": 65.0, "peer_top1": 80.0}]
    best = summary(history, TASKS["mutual"])["best"]
    assert best == {
        "epoch": 1,
        "top1": 70.0,
        "top5": 99.0,
        "peer_epoch": 2,
        "peer_top1": 80.0,
        "peer_top5": 98.0,
    }


@pytest.mark.parametrize("at_risk_s", [600.0, 6.0, 1e-9])
@pytest.mark.parametrize("epoch_s", [0.4, 7, 16, 29, 31, 400])
def test_never_more_than_half_a_minute_the_suites_maximum_or_an_epoch_is_at_risk(epoch_s, at_risk_s):
    unsaved, worst = 0.0, 0.0
    for _ in range(200):
        unsaved += epoch_s
        worst = max(worst, unsaved)
        if checkpoint_due(unsaved, epoch_s, at_risk_s):
            unsaved = 0.0
    assert worst <= max(min(30, at_risk_s), epoch_s)


def test_the_critics_values_stand_in_every_epoch_of_crd(bench):
    plan, store, _ = bench(methods=[{"method": "crd", "n_negatives": 16, "label": "CRD"}]).run()
    for row in rows(store, cell(plan, "CRD").runs[0].id):
        values = row["term0_crd_critic_student"] + row["term0_crd_critic_teacher"]
        assert values == pytest.approx(2 * math.log(16) - row["term0_crd"], abs=1e-5)


def test_a_record_says_where_its_numbers_come_from(tiny):
    plan, store = tiny.plan(), tiny.store()
    record = store.record(cell(plan, "KD").runs[0].id)
    assert {"device", "threads", "versions", "commit", "dirty", "epochs", "wall_s", "metrics", "best"} <= record.keys()
    assert list(record["teachers_sha256"]) == [cell(plan, "teacher").runs[0].id]
    assert list(record["methods_sha256"]) == ["kd"]


class NoReading(TorchDispatchMode):
    """Raises where a value is read from a tensor, for which a GPU's host would have to wait."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket in (torch.ops.aten._local_scalar_dense, torch.ops.aten.nonzero):
            raise AssertionError(f"{func} inside an epoch")
        return func(*args, **(kwargs or {}))


def test_no_value_is_read_from_a_tensor_inside_an_epoch(cohort):
    lanes, data, teachers, _ = cohort()
    trained = [lane for label, lane in lanes.items() if label != "teacher"]
    for lane in trained:
        while lane.clock.stage == INITIAL:
            epoch([lane], data, teachers)
    batches = list(data.epoch(1, MAIN, 1, 16))
    for lane in trained:
        lane.begin_epoch()
    with NoReading():
        for number, batch in enumerate(batches):
            features = {name: teacher.network.features(batch.images) for name, teacher in teachers.items()}
            for lane in trained:
                if lane.terms and lane.terms[0].name == "crd":
                    continue  # on a CPU it draws its negatives from host copies of the indices
                lane.step(batch, features, number)


def test_sizes_of_pieces_change_rounding_only(cohort):
    ends = {}
    for entries in (ENTRIES_AT_ONCE, 200):
        methods = [{"method": "crd", "n_negatives": 16}, {"method": "crd", "negatives": "all", "label": "all"}]
        lanes, data, teachers, _ = cohort(methods=methods)
        for lane in lanes.values():
            for term in lane.terms:
                term.distiller.entries_at_once = entries
        for _ in train_epoch(teachers, list(lanes.values()), [next(iter(data.epoch(1, MAIN, 1, 16)))]):
            pass
        for label in ("CRD", "all"):
            weights = torch.cat([p.detach().flatten() for p in lanes[label].student.parameters()])
            ends.setdefault(label, []).append(weights)
    for whole, pieces in ends.values():
        assert float((whole - pieces).norm() / whole.norm()) < 1e-5
        assert not whole.equal(ends["CRD" if whole is ends["all"][0] else "all"][0])
