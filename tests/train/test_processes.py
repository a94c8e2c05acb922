"""Several processes train a run as one that sees all their shares would, fail together, and end together."""

import os
import re
import signal
import time
from functools import cache
from multiprocessing import active_children
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch.testing import assert_close

from bench.cost.rows import costs
from bench.data import images
from bench.data.batches import TrainingData
from bench.launch.inputs import Inputs
from bench.launch.slurm import submit
from bench.plan.repeat import ENTRY, suite_files
from bench.schedule import Schedule
from bench.spec import canonical, seed_from
from bench.store import WEIGHTS, Failure, Store
from bench.train.build import build_lane
from bench.train.epoch import teacher_features
from bench.train.lane import Clock
from bench.train.learner import MAIN
from bench.train.process_group import process_group
from bench.train.processes import ProcessLostError
from bench.types import Batch, RequestError
from tests.forks import Command, forked_children
from tests.train.conftest import CPU, FIFTY, OFTEN, Bench, Silent, cell, document, rows, weights

# a gentle training: a rough one makes much of rounding, which a sum of shares does in another order
TOGETHER = {"epochs": 2, "batch_size": 17, "lr": 0.001, "milestones": [1], "initial_epochs": 1, "processes": 2}
SHARES = {17: (8, 9), 16: (8, 8)}  # of the batches of 50 images
ALONE = {"data": FIFTY, "teacher_training": {"processes": 1}}  # spares the tests a start
WATCHED = """
import os
import torch
from methods.base import register
from methods.crd import CRD


@register("watched", weight=0.8)
class Watched(CRD):
    def after_step(self):
        super().after_step()
        torch.save([self.student_bank, self.teacher_bank, self.log_z], f"FOLDER/{os.getpid()}.pt")
"""
FREEZES = """
import torch.nn.functional as F
from torch import nn
from bench.types import InitialStage
from methods.base import Distiller, register


@register("freezes", weight=1.0, initial_stage=True)
class Freezes(Distiller):
    def __init__(self, student, teacher, data):
        super().__init__(student, teacher, data)
        norm = nn.BatchNorm1d(teacher.embedding)  # its statistics are read once it is frozen
        self.adapter = nn.Sequential(norm, nn.Linear(teacher.embedding, student.embedding))

    def initial_stage(self):
        return InitialStage((self.adapter,), False, lambda _, teacher, batch: self.adapter(teacher.embedding).mean())

    def loss(self, student, teacher, batch):
        return F.mse_loss(student.embedding, self.adapter(teacher.embedding))
"""
ONE_SIDED = """
from multiprocessing import parent_process
from methods.base import Distiller, register


@register("one_sided", weight=1.0)
class OneSided(Distiller):
    def __init__(self, student, teacher, data, *, process: int = 1, where: str = "loss"):
        super().__init__(student, teacher, data)
        self.process, self.where, self.steps = process, where, 0

    def loss(self, student, teacher, batch):
        self.steps += 1
        self.breaks("loss")
        self.indices = batch.indices
        return student.logits.sum()

    def after_step(self):
        self.gather(self.indices)
        self.breaks("state")
        self.gather(self.indices)

    def breaks(self, where):
        if self.steps == 3 and where == self.where and self.process == (parent_process() is not None):
            raise RuntimeError("broken on purpose")
"""


@pytest.fixture(scope="module", autouse=True)
def _forked_children():
    with forked_children():
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return a suite of two processes, and what comes of it when nobody disturbs it."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "banks").mkdir()
    plugins = [folder / "watched.py", folder / "freezes.py"]
    plugins[0].write_text(WATCHED.replace("FOLDER", str(folder / "banks")))
    plugins[1].write_text(FREEZES)
    methods = ["kd", "ab", "freezes", {"method": "watched", "n_negatives": 16, "temperature": 0.5, "label": "CRD"}]
    suite = Bench(folder, document(methods=methods, training=TOGETHER, **ALONE, **OFTEN), plugins)
    plan, store, _ = suite.run("whole")
    return suite, plan, store, [torch.load(file, weights_only=True) for file in sorted((folder / "banks").iterdir())]


