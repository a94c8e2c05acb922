"""The function that a SLURM job runs: it trains one cohort, with the code of its submission."""

import logging
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from submitit.core.job_environment import JobEnvironment
from submitit.core.utils import DelayedSubmission

from bench.launch.launcher import launch
from bench.launch.slurm_queue import LOCK, SUBMISSION
from bench.launch.work import Work
from bench.plan.status import run_status
from bench.store import Store
from bench.types import RequestError

SIGNAL = signal.Signals[f"SIG{JobEnvironment.USR_SIG}"]


@dataclass(frozen=True)
class CohortJob:
    """A job, in the form that submitit pickles.

    Attributes:
        work: the runs of the cohort and those that they need.
        cohort: ids of the runs of the cohort.
        submission: folder of the submission.
    """

    work: Work
    cohort: tuple[str, ...]
    submission: Path

    def __call__(self) -> None:
        """Train the cohort.

        Raises:
            SystemExit: none of its runs has a result, so jobs that depend on it must not start.
        """
        let_signals_through()
        logging.getLogger("submitit").propagate = False  # it has its own handler
        plan, store = self.work.plan, Store(self.work.results)
        with store.locked(LOCK):
            pass  # wait until the submission is complete
        if not (self.submission / SUBMISSION).exists():
            raise SystemExit("the command that submitted this job was killed: submit again")
        try:
            launch(self.work)
        except RequestError as error:
            raise SystemExit(str(error)) from None
        results = [run_status(plan.runs[run_id], plan, store) for run_id in self.cohort]
        if all(status != "done" for status, _ in results):
            reasons = dict.fromkeys(reason for _, reason in results)
            raise SystemExit(f"no run has a result: {'; '.join(reasons)}")

    def checkpoint(self) -> DelayedSubmission:
        """Return what the job runs when it is queued again: the same, since all progress is in the store."""
        return DelayedSubmission(self)


def let_signals_through() -> None:
    """Make exceptions of submitit's signal handler end the process; otherwise, a training step would catch them."""
    handler, owner = signal.getsignal(SIGNAL), os.getpid()
    assert callable(handler)  # set by submitit

    def handle(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:
            return  # a data loading process must not requeue the job
        try:
            handler(number, frame)
        except Exception as error:
            raise SystemExit(f"the job is not queued again: {error}") from error

    signal.signal(SIGNAL, handle)
