"""Several processes of this machine share a suite, its jobs; here, all of them are on its CPU."""

import logging
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable

import pytest

from bench.launch.devices import devices, train
from bench.store import WEIGHTS, Store
from bench.store.claims import CLAIM
from bench.types import RequestError
from methods._errors import interrupt
from tests.few import short_or_whole
from tests.forks import forked_children
from tests.train.conftest import Bench, Silent, cell, document, weights


def when(condition: Callable[[], object], act: Callable[[], object]) -> threading.Thread:
    """Act once a condition holds, beside this thread."""

    def wait() -> None:
        while not condition():
            time.sleep(0.01)
        act()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def test_the_cpu_is_one_device():
    assert devices("cpu") == ["cpu"]


@pytest.fixture(scope="module")
def side_by_side(tmp_path_factory):
    """Return a suite's plan, its results by one process and by two jobs, and what the jobs have logged."""
    suite = Bench(tmp_path_factory.mktemp("jobs"), document(methods=["kd", "at"]))
    plan, whole, _ = suite.run("whole")
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        with forked_children(few=True):
            train(suite.work(poll_s=0.1), jobs=2)
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
    return plan, whole, Store(suite.folder / "results"), lines


def test_two_jobs_end_with_the_bits_of_one(side_by_side):
    plan, whole, store, _ = side_by_side
    for run_id in plan.runs:
        assert weights(store, run_id) == weights(whole, run_id)


def test_two_jobs_divide_the_students_of_one_cohort_and_train_the_teacher_once(side_by_side):
    *_, lines = side_by_side
    trained = sorted(line.partition(": training ")[2] for line in lines if ": training " in line)
    assert trained == ["1 together: AT", "1 together: KD", "1 together: none", "1 together: teacher"]


def test_the_first_line_says_how_many_jobs_train(side_by_side):
    *_, lines = side_by_side
    assert lines[0].startswith("2 jobs with 1 thread each, on ")


def test_a_job_that_dies_leaves_its_runs_to_the_others_and_the_bits_are_the_same(bench):
    suite = bench(**short_or_whole({"seeds": 2}, {"methods": ["kd", "at"], "seeds": 3}))
    only = short_or_whole(["KD"], None)
    plan, whole, _ = suite.run("whole", only=only)
    store, killed = Store(suite.folder / "results"), []
    (teacher,) = cell(plan, "teacher").runs
    shutil.copytree(whole.folder(teacher.id), store.folder(teacher.id))
    students = [run.id for run in plan.runs.values() if run.terms]

    def is_trained() -> bool:
        for run_id in students:
            if (claim := store.holder(run_id)) is not None and store.spec(run_id) is not None:
                killed.append(claim.process)
                return True
        return False

    killer = when(is_trained, lambda: os.kill(killed[0], signal.SIGKILL))
    with forked_children(few=True):
        train(suite.work(only=only, poll_s=0.1), jobs=2)
    killer.join(timeout=10)
    assert killed
    for run_id in students:
        assert weights(store, run_id) == weights(whole, run_id)


def test_while_another_process_trains_the_teacher_this_one_trains_students_without_a_teacher(bench):
    suite = bench(methods=["kd", "at"])
    plan, other = suite.plan(), suite.store()
    teacher, none, *distilled = plan.runs

    class Releases(Silent):
        def cohort(self, lanes) -> None:
            super().cohort(lanes)
            other.release(teacher)

    assert other.claim(teacher)
    *_, observer = suite.run(observer=Releases(), poll_s=0.1)
    assert observer.cohorts == [[none], [teacher], distilled]


def test_an_interruption_ends_every_job_and_leaves_no_run_claimed(bench):
    suite = bench(training={"epochs": 500, "batch_size": 16, "milestones": [1]})
    store, runs = Store(suite.folder / "results"), list(suite.plan().runs)
    jobs: set[int] = set()

    def both_train() -> bool:
        jobs.update(holder.process for run_id in runs if (holder := store.holder(run_id)) is not None)
        return len(jobs) == 2

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        when(both_train, lambda: os.kill(os.getpid(), signal.SIGINT))
        with forked_children(few=True), pytest.raises(KeyboardInterrupt):
            train(suite.work(), jobs=2)
    finally:
        signal.signal(signal.SIGINT, before)
    assert not [job for job in jobs if os.path.exists(f"/proc/{job}/stat")]
    assert not list(store.root.glob(f"runs/*/{CLAIM}"))


def test_what_stops_every_job_is_said_once(bench):
    suite = bench()
    plan, store, _ = suite.run(only=["teacher"])
    teacher = next(iter(plan.runs))
    (store.folder(teacher) / WEIGHTS).write_bytes(b"")
    with (
        forked_children(few=True),
        pytest.raises(RequestError, match=r"^[^\n]*its sha256 is not that of record\.json[^\n]*$"),
    ):
        train(suite.work(), jobs=2)