def by_hand(suite: Bench, store: Store, run):
    """Return the lanes of two shares that one process trains by the mean of their gradients, with the losses."""
    plan = suite.plan()
    inputs = Inputs(suite.work(), store)
    teachers = {name: inputs.teacher(plan.runs[name], run.data) for name in run.teachers}
    data = TrainingData(run.data, images.load_data(run.data, suite.folder, CPU, workers=0)[0], CPU, run.data)
    lanes = [build_lane(run, teachers, data.info, suite.methods, CPU) for _ in range(2)]
    means = []
    for epoch in (1, 2):
        total = 0.0
        for lane in lanes:
            lane.clock = Clock(MAIN, epoch)
            lane.begin_epoch()
        for number, batch in enumerate(data.epoch(run.seed, MAIN, epoch, 17)):
            sizes = SHARES[len(batch.images)]
            fractions = [size / sum(sizes) for size in sizes]
            columns = (batch.images, batch.teacher_images, batch.targets, batch.indices)
            parts = [Batch(*part) for part in zip(*(rows.split(sizes) for rows in columns), strict=True)]
            features = [lane.learner.features(part) for lane, part in zip(lanes, parts, strict=True)]

            def losses(number=number, parts=parts, features=features):
                found = []
                for rank, (lane, part, own) in enumerate(zip(lanes, parts, features, strict=True)):
                    at = (run.seed, *lane.clock, number)
                    torch.manual_seed(seed_from("step", *at, *((rank,) if rank else ())))
                    found.append(lane.learner.losses(own, part, teacher_features(teachers, lanes, part))[0])
                return found

            distillers = [term.distiller for lane in lanes for term in lane.terms if term.name == "watched"]
            if distillers and (epoch, number) == (1, 0):
                losses()  # of which each share's own Z remains
                z = sum(share * one.log_z.exp() for share, one in zip(fractions, distillers, strict=True))
                for one in distillers:
                    one.log_z.copy_(z.log())
            for loss, share, lane in zip(losses(), fractions, lanes, strict=True):
                lane.learner.optimizer.zero_grad()
                loss.backward()
                total += share * loss.item() * len(batch.images)
            trained = [lane.learner.optimizer.param_groups[0]["params"] for lane in lanes]
            for pair in zip(*trained, strict=True):
                if pair[0].grad is not None:
                    mean = sum(share * parameter.grad for share, parameter in zip(fractions, pair, strict=True))
                    for parameter in pair:
                        parameter.grad = mean.clone()
            for lane in lanes:
                lane.learner.optimizer.step()
            if distillers:
                joined = [torch.cat(rows) for rows in zip(*(one.visited for one in distillers), strict=True)]
                for one in distillers:
                    given = iter(joined)
                    one.gather = lambda _, given=given: next(given)
                    one.after_step()
        means.append(total / 50)
    return lanes, means


@pytest.fixture(scope="module")
def trained_by_hand(whole):
    """Return a way to train a row by hand, each once."""
    suite, plan, store, _ = whole
    return cache(lambda label: by_hand(suite, store, cell(plan, label).runs[0]))


@pytest.mark.parametrize("label", ["none", "KD", "CRD"])
def test_two_processes_train_as_one_that_averages_their_shares_gradients(whole, trained_by_hand, label):
    _, plan, store, _ = whole
    run = cell(plan, label).runs[0]
    (first, _), losses = trained_by_hand(label)
    found = load_file(store.folder(run.id) / WEIGHTS)
    # norms' statistics too: they are the first process's
    assert_close(found, dict(first.student.state_dict()), rtol=0, atol=1e-6)
    assert_close([row["loss"] for row in store.epochs(run.id)], losses, rtol=0, atol=1e-6)
    assert "top1" in store.record(run.id)["metrics"]


def test_every_process_ends_with_the_same_banks_and_z(whole, trained_by_hand):
    *_, banks = whole
    assert len(banks) == 2
    assert all(map(torch.equal, *banks))
    (first, _), _ = trained_by_hand("CRD")
    distiller = first.terms[0].distiller
    assert_close(banks[0], [distiller.student_bank, distiller.teacher_bank, distiller.log_z], rtol=0, atol=1e-6)


