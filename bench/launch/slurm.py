"""A suite on a SLURM cluster, through submitit: an array of jobs a stage, a cohort a task, no process left behind.

Jobs run from a copy of the code, made when they are submitted: whatever is edited while they wait, a submission is
of one version. A job knows its runs and nothing of the others; what it must not lose is in the store.
"""

import json
import logging
import os
import shlex
import shutil
import signal
import time
import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass, fields, replace
from io import StringIO
from pathlib import Path
from types import FrameType
from typing import Any

from submitit.core.job_environment import JobEnvironment
from submitit.core.utils import DelayedSubmission, FailedJobError
from submitit.slurm.slurm import SlurmExecutor

from bench.launch.jobs import JOBS, LOCK, SUBMISSION, Task, command, job_name, log_of, tasks
from bench.launch.launcher import fetch_data, most_processes, settle, unserved
from bench.launch.provenance import ORIGIN, git_state
from bench.launch.work import Work
from bench.plan import Cohort, portions
from bench.plan.status import is_open, run_status
from bench.spec import RunSpec
from bench.store import Store, write_whole
from bench.suite import Slurm
from bench.types import RequestError, suggest
from methods import catalog

logger = logging.getLogger(__name__)

MOST_TIMEOUTS = 100  # times that a job may reach its limit: it goes on where it was, so only one that is stuck does
MOST_PARALLEL = 1000  # tasks of an array at a time, unless the suite says fewer
SIGNAL_S = 90  # seconds before its end at which a job is told of it
SIGNAL = signal.Signals[f"SIG{JobEnvironment.USR_SIG}"]
OWN = {  # submitit's options that the suite says in other words, or that would break what is promised
    *("job_name", "time", "mem", "setup", "array_parallelism", "dependency"),
    *("nodes", "ntasks_per_node", "num_gpus", "stderr_to_stdout"),
}
PLUGINS = "plugins"  # their folder beside the code's


@dataclass(frozen=True, kw_only=True)
class CohortJob(Work):
    """The work of one job: a cohort, in the code of its submission.

    Attributes:
        cohort: ids of its runs; `runs` holds those that they need besides.
        submission: the submission's folder.
    """

    cohort: tuple[str, ...]
    submission: Path

    def __call__(self, retried: Collection[str] = ()) -> None:
        """Train the cohort.

        Raises:
            SystemExit: none of its runs has come to a result, so that what waits for them need not start.
        """
        _let_signals_through()
        logging.getLogger("submitit").propagate = False  # it writes to the log by itself
        store = Store(self.results)
        with store.locked(LOCK):
            pass  # until the submission is whole
        if not (self.submission / SUBMISSION).exists():
            raise SystemExit("the command that submitted this job was killed: submit again")
        try:
            super().__call__(retried)
        except RequestError as error:
            raise SystemExit(str(error)) from None
        ends = [run_status(self.plan.runs[run_id], self.plan, store) for run_id in self.cohort]
        if all(status != "done" for status, _ in ends):
            reasons = dict.fromkeys(reason for _, reason in ends)
            raise SystemExit(f"no run has a result: {'; '.join(reasons)}")

    def checkpoint(self) -> DelayedSubmission:
        """Return what the job does when it is queued again: the same, for all progress is in the store."""
        return DelayedSubmission(self)


