"""Submits a suite to a SLURM cluster with submitit: job arrays, one task per cohort, requeued until it has ended.

Jobs run a copy of the code that is made at submission, so that edits while they wait have no effect on them. A job
knows only its own runs; all progress is in the store.
"""

import json
import logging
import os
import pickle
import re
import shlex
import shutil
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import redirect_stderr, suppress
from dataclasses import replace
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

from submitit.core.utils import FailedJobError
from submitit.slurm.slurm import SlurmExecutor

from bench.launch.preparation import fetch_data, most_processes, record_without_training, unserved
from bench.launch.provenance import ORIGIN, git_state
from bench.launch.slurm_job import IGNORE, WORK, ChoiceJob, CohortJob, python
from bench.launch.slurm_queue import JOBS, LOCK, SUBMISSION, Job, command, job_name, log_of, submitted
from bench.launch.work import Work
from bench.plan import CohortPlan, work_units
from bench.plan.status import open_runs as open_in
from bench.spec import RunSpec
from bench.store import Store, write_whole
from bench.suite.resources import Slurm
from bench.types import RequestError, suggest
from methods import catalog

logger = logging.getLogger(__name__)

MAX_TIMEOUTS = 100  # how often a job may reach its time limit: it resumes, so only a stuck job does so often
MAX_PARALLEL = 1000  # tasks of an array at a time, unless the suite sets fewer
DEFAULT_ARRAY_SIZE = 1001  # of SLURM, where the cluster does not say it
NO_CLUSTER = "No cluster can be reached from here: use one of its login nodes"
CURES = {  # what to change in a suite, by what sbatch says
    "array specification": "Set max_lanes higher, so that there are fewer jobs, or submit parts of it with --only",
    "submit limit": "If these are too many jobs, set max_lanes higher, or submit parts of it with --only. If one "
    "requests too much, set less under slurm: (timeout_min, gpus_per_node, cpus_per_task, mem_gb)",
    "time limit": "Set slurm: timeout_min",
    "node configuration": "Set less, or others, under slurm: (gpus_per_node, cpus_per_task, mem_gb, constraint)",
    "Memory": "Set slurm: mem_gb",
    "CPU count": "Set slurm: cpus_per_task",
    "generic resource": "Set slurm: gpus_per_node",
    "artition": "Set slurm: partition",
    "qos": "Set slurm: qos",
    "ccount": "Set slurm: account",
    "feature": "Set slurm: constraint",
    "configuration source": NO_CLUSTER,
    "contact slurm controller": NO_CLUSTER,
}
SIGNAL_S = 90  # a job gets a signal that many seconds before its time limit
RESERVED = {  # options of submitit that have another name in a suite, or that are set here
    *("job_name", "time", "mem", "setup", "array_parallelism", "dependency"),
    *("nodes", "ntasks_per_node", "num_gpus", "stderr_to_stdout"),
}
PLUGINS = "plugins"  # folder of method files in the copy of the code


def submit(work: Work, retried: Collection[str] = ()) -> list[Job]:
    """Submit retried runs and the open runs that no job trains yet; return the new jobs.

    Errors in the request are raised before anything is submitted. If the cluster refuses a job, the others are
    cancelled. Jobs of a submission that was killed before it was complete end when they start.

    Raises:
        RequestError: there is no SLURM here, an option is unknown, a job has fewer GPUs than processes, data is
            missing, or the cluster refuses the jobs.
    """
    if absent := [name for name in ("sbatch", "srun", "squeue", "scancel") if shutil.which(name) is None]:
        raise RequestError(
            f"--slurm: {absent[0]} is not installed here. Use a login node of a cluster, or leave --slurm out"
        )
    plan, store = work.plan, Store(work.results)
    options = _options(plan.suite.slurm, plan.file)
    open_runs = open_in(work.wanted, plan, store, retried)
    gpus = plan.suite.slurm.gpus_per_node or 0  # 0 if the suite does not set it
    most = most_processes(open_runs)
    if 0 < gpus < most:
        raise RequestError(
            f"{plan.file}: slurm: gpus_per_node: {gpus}, but training: processes: {most}: each process needs a GPU, "
            f"all on one node. Set gpus_per_node: {most}"
        )
    reasons = unserved(plan, open_runs, catalog(work.plugins))
    fetch_data(open_runs, work.data)  # jobs may have no network
    with store.locked(LOCK):
        trained_by = {run_id: job.id for job in submitted(store) if job.state for run_id in job.runs}
        served = [run for run in open_runs if run.id not in reasons]
        missing = [run for run in served if run.id in retried or run.id not in trained_by]
        prepare = partial(record_without_training, plan, store, reasons, retried)
        if missing:
            return _submit_all(work, missing, trained_by, options, prepare)
        prepare()
    return []