def test_a_process_that_is_killed_fails_the_runs_by_name_and_they_go_on_to_the_same_bits(whole):
    suite, plan, undisturbed, _ = whole

    class Killer(Silent):
        def step(self, lanes, step, steps):
            if lanes[0].clock == Clock(MAIN, 2) and step == 2 and active_children():
                os.kill(active_children()[0].pid, signal.SIGKILL)

    _, store, _ = suite.run("killed", observer=Killer(), teachers=undisturbed)
    students = [run for run in plan.runs.values() if run.schedule.processes == 2]
    assert len(students) == 5
    for run in students:
        assert store.failure(run.id).reason == "process 1 of 2 has died (signal 9)"
        store.forget_failure(run.id)
    _, _, resumed = suite.run("killed")
    assert {resumed.epochs[run.id] for run in students} == {1}  # not from the start
    for run in students:
        assert weights(store, run.id) == weights(undisturbed, run.id)
        assert rows(store, run.id) == rows(undisturbed, run.id)


def test_a_lane_that_raises_in_one_process_fails_in_all_and_the_others_go_on(whole, tmp_path):
    _, plan, undisturbed, _ = whole
    (tmp_path / "one_sided.py").write_text(ONE_SIDED)
    wheres = [(1, "loss"), (1, "state"), (0, "loss"), (0, "state")]
    broken = [
        {"method": "one_sided", "process": process, "where": where, "label": f"{where} {process}"}
        for process, where in wheres
    ]
    suite = Bench(tmp_path, document(methods=[*broken, "kd"], training=TOGETHER, **ALONE), [tmp_path / "one_sided.py"])
    plan, store, _ = suite.run(teachers=undisturbed)
    for process, where in wheres:
        failure = store.failure(cell(plan, f"{where} {process}").runs[0].id)
        assert re.fullmatch(
            rf"RuntimeError: broken on purpose \(.*/one_sided\.py:\d+, in epoch 1, process {process} of 2\)",
            failure.reason,
        )
    for label in ("none", "KD"):
        run_id = cell(plan, label).runs[0].id
        assert weights(store, run_id) == weights(undisturbed, run_id)