def _let_signals_through() -> None:
    """Let what submitit's handler raises end the process: within a training step it would be the lane's failure."""
    handler, owner = signal.getsignal(SIGNAL), os.getpid()
    assert callable(handler)  # submitit has set it before it calls the job

    def handle(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:
            return  # a process that loads data: the job is not its own to queue again
        try:
            handler(number, frame)
        except Exception as error:
            raise SystemExit(f"the job is not queued again: {error}") from error

    signal.signal(SIGNAL, handle)


def submit(work: Work, suite: Path, wanted: Sequence[RunSpec], retried: Collection[str]) -> list[Task]:
    """Submit what the store lacks and no job is to train yet; return the new tasks.

    All that can be wrong with the request is found before anything is submitted; if the cluster refuses a part, the
    rest is cancelled, and jobs whose submission was killed half-way end as soon as they begin.

    Args:
        work: what a process would do here.
        suite: the suite's file.
        wanted: runs of the plan, needs included, in its order.
        retried: ids of runs whose failure is forgotten.

    Raises:
        RequestError: there is no SLURM here, an option is unknown, a job has fewer GPUs than processes, data is
            missing, or the cluster refuses the jobs.
    """
    if absent := [name for name in ("sbatch", "srun", "squeue", "scancel") if shutil.which(name) is None]:
        raise RequestError(f"--slurm: there is no {absent[0]} here. Go to a login node of a cluster, or leave it out")
    plan, store = work.plan, Store(work.results)
    options = _options(plan.suite.slurm, suite)
    open_runs = [run for run in wanted if is_open(run, plan, store, retried)]
    gpus = plan.suite.slurm.gpus_per_node or 0  # 0: the suite does not say
    most = most_processes(open_runs)
    if 0 < gpus < most:
        raise RequestError(
            f"{suite}: slurm: gpus_per_node: {gpus}, but training: processes: {most}: each needs a GPU of its own, all "
            f"on one node. Set gpus_per_node: {most}"
        )
    reasons = unserved(plan, open_runs, catalog(work.plugins))
    fetch_data(open_runs, work.data)  # where there is a network
    with store.locked(LOCK):
        jobs = {run_id: task.job for task in tasks(store) if task.state for run_id in task.runs}
        served = [run for run in open_runs if run.id not in reasons]
        missing = [run for run in served if run.id in retried or run.id not in jobs]
        found = _submit_whole(work, suite, missing, jobs, options) if missing else []
        settle(plan, store, reasons, retried)
    return found


def _submit_whole(
    work: Work, suite: Path, missing: Sequence[RunSpec], jobs: Mapping[str, str], options: Mapping[str, Any]
) -> list[Task]:
    """Submit runs, all or none; return their tasks."""
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:6]}"
    folder = Store(work.results).suite_folder(work.plan.name).resolve() / JOBS / name
    try:
        origin = _copy_code(folder / "code", suite, work.plugins)
        found = list(_submit(_job(work, folder), missing, jobs, options))
        document = origin | {"tasks": {task.job: task.runs for task in found}}
        write_whole(folder / SUBMISSION, json.dumps(document, indent=1) + "\n")
    except BaseException:
        command("scancel", "--quiet", f"--name={job_name(folder)}")
        shutil.rmtree(folder, ignore_errors=True)
        raise
    if origin["dirty"]:
        logger.warning("the code has changes that are not committed: the jobs run a copy of it as it is now")
    return found


def _submit(
    job: CohortJob, missing: Sequence[RunSpec], jobs: Mapping[str, str], options: Mapping[str, Any]
) -> Iterator[Task]:
    """Submit cohorts as soon as what they wait for is, in an array with those that wait for the same; yield tasks."""
    plan, store, folder = job.plan, Store(job.results), job.submission
    executor = SlurmExecutor(folder / "logs", max_num_timeout=MOST_TIMEOUTS)  # plain: fits arrays and single jobs alike
    setup = _setup(plan.suite.slurm, folder / "code")
    trained_by = dict(jobs)
    run_ids = [*jobs, *(run.id for run in missing)]
    awaited = {run_id for run_id in run_ids if store.state(run_id) != "done"}
    left = portions(missing, plan.suite.max_lanes)
    while left:
        arrays: dict[str, list[Cohort]] = {}  # by the jobs that they wait for
        later = []
        for cohort in left:
            needs = cohort.needs & awaited
            if needs <= trained_by.keys():
                awaited_jobs = sorted({trained_by[need] for need in needs})
                arrays.setdefault(":".join(awaited_jobs), []).append(cohort)
            else:
                later.append(cohort)
        left = later
        for needed, array in arrays.items():
            members = [tuple(run.id for run in cohort.runs) for cohort in array]
            shares = [
                replace(job, cohort=runs, runs=(*sorted(cohort.needs), *runs))
                for runs, cohort in zip(members, array, strict=True)
            ]
            dependency = f"afterok:{needed}" if needed else None
            try:
                executor.update_parameters(**options, setup=setup, job_name=job_name(folder), dependency=dependency)
                with redirect_stderr(StringIO()):  # submitit repeats there what its error says
                    submitted = [one.job_id for one in executor.submit_array(shares)]
            except FailedJobError as error:
                said = [line.partition("error: ")[2] for line in str(error).splitlines() if "error: " in line]
                reason = "; ".join(said) or str(error)
                raise RequestError(f"sbatch refuses the jobs: {reason}") from None
            for runs, job_id in zip(members, submitted, strict=True):
                trained_by |= dict.fromkeys(runs, job_id)
                yield Task(job_id, runs, log_of(folder, job_id), "PENDING", "Dependency" if needed else "")


