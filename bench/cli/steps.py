"""What several commands do, or one does in many lines: plan, try, submit and report. Imports no torch at its top."""

import gc
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bench.cli.group import OK, RUN_FAILED
from bench.cli.options import DeviceName
from bench.terminal.markup import escape
from bench.terminal.output import say, warn, width
from bench.terminal.streams import counted, doing
from bench.text import printable
from bench.types import RequestError, StyleName

if TYPE_CHECKING:
    from bench.launch.slurm_queue import Job
    from bench.launch.work import Work
    from bench.plan import Plan
    from bench.spec import RunSpec
    from bench.store import Store
    from methods import Method


def overrides(changes: list[str] | None, teachers: Path | None, seeds: int | None = None) -> list[str]:
    """Return `--set`, `--teachers` and `--seeds` as changes of the suite file, in the same order for all commands."""
    given = list(changes or ())
    if teachers is not None:
        given.append(f"teachers={json.dumps(str(teachers.absolute()))}")
    return given if seeds is None else [*given, f"seeds={seeds}"]


def read_plan(
    suite: Path, changes: Sequence[str], results: Path, plugins: list[Path] | None, trains: bool = False
) -> "tuple[Plan, Store, dict[str, Method]]":
    """Return `bench.workflow.planned` and show on a terminal what takes a while."""
    with doing(f"Reading {printable(str(suite))}"):
        from bench.share.bundle import is_bundle
        from bench.workflow import planned

        if is_bundle(suite):
            raise RequestError(f"{suite}: is a bundle, which `verify`, `report` and `compare` read. Name a suite")
        found = planned(suite, changes, results, plugins or (), trains)
        gc.freeze()  # a large plan lives to the end: looking through it for garbage would take a quarter of the time
        return found


def jobs_of(store: "Store") -> "list[Job]":
    """Return the jobs of all submissions of a store; none, with a warning, where no scheduler can be asked."""
    from bench.launch.slurm_queue import submitted

    try:
        return submitted(store)
    except RequestError as error:
        warn(f"warning: {error}. What follows is from the store alone")
        return []


def show_dry_run(
    plan: "Plan",
    store: "Store",
    methods: "dict[str, Method]",
    wanted: "Sequence[RunSpec]",
    retried: set[str],
    data: Path,
    device: DeviceName,
    slurm: bool,
) -> int:
    """Print what would run, or raise a `RequestError` with a line for all that would fail; see `run_command`."""
    with doing("Checking data and networks"):
        import torch

        from bench.launch.checks import Checks
        from bench.launch.preparation import check_gpus, check_inputs, choose_device, most_processes
        from bench.launch.provenance import device_name
        from bench.plan.status import open_runs
        from bench.report.folder import in_own_folder
        from bench.terminal.status import plan_tables

        left, notes, problems = open_runs(wanted, plan, store, retried), [], []
        here = choose_device("cpu" if device == "cpu" else "auto")  # `cuda` may be meant for another machine
        try:
            notes = check_inputs(plan, left, data)
        except RequestError as error:
            problems.append(str(error))
        try:
            if not slurm:
                check_gpus(here, most_processes(left), torch.cuda.device_count())
        except RequestError as error:
            problems.append(str(error))
        checks = Checks(plan, left, methods, here)
    for _ in counted("Trying networks and methods", checks.run(), len(checks)):
        pass
    if problems := [*problems, *checks.problems]:
        raise RequestError("\n".join(problems))
    on = "" if slurm else device_name(here)
    in_jobs = {run_id for job in jobs_of(store) if job.state for run_id in job.runs} if slurm else None
    say(plan_tables(in_own_folder(plan, store), store, wanted, checks.reasons, retried, on, in_jobs))
    say(map(escape, [*checks.untried, *notes]))
    return OK


def submit_jobs(work: "Work", store: "Store", methods: "dict[str, Method]", retried: set[str]) -> int:
    """Submit jobs and print where their logs are and how to follow them; return the exit status."""
    from bench.launch.slurm import submit
    from bench.plan.status import open_runs
    from bench.terminal.status import submission_lines

    jobs = submit(work, retried)
    if not jobs and not open_runs(work.wanted, work.plan, store):
        return print_report(work.plan, store, methods, work.wanted)  # the open runs turned out to be inapplicable
    say(submission_lines(work, jobs))
    return OK


def print_report(
    plan: "Plan",
    store: "Store",
    methods: "dict[str, Method]",
    wanted: "Sequence[RunSpec]",
    style: StyleName = "page",
    replaces: bool = False,
    to: Path | None = None,
) -> int:
    """Print the tables, and write them, figures and page unless they are up to date; return the exit status.

    The exit status depends on the runs in `wanted` and on whether all outputs could be written. A report that
    `replaces` the existing one is not written if that one shows more finished runs. With `to`, the report moves there.
    """
    from bench.terminal.tables import report_lines, results_table
    from bench.workflow import raise_damage, reported

    with doing("Writing tables, figures and page"):
        frame, failed = reported(plan, store, methods, style, replaces)
    say(results_table(frame, width()))
    folder = store.suite_folder(frame.plan.folder)
    if to is not None:
        from bench.share.bundle import keep_report

        keep_report(folder, to)
        folder = to
    if frame.aside:
        warn(f"warning: {frame.aside}. This one is in {folder}")
    say(report_lines(frame, folder))
    raise_damage(failed)
    trials = frame.plan.trial_ids  # a trial that diverges has lost, which is not a fault
    ended = [frame.statuses[run.id][0] for run in wanted if run.id not in trials]
    is_wrong = failed or any(status in ("failed", "diverged", "stale") for status in ended)
    return RUN_FAILED if is_wrong else OK


def report_of_bundle(
    file: Path, changes: Sequence[str], results: Path, plugins: list[Path] | None, style: StyleName
) -> int:
    """Write the report of a bundle to a new folder with the suite's name; return the exit status."""
    from bench.share.bundle import unpacked
    from bench.workflow import store_in

    if changes:
        raise RequestError(f"{file}: --set, --seeds and --teachers are for suites: a bundle has its own. Omit them")
    with unpacked(file) as bundle:
        to = store_in(results).suite_folder(bundle.suite.stem)
        if to.exists():
            raise RequestError(f"{to}: exists. Move it away, or name another folder with --results")
        plan, store, methods = read_plan(bundle.suite, bundle.manifest.changes, bundle.root, plugins)
        return print_report(plan, store, methods, list(plan.runs.values()), style, replaces=True, to=to)