def _submit_all(
    work: Work,
    missing: Sequence[RunSpec],
    trained_by: Mapping[str, str],
    options: Mapping[str, Any],
    prepare: Callable[[], None],
) -> list[Job]:
    """Submit jobs for all runs or for none; return them. `prepare` is called before the submission is complete."""
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:6]}"
    folder = Store(work.results).suite_folder(work.plan.name).resolve() / JOBS / name
    try:
        origin = _copy_code(folder / "code", work)
        jobs = list(_submit(_relocated(work, folder), folder, missing, trained_by, options))
        suite = os.path.relpath(work.plan.absolute, work.results.resolve())
        document = origin | {"suite": suite, "tasks": {job.id: job.runs for job in jobs}}
        prepare()  # the cluster has taken all jobs, and without the next file they end
        write_whole(folder / SUBMISSION, json.dumps(document, indent=1) + "\n")
    except BaseException:
        with suppress(RequestError):  # the first error is the one that says why
            command("scancel", "--quiet", f"--name={job_name(folder)}")
        shutil.rmtree(folder, ignore_errors=True)
        raise
    if origin["dirty"]:
        logger.warning("the code has changes that are not committed: the jobs run a copy of it as it is now")
    return jobs


def _submit(
    work: Work, folder: Path, missing: Sequence[RunSpec], jobs: Mapping[str, str], options: Mapping[str, Any]
) -> Iterator[Job]:
    """Submit each cohort after the jobs that it depends on, in arrays of equal dependencies; yield the jobs."""
    plan, store = work.plan, Store(work.results)
    executor = SlurmExecutor(folder / "logs", max_num_timeout=MAX_TIMEOUTS, python=python())
    setup = _setup(plan.suite.slurm, folder / "code")
    again = {run.id for run in missing}  # some of them are done or in jobs, and trained again
    trained_by = {run_id: job_id for run_id, job_id in jobs.items() if run_id not in again}
    awaited = again | {run_id for run_id in trained_by if store.state(run_id) != "done"}
    unsubmitted = work_units(missing, plan.suite.max_lanes)
    most = array_size()
    write_whole(folder / WORK, pickle.dumps(work))

    def submitted_array(calls: Sequence[Callable[[], None]], dependency: str | None) -> list[str]:
        """Submit an array of jobs and return their ids."""
        try:
            executor.update_parameters(**options, setup=setup, job_name=job_name(folder), dependency=dependency)
            with redirect_stderr(StringIO()):  # submitit also prints the message of its error
                return [job.job_id for job in executor.submit_array(calls)]
        except FailedJobError as error:
            errors = [line.partition("error: ")[2] for line in str(error).splitlines() if "error: " in line]
            reason = "; ".join(errors) or str(error)
            cure = next((f". {cure}" for said, cure in CURES.items() if said in reason), "")
            raise RequestError(f"sbatch refuses the jobs: {reason}{cure}") from None

    while unsubmitted:
        arrays: dict[str, list[CohortPlan]] = {}  # by the jobs that they depend on
        later = []
        for cohort in unsubmitted:
            needs = cohort.needs & awaited
            if needs <= trained_by.keys():
                awaited_jobs = sorted({trained_by[need] for need in needs})
                arrays.setdefault(":".join(awaited_jobs), []).append(cohort)
            else:
                later.append(cohort)
        unsubmitted = later
        pieces = [
            (needed, array[first : first + most])
            for needed, array in arrays.items()
            for first in range(0, len(array), most)
        ]
        for needed, array in pieces:
            calls = []
            for cohort in array:
                runs = tuple(run.id for run in cohort.runs)
                calls.append(CohortJob((*sorted(cohort.needs), *runs), runs, folder))
            job_ids = submitted_array(calls, f"afterok:{needed}" if needed else None)
            for call, job_id in zip(calls, job_ids, strict=True):
                trained_by |= dict.fromkeys(call.cohort, job_id)
                yield Job(job_id, call.cohort, log_of(folder, job_id), "PENDING", "Dependency" if needed else "")
    if plan.awaited:
        after = ":".join(sorted(set(trained_by.values())))
        (job_id,) = submitted_array([ChoiceJob(folder)], f"afterany:{after}")
        yield Job(job_id, (), log_of(folder, job_id), "PENDING", "Dependency")