def _job(work: Work, folder: Path) -> CohortJob:
    """Return a job that does a cohort's share of the work anywhere, from a submission's copy of the code."""
    given = {field.name: getattr(work, field.name) for field in fields(work)}
    checkpoints = {}
    for run_id, checkpoint in work.plan.checkpoints.items():
        path = None if checkpoint.path is None else checkpoint.path.absolute()
        checkpoints[run_id] = replace(checkpoint, path=path)
    given |= {
        "plan": replace(work.plan, checkpoints=checkpoints),
        "results": work.results.resolve(),
        "data": work.data.resolve(),
        "plugins": tuple(folder / "code" / PLUGINS / plugin.name for plugin in work.plugins),
        "live": False,
    }
    return CohortJob(**given, cohort=(), submission=folder)


def _copy_code(folder: Path, suite: Path, plugins: Sequence[Path]) -> dict[str, Any]:
    """Copy the code to where jobs run it, so that it is of one version whatever is edited; return its git state."""
    source = Path(__file__).parents[2]
    origin = git_state(source)
    for part in ("bench", "methods"):
        shutil.copytree(source / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / PLUGINS).mkdir()
    for plugin in plugins:
        shutil.copy(plugin, folder / PLUGINS)
    shutil.copy(suite, folder)
    write_whole(folder / ORIGIN, json.dumps(origin) + "\n")
    return origin


def _options(slurm: Slurm, suite: Path) -> dict[str, Any]:
    """Return the options that submitit takes for a suite's jobs.

    Raises:
        RequestError: it does not know one of them.
    """
    others = {key.removeprefix("slurm_"): value for key, value in (slurm.model_extra or {}).items()}
    allowed = SlurmExecutor._valid_parameters() - OWN
    if unknown := [f"slurm_{name}" for name in others if name not in allowed]:
        known = [f"slurm_{name}" for name in allowed]
        problems = [f"{suite}: slurm: unknown key '{key}'. {suggest(key, known)}" for key in unknown]
        raise RequestError("\n".join(problems))
    options: dict[str, Any] = {}
    for name in ("partition", "qos", "account", "constraint", "gpus_per_node", "cpus_per_task"):
        value = getattr(slurm, name)
        if value:
            options[name] = value
    options["time"] = slurm.timeout_min
    options["mem"] = f"{round(slurm.mem_gb * 1024)}MB" if slurm.mem_gb else None
    options["array_parallelism"] = slurm.max_parallel or MOST_PARALLEL
    options["signal_delay_s"] = min(SIGNAL_S, slurm.timeout_min * 60 // 4)
    options["wckey"] = None  # submitit's own is refused where such keys are checked
    options |= others
    additional = {
        "requeue": True,  # also where jobs are not unless they ask for it
        "kill-on-invalid-dep": "yes",  # what waits for a job that failed would else wait for ever
    }
    options["additional_parameters"] = additional | others.get("additional_parameters", {})
    return options


def _setup(slurm: Slurm, code: Path) -> list[str]:
    """Return the lines of shell that precede a job's Python."""
    lines = [*slurm.setup, f"cd {shlex.quote(str(code))}", 'export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"']
    if slurm.cpus_per_task:  # which srun takes over from sbatch no more
        lines.append(f"export SRUN_CPUS_PER_TASK={slurm.cpus_per_task}")
    return lines
