"""Signals to a job of a cluster: early ones, and what submitit raises when it cannot be queued again."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from submitit.core.job_environment import SignalHandler
from submitit.core.utils import DelayedSubmission, JobPaths
from submitit.slurm.slurm import SlurmJobEnvironment

from bench.launch.slurm_job import EARLY, SIGNAL, let_signals_through, python

ROOT = Path(__file__).parents[2]


@pytest.fixture
def exhausted(tmp_path, monkeypatch):
    """Install submitit's handler for a job that may reach its time limit no more."""
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    delayed = DelayedSubmission(print)
    delayed.set_timeout(timeout_min=60, max_num_timeout=-1)
    handler = SignalHandler(SlurmJobEnvironment(), JobPaths(tmp_path, "1"), delayed)
    before = signal.signal(SIGNAL, handler.checkpoint_and_try_requeue)
    yield
    signal.signal(SIGNAL, before)


def test_a_job_that_may_not_be_queued_again_ends_without_being_a_lanes_failure(cohort, exhausted):
    lanes, *_ = cohort(methods=["kd"])
    let_signals_through()
    with pytest.raises(SystemExit, match="timed-out too many times"), lanes["KD"].isolated():
        os.kill(os.getpid(), SIGNAL)
    assert lanes["KD"].failure is None


def test_a_child_that_inherits_the_handler_leaves_the_signal_to_its_parent(exhausted):
    let_signals_through()
    if (child := os.fork()) == 0:
        os.kill(os.getpid(), SIGNAL)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize("number", EARLY, ids=lambda number: number.name)
def test_a_signal_while_a_job_starts_waits_until_it_is_handled(number):
    code = (
        "import signal, time; print('started', flush=True); time.sleep(0.3); "
        f"signal.signal({int(number)}, lambda *_: print('handled')); "
        f"signal.pthread_sigmask(signal.SIG_UNBLOCK, [{int(number)}])"
    )
    process = subprocess.Popen(
        ["bash", "-c", f'exec {python()} -uc "$0"', code], stdout=subprocess.PIPE, text=True, encoding="utf-8"
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    process.send_signal(number)
    assert process.communicate(timeout=60)[0] == "handled\n"
    assert process.returncode == 0


def test_a_signal_that_has_waited_is_delivered_when_training_could_begin(exhausted):
    signal.pthread_sigmask(signal.SIG_BLOCK, EARLY)
    signal.pthread_kill(threading.get_ident(), SIGNAL)  # to this thread: others of a test process do not block it
    with pytest.raises(SystemExit, match="not queued again"):
        let_signals_through()


def test_a_second_signal_does_not_interrupt_the_answer_to_the_first(tmp_path):
    said = []
    before = signal.signal(SIGNAL, lambda number, frame: (os.kill(os.getpid(), SIGNAL), said.append(number)))
    try:
        let_signals_through()
        os.kill(os.getpid(), SIGNAL)
        time.sleep(0)
    finally:
        signal.signal(SIGNAL, before)
    assert said == [SIGNAL]


def test_what_a_job_reads_before_it_handles_signals_imports_nothing_that_trains():
    code = "import sys, bench.launch.slurm_job; print([name for name in ('torch', 'pandas') if name in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert answer.stdout == "[]\n"
