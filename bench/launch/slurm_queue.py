"""A store's jobs on a SLURM cluster: what was submitted, and what the scheduler says of it. Imports no torch.

    <results>/<suite name>/jobs/<submission>/   submission.json  code/  logs/

The scheduler is asked for what is queued or runs, never for its accounting, which not every cluster keeps: the store
tells how a job ended, and so does the job's log.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.store import Store
from bench.types import RequestError

JOBS, SUBMISSION = "jobs", "submission.json"
LOCK = "jobs"  # the store's lock of that name is held while jobs are submitted
ENDING = "COMPLETING"  # a job that trains no more, though the scheduler still tidies up after it
TAIL = 5  # lines of a log


@dataclass(frozen=True)
class Job:
    """A job, or a task of a job array: it trains one cohort.

    Attributes:
        id: such as 12 or 12_3.
        runs: ids of the cohort's runs.
        log: the file of its output, once it has begun.
        state: the scheduler's word, such as PENDING or RUNNING; "" if the scheduler does not know the job any more.
        reason: why it is in that state, or "".
    """

    id: str
    runs: tuple[str, ...]
    log: Path
    state: str = ""
    reason: str = ""

    @property
    def array(self) -> str:
        """Return the id of the array that it is a task of, or its own."""
        return self.id.partition("_")[0]

    @property
    def last_words(self) -> list[str]:
        """Return the last lines of its log."""
        try:
            lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return []
        return [line for line in lines if line.strip()][-TAIL:]


def job_name(submission: Path) -> str:
    """Return the name of all jobs of a submission; no other job, in this store or elsewhere, has it."""
    return f"{submission.parent.parent.name}-{submission.name}"


def log_of(submission: Path, job_id: str) -> Path:
    """Return the file that submitit lets a job write its standard error to."""
    return submission / "logs" / f"{job_id}_0_log.err"


def submitted(store: Store, suite: str = "*") -> list[Job]:
    """Return the jobs of every complete submission, of one suite or of all in the store, the latest last.

    Raises:
        RequestError: the scheduler does not answer.
    """
    records = sorted(store.root.glob(f"{suite}/{JOBS}/*/{SUBMISSION}"), key=lambda record: record.parent.name)
    if not records:
        return []
    names = ",".join(job_name(record.parent) for record in records)
    states = {}
    for line in command("squeue", "--noheader", "--array", f"--name={names}", "--format=%i|%T|%r").splitlines():
        job_id, state, reason = line.split("|", 2)
        if state != ENDING:
            states[job_id] = (state, "" if reason == "None" else reason)
    return [
        Job(job_id, tuple(runs), log_of(record.parent, job_id), *states.get(job_id, ("", "")))
        for record in records
        for job_id, runs in json.loads(record.read_text())["tasks"].items()
    ]


def cancel(jobs: Sequence[Job]) -> None:
    """End jobs; they must be all that is left of their submissions."""
    command("scancel", *dict.fromkeys(job.array for job in jobs))


def command(name: str, *arguments: str) -> str:
    """Return what one of SLURM's commands prints.

    Raises:
        RequestError: it is not installed, or fails.
    """
    if shutil.which(name) is None:
        raise RequestError(f"there is no {name} here: jobs are known on the cluster's own machines only")
    own = {key: value for key, value in os.environ.items() if not key.startswith("SQUEUE_")}  # would change the answer
    try:
        answer = subprocess.run([name, *arguments], capture_output=True, text=True, env=own, timeout=120, check=True)
    except subprocess.CalledProcessError as error:
        said = " ".join(error.stderr.split())
        raise RequestError(f"{name}: {said or f'exit status {error.returncode}'}") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RequestError(f"{name} does not answer: {error}") from None
    return answer.stdout
