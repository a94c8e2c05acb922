"""The function that each SLURM job calls: it trains one cohort, with the code as it was at submission."""

import logging
import os
import pickle
import shlex
import signal
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from submitit.core.job_environment import JobEnvironment
from submitit.core.utils import DelayedSubmission

from bench.launch.slurm_queue import LOCK, SUBMISSION
from bench.models import NETWORKS
from bench.models.own import add_networks
from bench.store import Store
from bench.text import log_to_stderr
from bench.types import RequestError

if TYPE_CHECKING:
    from bench.launch.work import Work

logger = logging.getLogger(__name__)

KEPT = ("SLURM_CONF", "SLURM_PORT")  # of the cluster, not of a job
WORK = "work.pkl"  # in the folder of a submission
SIGNAL = signal.Signals[f"SIG{JobEnvironment.USR_SIG}"]
EARLY = (signal.SIGTERM, SIGNAL)  # may arrive before submitit handles them, and end a process by default
IGNORE = f"trap '' {' '.join(str(int(number)) for number in EARLY)}"  # in a shell: for what it starts, too
_BLOCK = (
    f"import os, signal, sys; signal.pthread_sigmask(signal.SIG_BLOCK, {[int(number) for number in EARLY]}); "
    "os.execv(sys.argv[1], sys.argv[1:])"
)


@dataclass(frozen=True)
class CohortJob:
    """A job, in the form that submitit pickles: light, since submitit reads it before it handles signals.

    Attributes:
        runs: ids of the runs of the cohort and those that they need.
        cohort: ids of the runs of the cohort.
        submission: folder of the submission, with the pickled `Work` of all its jobs.
    """

    runs: tuple[str, ...]
    cohort: tuple[str, ...]
    submission: Path

    def __call__(self) -> None:
        """Train the cohort.

        Raises:
            SystemExit: none of its runs has a result, so jobs that depend on it must not start.
        """
        let_signals_through()
        from bench.launch.launcher import launch  # takes seconds: a signal must not wait for it
        from bench.plan.status import run_status
        from methods._errors import tell_interruptions

        tell_interruptions()
        logging.getLogger("submitit").propagate = False  # it has its own handler
        work = replace(_submitted_work(self.submission), runs=self.runs)
        plan, store = work.plan, Store(work.results)
        try:
            launch(work)
        except RequestError as error:
            raise SystemExit(str(error)) from None
        results = [run_status(plan.runs[run_id], plan, store) for run_id in self.cohort]
        if all(status != "done" for status, _ in results):
            reasons = dict.fromkeys(reason for _, reason in results)
            raise SystemExit(f"no run has a result: {'; '.join(reasons)}")

    def checkpoint(self) -> DelayedSubmission:
        """Return what the job runs when it is queued again: the same, since all progress is in the store."""
        for leftover in (self.submission / "logs").glob(f"{JobEnvironment().job_id}_submitted.pkl.save_tmp"):
            leftover.unlink()  # of a process that was killed here: submitit would refuse to write it again
        return DelayedSubmission(self)


@dataclass(frozen=True)
class ChoiceJob:
    """A job that follows trials: it chooses settings by their results and submits the runs that are then known.

    Attributes:
        submission: folder of the submission of the trials, with its pickled `Work`.
    """

    submission: Path

    def __call__(self) -> None:
        """Plan again with the results in the store and submit what is new."""
        let_signals_through()
        from bench.launch.slurm import submit
        from bench.plan import continued
        from methods import catalog

        work = _submitted_work(self.submission)
        for name in [name for name in os.environ if name.startswith(("SLURM_", "SBATCH_")) and name not in KEPT]:
            del os.environ[name]  # of this job: sbatch would take them for those of the next
        try:
            add_networks(work.plugins, NETWORKS)
            plan = continued(work.plan, catalog(work.plugins), Store(work.results))
            if plan is None:
                raise SystemExit("no trial has ended since they were submitted: see their logs")
            wanted = set(work.runs)
            cells = [cell for cell in plan.cells if any(run.id in wanted for run in (*cell.runs, *cell.wanted))]
            runs = plan.with_needs(run for cell in cells for run in cell.wanted)
            jobs = submit(replace(work, plan=plan, runs=tuple(run.id for run in runs)))
        except RequestError as error:
            raise SystemExit(str(error)) from None
        logger.info("submitted: %s", ", ".join(job.id for job in jobs) or "nothing is left to train")

    def checkpoint(self) -> DelayedSubmission:
        """Return what the job runs when it is queued again: the same."""
        return DelayedSubmission(self)


def _submitted_work(submission: Path) -> "Work":
    """Return the work of a submission once that is complete; end the process if it never will be. Logging begins."""
    work: Work = pickle.loads((submission / WORK).read_bytes())
    with Store(work.results).locked(LOCK):
        pass  # wait until the submission is complete
    if not (submission / SUBMISSION).exists():
        raise SystemExit("the command that submitted this job was killed: submit again")
    log_to_stderr()
    return work


def python() -> str:
    """Return the command of a job's Python, in which early signals wait until `let_signals_through`.

    A shell ignores them until a first Python blocks them; both pass that on to the Python of the job.
    """
    return shlex.join(["sh", "-c", f'{IGNORE}; exec "$0" -ISc "{_BLOCK}" "$0" "$@"', sys.executable])


def let_signals_through() -> None:
    """Make exceptions of submitit's signal handler end the process; otherwise, a training step would catch them.

    Signals that have arrived since the job's start are delivered now.
    """
    handler, owner = signal.getsignal(SIGNAL), os.getpid()
    assert callable(handler)  # set by submitit
    is_handled = False

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal is_handled
        if is_handled or os.getpid() != owner:
            return  # a second signal must not interrupt what follows; a data loading process must not requeue the job
        is_handled = True
        try:
            handler(number, frame)
        except Exception as error:
            raise SystemExit(f"the job is not queued again: {error}") from error

    signal.signal(SIGNAL, handle)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, EARLY)
