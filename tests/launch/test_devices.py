"""Several devices of this machine share a suite, a process each; here, all of them are its CPU."""

import os
import shutil
import signal
import threading
import time

import pytest

from bench.launch.devices import devices, train
from bench.store import WEIGHTS, Store
from bench.types import RequestError
from tests.few import short_or_whole
from tests.forks import forked_children
from tests.train.conftest import cell, weights


def test_the_cpu_is_one_device():
    assert devices("cpu") == ["cpu"]


def test_a_process_that_dies_leaves_its_runs_to_the_others_and_the_bits_are_the_same(bench):
    suite = bench(**short_or_whole({"methods": ["kd"], "seeds": 2}, {"methods": ["kd", "at"], "seeds": 3}))
    only = short_or_whole(["KD"], None)
    plan, whole, _ = suite.run("whole", only=only)
    store, killed = Store(suite.folder / "results"), []
    (teacher,) = cell(plan, "teacher").runs
    shutil.copytree(whole.folder(teacher.id), store.folder(teacher.id))
    students = [run.id for run in plan.runs.values() if run.terms]

    def kill_one():
        while not killed:
            for run_id in students:
                if (claim := store.holder(run_id)) is not None and store.spec(run_id) is not None:
                    os.kill(claim.process, signal.SIGKILL)
                    killed.append(claim.process)
                    break
            time.sleep(0.01)

    killer = threading.Thread(target=kill_one, daemon=True)
    killer.start()
    with forked_children():
        train(suite.work(only=only), ["cpu", "cpu"])
    killer.join(timeout=10)
    assert killed
    for run_id in students:
        assert weights(store, run_id) == weights(whole, run_id)


def test_what_stops_every_process_is_said_once(bench):
    suite = bench(methods=["kd"])
    plan, store, _ = suite.run(only=["teacher"])
    teacher = next(iter(plan.runs))
    (store.folder(teacher) / WEIGHTS).write_bytes(b"")
    with pytest.raises(RequestError, match=r"^[^\n]*its sha256 is not that of record\.json[^\n]*$"):
        train(suite.work(), ["cpu", "cpu"])