def array_size() -> int:
    """Return how many tasks a job array may have on this cluster."""
    try:
        said = command("scontrol", "show", "config")
    except RequestError:
        said = ""
    sizes = [int(number) for number in re.findall(r"(?:MaxArraySize *= *|max_array_tasks=)(\d+)", said)]
    # indices are below MaxArraySize
    return max(1, min(sizes, default=DEFAULT_ARRAY_SIZE) - 1)


def _relocated(work: Work, folder: Path) -> Work:
    """Return the work with absolute paths and with the submission's copies of the plug-ins."""
    checkpoints = {
        run_id: replace(checkpoint, path=checkpoint.path and checkpoint.path.absolute())
        for run_id, checkpoint in work.plan.checkpoints.items()
    }
    return replace(
        work,
        plan=replace(work.plan, checkpoints=checkpoints),
        results=Path(os.path.realpath(work.results)),
        data=Path(os.path.realpath(work.data)),  # unlike Path.resolve, also of a loop of links
        plugins=tuple(folder / "code" / PLUGINS / plugin.name for plugin in work.plugins),
        live=False,
    )


def _copy_code(folder: Path, work: Work) -> dict[str, Any]:
    """Copy the code, plug-ins and suite file to the folder of a submission; return the git state of the code."""
    source = Path(__file__).parents[2]
    origin = git_state(source)
    for part in ("bench", "methods"):
        shutil.copytree(source / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / PLUGINS).mkdir()
    for plugin in work.plugins:
        shutil.copy(plugin, folder / PLUGINS)
        helpers = {helper for code in work.plan.code.values() if code.path == plugin for helper in code.helpers}
        for helper in helpers:
            if helper.is_relative_to(plugin.parent):  # else, it is another method of the project
                copy = folder / PLUGINS / helper.relative_to(plugin.parent)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(helper, copy)
    shutil.copy(work.plan.absolute, folder)
    write_whole(folder / ORIGIN, json.dumps(origin) + "\n")
    return origin


def _options(slurm: Slurm, suite: Path) -> dict[str, Any]:
    """Return the options of submitit for the jobs of a suite; raise a `RequestError` if it does not know one."""
    others = {key.removeprefix("slurm_"): value for key, value in (slurm.model_extra or {}).items()}
    allowed = SlurmExecutor._valid_parameters() - RESERVED
    if unknown := [f"slurm_{name}" for name in others if name not in allowed]:
        known = [f"slurm_{name}" for name in allowed]
        problems = [f"{suite}: slurm: unknown key '{key}'. {suggest(key, known)}" for key in unknown]
        raise RequestError("\n".join(problems))
    same_name = ("partition", "qos", "account", "constraint", "gpus_per_node", "cpus_per_task")
    options = {name: value for name in same_name if (value := getattr(slurm, name))}
    options |= {
        "time": slurm.timeout_min,
        "mem": f"{round(slurm.mem_gb * 1024)}MB" if slurm.mem_gb else None,
        "array_parallelism": slurm.max_parallel or MAX_PARALLEL,
        "signal_delay_s": min(SIGNAL_S, slurm.timeout_min * 60 // 4),
        "wckey": None,  # clusters that check such keys refuse the default of submitit
        **others,
    }
    additional = {
        "requeue": True,  # the default depends on the cluster
        "kill-on-invalid-dep": "yes",  # else a job that depends on a failed one waits for ever
    }
    return options | {"additional_parameters": additional | others.get("additional_parameters", {})}


def _setup(slurm: Slurm, code: Path) -> list[str]:
    """Return the shell commands that run before the Python of a job."""
    path = 'export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"'
    lines = [IGNORE, *slurm.setup, f"cd {shlex.quote(str(code))}", path]
    if slurm.cpus_per_task:  # srun no longer inherits it from sbatch
        lines.append(f"export SRUN_CPUS_PER_TASK={slurm.cpus_per_task}")
    return lines
