"""What submitit raises when a job cannot be queued again; no cluster is needed."""

import os
import signal

import pytest
from submitit.core.job_environment import SignalHandler
from submitit.core.utils import DelayedSubmission, JobPaths
from submitit.slurm.slurm import SlurmJobEnvironment

from bench.launch.slurm_job import SIGNAL, let_signals_through


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
