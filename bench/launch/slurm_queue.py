"""Lists and cancels the jobs of a store on a SLURM cluster. Imports no torch.

    <results>/<suite name>/jobs/<submission>/   submission.json  work.pkl  code/  logs/

The scheduler is only asked which jobs are queued or running, since not every cluster has accounting. The store and the
logs show how jobs ended.
"""

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from bench.reading import read_bytes
from bench.store import Store
from bench.store.files import read_as
from bench.types import RequestError

JOBS, SUBMISSION = "jobs", "submission.json"
LOCK = "jobs"  # name of the store's lock that is held while jobs are submitted
ENDING = "COMPLETING"  # the state of a job that has ended, while the scheduler cleans up
TAIL = 5  # lines of a log


@dataclass(frozen=True)
class Submission:
    """What readers rely on in a submission's file; it holds more."""

    tasks: dict[str, list[str]]  # ids of the runs of each job, by job id
    suite: str | None = None  # path of the suite file from the store's root


SUBMISSIONS = TypeAdapter(Submission)


@dataclass(frozen=True)
class Job:
    """A job, or a task of a job array, that trains one cohort.

    Attributes:
        id: such as 12 or 12_3.
        runs: ids of the cohort's runs.
        log: the file of its output; it exists once the job has started.
        state: the state in the scheduler, such as PENDING or RUNNING; "" if the scheduler no longer knows the job.
        reason: why it is in that state, or "".
    """

    id: str
    runs: tuple[str, ...]
    log: Path
    state: str = ""
    reason: str = ""

    @property
    def array(self) -> str:
        """Return the id of its array or, if it is not a task of one, its own id."""
        return self.id.partition("_")[0]

    @property
    def log_tail(self) -> list[str]:
        """Return the last lines of the log that are not empty."""
        try:
            lines = read_bytes(self.log).decode(errors="replace").splitlines()
        except (OSError, RequestError):
            return []
        return [line for line in lines if line.strip()][-TAIL:]


def job_name(submission: Path) -> str:
    """Return the name of all jobs of a submission, which is unique among all stores."""
    return f"{submission.parent.parent.name}-{submission.name}"


def log_of(submission: Path, job_id: str) -> Path:
    """Return the file to which submitit redirects the standard error of a job."""
    return submission / "logs" / f"{job_id}_0_log.err"


def submitted(store: Store, suite: Path | None = None) -> list[Job]:
    """Return the jobs of all complete submissions of one suite file or of the whole store, the latest last.

    Submissions of earlier versions, which did not record the file, are matched by its name alone.
    """
    name = suite.stem if suite else "*"
    files = sorted(store.root.glob(f"{name}/{JOBS}/*/{SUBMISSION}"), key=lambda file: file.parent.name)
    submissions = {file.parent: read for file in files if (read := read_as(SUBMISSIONS, file)) is not None}
    if suite is not None:
        allowed = (None, os.path.relpath(os.path.realpath(suite), os.path.realpath(store.root)))
        submissions = {folder: read for folder, read in submissions.items() if read.suite in allowed}
    if not submissions:
        return []
    names = ",".join(map(job_name, submissions))
    states = {}
    for line in command("squeue", "--noheader", "--array", f"--name={names}", "--format=%i|%T|%r").splitlines():
        job_id, state, reason = line.split("|", 2)
        if state != ENDING:
            states[job_id] = (state, "" if reason == "None" else reason)
    return [
        Job(job_id, tuple(runs), log_of(folder, job_id), *states.get(job_id, ("", "")))
        for folder, submission in submissions.items()
        for job_id, runs in submission.tasks.items()
    ]


def cancel(jobs: Sequence[Job]) -> None:
    """Cancel jobs, which must be all remaining jobs of their arrays."""
    command("scancel", *dict.fromkeys(job.array for job in jobs))


def command(name: str, *arguments: str) -> str:
    """Return the output of a SLURM command.

    Raises:
        RequestError: the command is not installed, fails, or does not answer.
    """
    if shutil.which(name) is None:
        raise RequestError(f"{name} is not installed here: only machines of the cluster know its jobs")
    # SQUEUE_ variables would change the output
    env = {key: value for key, value in os.environ.items() if not key.startswith("SQUEUE_")}
    try:
        call = [name, *arguments]
        return subprocess.run(call, capture_output=True, text=True, env=env, timeout=120, check=True).stdout
    except subprocess.CalledProcessError as error:
        message = " ".join(error.stderr.split())
        raise RequestError(f"{name}: {message or f'exit status {error.returncode}'}") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RequestError(f"{name} does not answer: {error}") from None
