"""A store's jobs on a SLURM cluster: what was submitted, and what the scheduler says of it. Imports no torch.

    <results>/<suite name>/jobs/<submission>/   submission.json  code/  logs/

The scheduler is asked for what is queued or runs, never for its accounts, which not every cluster keeps: how a job
ended is for the store to say, and for the job's log.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.store import Store
from bench.types import RequestError

JOBS, SUBMISSION = "jobs", "submission.json"
LOCK = "jobs"  # the store's lock of that name is held while jobs are submitted
ENDING = "COMPLETING"  # a job that trains no more, though the scheduler still tidies up after it
TAIL = 5  # lines of a log


@dataclass(frozen=True)
class Task:
    """A job, or a task of a job array: it trains one cohort.

    Attributes:
        job: its id, such as 12 or 12_3.
        runs: ids of the cohort's runs.
        log: what it said, once it has begun.
        state: the scheduler's word, such as PENDING or RUNNING; "" for one that has ended, or never was known to it.
        reason: why it is in that state, or "".
    """

    job: str
    runs: tuple[str, ...]
    log: Path
    state: str = ""
    reason: str = ""

    @property
    def last_words(self) -> list[str]:
        """Return the last lines of its log."""
        try:
            lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return []
        return [line for line in lines if line.strip()][-TAIL:]


def job_name(submission: Path) -> str:
    """Return the name that all jobs of a submission have: no other's, in this store or elsewhere."""
    return f"{submission.parent.parent.name}-{submission.name}"


def log_of(submission: Path, job: str) -> Path:
    """Return the file that submitit lets a job write its standard error to."""
    return submission / "logs" / f"{job}_0_log.err"


def tasks(store: Store, suite: str = "*") -> list[Task]:
    """Return the tasks of every whole submission, of one suite or of all in the store, the latest last.

    Raises:
        RequestError: the scheduler does not answer.
    """
    records = sorted(store.root.glob(f"{suite}/{JOBS}/*/{SUBMISSION}"), key=lambda record: record.parent.name)
    known = queue(job_name(record.parent) for record in records)
    found = []
    for record in records:
        for job, runs in json.loads(record.read_text())["tasks"].items():
            state, reason = known.get(job, ("", ""))
            found.append(Task(job, tuple(runs), log_of(record.parent, job), state, reason))
    return found


def queue(names: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Return (state, reason) of each job that has one of the names and has not ended, by id.

    Raises:
        RequestError: the scheduler does not answer.
    """
    chosen = ",".join(names)
    if not chosen:
        return {}
    answer = command("squeue", "--noheader", "--array", f"--name={chosen}", "--format=%i|%T|%r")
    found = {}
    for line in answer.splitlines():
        job, state, reason = line.split("|", 2)
        if state != ENDING:
            found[job] = (state, "" if reason == "None" else reason)
    return found


def cancel(waiting: Sequence[Task]) -> None:
    """End jobs; they must be all that is left of their submissions.

    Raises:
        RequestError: the scheduler does not let them end.
    """
    command("scancel", *dict.fromkeys(task.job.partition("_")[0] for task in waiting))


def command(name: str, *arguments: str) -> str:
    """Return what one of SLURM's commands prints.

    Raises:
        RequestError: it is not there, or fails.
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