def lives(process: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("how", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_no_process_is_left_when_the_first_one_ends(tmp_path, how):
    path, results = tmp_path / "long.yaml", tmp_path / "results"
    long = {"training": {**TOGETHER, "epochs": 1000}, "teacher_training": {"processes": 1, "epochs": 1}}
    path.write_text(yaml.safe_dump(document(**long, **OFTEN)))
    first = Command(path, "--results", results, streams=tmp_path)
    teacher_and_student = 2
    while len(list(results.glob("runs/*/epochs.jsonl"))) < teacher_and_student:
        assert first.poll() is None
        time.sleep(0.05)
    others = [int(child) for child in Path(f"/proc/{first.pid}/task/{first.pid}/children").read_text().split()]
    assert others
    if how == signal.SIGINT:
        os.killpg(first.pid, how)  # as a terminal does
        assert first.wait(timeout=30) == 130
    else:
        first.send(how)
        first.wait()
    deadline = time.monotonic() + 20
    while any(map(lives, others)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert not list(results.glob("runs/*/failure.json"))


# what the processes exchange


def exchange(group):
    """Return what each of three processes has of an exchange; then the last one breaks off."""
    own = torch.full((group.rank + 1, 2), float(group.rank))  # 1, 2 and 3 rows
    tensors = [torch.tensor([1.0 + group.rank]), torch.tensor([[group.rank]], dtype=torch.float64)]
    failure, copied = Failure("failed", f"of {group.rank}"), torch.tensor(group.rank)
    found = {
        "gathered": group.all_gather(own),
        "samples": group.all_reduce_mean(tensors, samples=group.rank + 1),
        "means": tensors,
        "failures": [group.agree_on_failure(failure if group.rank >= least else None) for least in (1, 3)],
        "first": group.run_on_rank0(lambda: f"by {group.rank}"),
        "copied": copied,
    }
    group.broadcast([copied])
    with pytest.raises(ValueError, match="not every process has a gradient for the same parameters"):
        group.all_reduce_mean([torch.zeros(group.rank + 1)], samples=1)
    return found


def exchange_and_break_off(group):
    exchange(group)
    if group.rank == 2:
        raise MemoryError("all is full")
    group.agree_on_failure(None)


def exchange_as_first(found):
    with process_group(3, exchange_and_break_off, CPU) as group:
        found |= exchange(group)
        group.agree_on_failure(None)


@pytest.fixture(scope="module")
def three():
    """Return what the first of three processes has of an exchange, and what it hears when the last one breaks off."""
    found: dict[str, object] = {}
    with pytest.raises(ProcessLostError) as caught:
        exchange_as_first(found)
    assert not active_children()
    return found, caught.value


def test_processes_join_rows_means_failures_and_answers(three):
    found, _ = three
    assert found["gathered"][:, 0].tolist() == [0, 1, 1, 2, 2, 2]
    assert found["samples"] == 6
    means = [torch.tensor([(1 + 4 + 9) / 6]), torch.tensor([[(0 + 2 + 6) / 6]], dtype=torch.float64)]
    assert_close(found["means"], means)
    assert found["failures"] == [Failure("failed", "of 1"), None]
    assert (found["first"], found["copied"]) == ("by 0", 0)


def test_the_process_that_broke_off_is_named_not_the_one_that_followed(three):
    _, error = three
    assert str(error) == "process 2 of 3 has ended: MemoryError: all is full"
    assert "exchange_and_break_off" in error.details


def read_what_is_no_image(group):
    raise RequestError("img.png: cannot be read")


def test_what_another_process_finds_wrong_with_the_request_is_wrong_with_it():
    with pytest.raises(RequestError, match="cannot be read"), process_group(2, read_what_is_no_image, CPU) as group:
        group.agree_on_failure(None)


# the number of processes


def test_the_number_of_processes_is_part_of_a_runs_identity_but_one_is_what_it_always_was():
    assert "processes" not in canonical(Schedule())
    assert canonical(Schedule(processes=1)) == canonical(Schedule())
    assert canonical(Schedule(processes=2)) != canonical(Schedule())


def test_teachers_have_as_many_processes_as_students_unless_said_otherwise(bench):
    several = {"training": TOGETHER}
    assert {run.schedule.processes for run in bench(**several).plan().runs.values()} == {2}
    differing = bench(**several, teacher_training={"processes": 1}).plan()
    assert cell(differing, "teacher").runs[0].schedule.processes is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"training": {"processes": 4, "batch_size": 7}}, "batch_size: 7 is too small for processes: 4"),
        (
            {"training": {"processes": 4}, "teacher_training": {"batch_size": 7}},
            "teacher_training: batch_size: 7 is too small",
        ),
        ({"training": {"processes": 0}}, "training.processes: found 0: must be greater than 0"),
    ],
)
def test_a_batch_that_cannot_be_shared_out_is_refused(bench, changes, reason):
    with pytest.raises(RequestError, match=reason):
        bench(**changes).plan()


def test_costs_are_measured_in_one_process_alone(bench):
    suite = bench(training=TOGETHER)
    plan = suite.plan()
    with pytest.raises(RequestError, match=r"Add --set training\.processes=1"):
        list(costs(plan, plan.cells, suite.methods, suite.folder / "data", CPU, steps=1))


def test_a_job_with_fewer_gpus_than_processes_is_refused(bench, monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: f"/bin/{name}")  # as on a cluster
    suite = bench(training=TOGETHER, slurm={"gpus_per_node": 1})
    with pytest.raises(RequestError, match=r"gpus_per_node: 1, but training: processes: 2.*Set gpus_per_node: 2"):
        submit(suite.work())
    assert not (suite.folder / "results").exists()


def test_a_run_says_how_many_processes_repeat_it(whole):
    _, plan, _, _ = whole
    again = yaml.safe_load(suite_files(plan, cell(plan, "KD").runs[0])[ENTRY])
    assert again["training"]["processes"] == 2
    assert again["teacher_training"]["processes"] == 1
