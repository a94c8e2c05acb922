"""The commands. Modules that need torch are imported inside commands: `--help` stays fast."""

import json
import os
import re
import signal
import sys
import traceback
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup
from typer.main import get_command

from bench import __version__
from bench.program import INSTALLED, started_as
from bench.terminal import options
from bench.terminal.markup import escape
from bench.terminal.output import say, say_json, warn, width
from bench.terminal.streams import counted, doing, each, tolerate
from bench.text import log_to_stderr, printable
from bench.types import RequestError, StyleName, suggest

if TYPE_CHECKING:
    from bench.launch.slurm_queue import Job
    from bench.launch.work import Work
    from bench.plan import Plan
    from bench.spec import RunSpec
    from bench.store import Store
    from methods import Method

OK, RUN_FAILED, WRONG_REQUEST, INTERRUPTED = 0, 1, 2, 130
COMPLETION = {"--install-completion", "--show-completion"}
UsageError: Any = typer.BadParameter.__base__  # click's; some versions of typer have a copy of click


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    """Raise `KeyboardInterrupt`; Python's own handler leaves no frame that tells Ctrl-C from what a plug-in raises."""
    raise KeyboardInterrupt


class Commands(TyperGroup):
    """The commands: each exits with the status that it returns and prints its errors without traceback."""

    def invoke(self, ctx: Any) -> NoReturn:  # noqa: ANN401
        """Run a command and exit."""
        at_ctrl_c = signal.getsignal(signal.SIGINT)
        if at_ctrl_c is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, _interrupt)
        try:
            status = super().invoke(ctx)
        except RequestError as error:
            warn(str(error))
            status = WRONG_REQUEST
        except UsageError as error:
            error.message = printable(error.message)  # it quotes the command line
            raise
        except SystemExit as error:  # no command exits so: it is a plug-in that does, perhaps with status 0
            places = traceback.extract_tb(error.__traceback__)
            at = [one for one in places if os.path.isfile(one.filename)][-1]  # `exit()` itself is in no file
            warn(f"{at.filename}:{at.lineno}: has ended the command: SystemExit: {error.code}")
            status = RUN_FAILED
        except KeyboardInterrupt:
            warn("Interrupted. The same command continues from the last checkpoints.")
            status = INTERRUPTED
        finally:
            signal.signal(signal.SIGINT, at_ctrl_c)
        raise typer.Exit(status)


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Train and compare knowledge-distillation methods: one suite file in, the comparison table out.",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"{INSTALLED} {__version__}")
        raise typer.Exit


@app.callback()
def program(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Take the options that need no command; typer adds those for completion in shells."""


@app.command("run")
def run_command(
    suite: options.SuiteFile,
    only: options.Only = None,
    pairs: options.Pairs = None,
    seeds: options.Seeds = None,
    changes: options.Set = None,
    teachers: options.Teachers = None,
    device: options.Device = "auto",
    jobs: options.Jobs = None,
    results: options.Results = Path("results"),
    data: options.Data = Path("data"),
    plugin: options.Plugin = None,
    dry_run: options.DryRun = False,
    slurm: options.OnSlurm = False,
    retry_failed: options.RetryFailed = False,
    accept_changed: options.AcceptChanged = False,
    keep_checkpoints: options.KeepCheckpoints = False,
    style: options.FigureStyle = "page",
    track: options.Track = None,
) -> int:
    """Train whatever is missing from a suite, and write its tables and figures. The word `run` can be omitted."""
    from bench.plan import continued
    from bench.plan.status import open_runs

    if slurm and jobs is not None:
        raise RequestError(
            f"--jobs {jobs}: is for this machine, and --slurm trains on others, one cohort in each job. Leave one out; "
            "max_lanes in the suite splits cohorts"
        )
    plan, store, methods = _planned(suite, _overrides(changes, teachers, seeds), results, plugin, trains=True)
    from bench.workflow import accept, all_plugins, runs_to_retry, teachers_found, wanted_runs

    for line in teachers_found(plan):
        warn(line)
    wanted = wanted_runs(plan, store, only or (), pairs or ())
    if accept_changed and not dry_run:
        for line in accept(plan, store, wanted):
            warn(line)
    retried = runs_to_retry(plan, store, wanted, retry_failed, accept_changed)
    if dry_run:
        return _dry_run(plan, store, methods, wanted, retried, data, device, slurm)
    if open_runs(wanted, plan, store, retried):
        with doing("Loading PyTorch"):
            from bench.launch.devices import train
            from bench.launch.trackers import check_installed
        from bench.launch.work import Work
        from bench.report.write import write_while_training

        if track is not None:
            check_installed(track)
        work = Work(
            plan,
            runs=tuple(run.id for run in wanted),
            results=results,
            data=data,
            write_tables=write_while_training,
            device=device,
            plugins=all_plugins(plan.file, plugin or ()),
            keep_checkpoints=keep_checkpoints,
            accept_changed=accept_changed,
            track=track or "",
        )
        if slurm:
            return _submit(work, store, methods, retried)
        train(work, jobs, retried)
        while (again := continued(plan, methods, store)) is not None:  # settings were chosen
            plan, wanted = again, wanted_runs(again, store, only or (), pairs or ())
            if open_runs(wanted, plan, store):
                work = replace(work, plan=plan, runs=tuple(run.id for run in wanted))
                train(work, jobs)
    exit_status = _report(plan, store, methods, wanted, style)
    # runs are still open if all processes have died
    return RUN_FAILED if open_runs(wanted, plan, store) else exit_status


@app.command("status")
def status(
    suite: options.SuiteFile,
    seeds: options.Seeds = None,
    changes: options.Set = None,
    teachers: options.Teachers = None,
    results: options.Results = Path("results"),
    plugin: options.Plugin = None,
    as_json: options.AsJson = False,
) -> int:
    """Show what is done, stale, running, failed (with reasons) and waiting."""
    from bench.report.frame import results_frame
    from bench.terminal.status import cells_tables, job_lines, stale_lines, status_document

    plan, store, _ = _planned(suite, _overrides(changes, teachers, seeds), results, plugin)
    jobs = _jobs(store)
    frame = results_frame(plan, store, reads_answers=False)
    if as_json:
        say_json(status_document(frame, store, jobs))
        return OK
    say([*cells_tables(frame, store, width()), *stale_lines(frame), *job_lines(plan, store, jobs)])
    return OK


@app.command("cancel")
def cancel_command(suite: options.SuiteFile, results: options.Results = Path("results")) -> int:
    """Cancel a suite file's jobs on the cluster and no others."""
    from bench.launch.slurm_queue import cancel, submitted
    from bench.suite import check_name
    from bench.workflow import store_in

    check_name(suite)
    left = [job for job in submitted(store_in(results), suite) if job.state]
    if left:
        cancel(left)
    say([f"Cancelled: {', '.join(job.id for job in left)}" if left else "No job is left to cancel"])
    return OK


@app.command("report")
def report(
    suite: options.SuiteFile,
    seeds: options.Seeds = None,
    changes: options.Set = None,
    teachers: options.Teachers = None,
    results: options.Results = Path("results"),
    plugin: options.Plugin = None,
    style: options.FigureStyle = "page",
) -> int:
    """Write a suite's tables, figures and page, if anything has changed, from the store or the bundle BUNDLE.zip."""
    from bench.report.folder import in_own_folder
    from bench.share.bundle import is_bundle

    if is_bundle(suite):
        return _report_of_bundle(suite, _overrides(changes, teachers, seeds), results, plugin, style)
    plan, store, methods = _planned(suite, _overrides(changes, teachers, seeds), results, plugin)
    in_own_folder(plan, store)  # raises if another suite has its results there
    return _report(plan, store, methods, list(plan.runs.values()), style, replaces=True)


@app.command("score")
def score(
    suite: options.SuiteFile,
    seeds: options.Seeds = None,
    changes: options.Set = None,
    teachers: options.Teachers = None,
    device: Annotated[options.DeviceName, typer.Option("--device", help="The device to evaluate on.")] = "auto",
    results: options.Results = Path("results"),
    data: options.Data = Path("data"),
    plugin: options.Plugin = None,
) -> int:
    """Compute all metrics of finished runs from their stored answers or weights, without training."""
    from bench.report.folder import in_own_folder

    plan, store, methods = _planned(suite, _overrides(changes, teachers, seeds), results, plugin)
    from bench.workflow import all_plugins

    in_own_folder(plan, store)  # raises if another suite has its results there
    with doing("Loading PyTorch"):
        from bench.launch.score import Scorer
        from bench.launch.work import Work
        from bench.report.write import write_while_training

    work = Work(
        plan,
        runs=tuple(plan.runs),
        results=results,
        data=data,
        write_tables=write_while_training,
        device=device,
        plugins=all_plugins(plan.file, plugin or ()),
    )
    outcomes = dict(each("Scoring", Scorer(work).run()))
    left = {run_id: outcome for run_id, outcome in outcomes.items() if outcome.reason}
    say([f"Scored: {len(outcomes) - len(left)} of {len(outcomes)} runs"])
    for run_id, outcome in left.items():
        say([f"not scored: run {run_id}: {escape(outcome.reason)}"])
    exit_status = _report(plan, store, methods, ())
    return RUN_FAILED if any(outcome.is_fault for outcome in left.values()) else exit_status


@app.command("compare")
def compare_command(
    a: options.Side,
    b: options.Side,
    results: options.Results = Path("results"),
    plugin: options.Plugin = None,
    as_json: options.AsJson = False,
) -> int:
    """Compare two results cell by cell: differences with intervals and the settings that differ."""
    with doing("Comparing"):
        from bench.report.compare import compare
        from bench.workflow import sides

        with sides(a, b, results, plugin or ()) as both:
            comparison = compare(*both)
    if as_json:
        say_json(comparison.document())
        return OK
    from bench.terminal.comparison import comparison_tables

    say(comparison_tables(comparison, width()))
    return OK


@app.command("cost")
def cost(
    suite: options.SuiteFile,
    only: options.Only = None,
    pairs: options.Pairs = None,
    changes: options.Set = None,
    teachers: options.Teachers = None,
    device: Annotated[options.DeviceName, typer.Option("--device", help="The device to measure on.")] = "auto",
    results: options.Results = Path("results"),
    data: options.Data = Path("data"),
    plugin: options.Plugin = None,
    steps: Annotated[int, typer.Option(metavar="N", min=1, max=10_000, help="Measured steps; times are medians.")] = 7,
) -> int:
    """Measure what a training step of each row costs; write cost.csv and its figures."""
    from bench.report.folder import in_own_folder
    from bench.workflow import matching

    plan, store, methods = _planned(suite, _overrides(changes, teachers), results, plugin)
    cells = [cell for cell in matching(plan, only or (), pairs or ()) if cell.choice is None]
    plan = in_own_folder(plan, store)
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # for the profiler; read when torch is imported
    with doing("Loading PyTorch"):
        from bench.cost.rows import costs, write
        from bench.figures.write import write_cost
        from bench.launch.preparation import choose_device
    from bench.terminal.tables import cost_table

    pairs_costs = []
    for pair_costs in each("Measuring", costs(plan, cells, methods, data, choose_device(device), steps)):
        say(cost_table(pair_costs, width()))
        pairs_costs.append(pair_costs)
    table = write(plan, store, [row for pair_costs in pairs_costs for row in pair_costs.rows])
    failed: list[Exception] = []
    written = [table, *write_cost(plan, store, failed)]  # last: if a figure fails, the costs are saved
    say([f"Written: {escape(', '.join(map(str, written)))}"])
    return RUN_FAILED if failed or any(pair_costs.failed for pair_costs in pairs_costs) else OK


@app.command("list")
def list_command(
    kind: Annotated[options.ListedKind, typer.Argument(help="What to list.", show_default=False)],
    name: Annotated[str | None, typer.Argument(help="The one to describe.", show_default=False)] = None,
    plugin: options.Plugin = None,
    as_json: options.AsJson = False,
) -> int:
    """List methods, models, datasets or suites; with a name, describe one of them."""
    from bench.terminal.listing import entries, entry_of, listing

    if as_json:
        listed = entries(kind, plugin or ())
        say_json(list(listed.values()) if name is None else entry_of(listed, kind, name))
        return OK
    say(listing(kind, name, plugin or ()))
    return OK


@app.command("new-method")
def new_method_command(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Its name in suite files.", show_default=False)],
) -> int:
    """Write a method's file and its test from a template: in a checkout beside the others, elsewhere as a plug-in."""
    from bench.terminal.new_method import is_checkout, write_method

    here = Path()
    method, test = write_method(name, here)
    own = is_checkout(here)
    contract = " tests/methods/test_contract.py" if own else ""
    say([f"Written: {method}, {test}"])
    say([f"Test it: python -m pytest {test}{contract}"])
    methods = escape(f"--set 'methods=[kd, {name}]'")
    say([f"Train it: {started_as()} quickstart {methods}{'' if own else f' --plugin {method}'}"])
    if own:
        say(["Then `make schema`: editors complete its name in suite files"])
    return OK


@app.command("show")
def show(
    run: options.RunId,
    results: options.Results = Path("results"),
) -> int:
    """Show one run: specification, curve, where its numbers come from, and how to repeat it."""
    from bench.terminal.show import describe
    from bench.workflow import store_in

    say(describe(store_in(results), run))
    return OK


@app.command("export")
def export_command(
    run: options.RunId,
    to: Annotated[Path, typer.Option("--to", metavar="DIR", help="A new folder.", show_default=False)],
    results: options.Results = Path("results"),
    plugin: options.Plugin = None,
) -> int:
    """Write the student of a finished run to a folder: weights, ONNX graph and model card."""
    from bench.models import NETWORKS
    from bench.models.own import add_networks
    from bench.share.export import export
    from bench.workflow import store_in

    add_networks(plugin or (), NETWORKS)
    store = store_in(results)
    for path in export(store, store.run_id(run), to):
        say([escape(str(path))])
    return OK


@app.command("bundle")
def bundle_command(
    suite: options.SuiteFile,
    to: Annotated[
        Path | None,
        typer.Option("--to", metavar="FILE.zip", help="A new file; by default SUITE.zip here.", parser=options.path_of),
    ] = None,
    weights: Annotated[bool, typer.Option("--weights", help="Add the weights of the runs.")] = False,
    seeds: options.Seeds = None,
    changes: options.Set = None,
    teachers: options.Teachers = None,
    results: options.Results = Path("results"),
    plugin: options.Plugin = None,
) -> int:
    """Write a finished suite to one file, for others to verify: its text, runs, curves, answers, table and hashes."""
    from bench.report.frame import results_frame
    from bench.share.bundle import SUFFIX, write_bundle

    plan, store, _ = _planned(suite, _overrides(changes, teachers, seeds), results, plugin)
    path = Path(f"{plan.name}{SUFFIX}") if to is None else to
    with doing("Packing"):
        write_bundle(results_frame(plan, store), store, path, weights)
    say([f"Written: {escape(str(path))} ({len(plan.runs)} runs, {path.stat().st_size / 1e6:.1f} MB)"])
    return OK


@app.command("verify")
def verify_command(
    bundle: Annotated[
        Path, typer.Argument(metavar="BUNDLE.zip", help="A bundle.", show_default=False, parser=options.path_of)
    ],
    retrain: Annotated[
        int | None,
        typer.Option("--retrain", metavar="N", min=1, help="Train one run in N again: the bundle's hash chooses them."),
    ] = None,
    margin: Annotated[
        float,
        typer.Option("--margin", metavar="POINTS", min=0.0, help="Allowed difference of runs that are trained again."),
    ] = 1.0,
    device: Annotated[
        options.DeviceName, typer.Option("--device", help="The device for weights and training.")
    ] = "auto",
    data: options.Data = Path("data"),
    plugin: options.Plugin = None,
) -> int:
    """Verify a bundle: compute its numbers again and name each one that disagrees."""
    from bench.share.bundle import unpacked

    with unpacked(bundle, allows_altered=True) as opened:
        if opened.altered:
            say([escape(line) for line in opened.altered])
            return RUN_FAILED
        plan, store, _ = _planned(opened.suite, opened.manifest.changes, opened.root, plugin)
        with doing("Loading PyTorch"):
            from bench.launch.work import Work
            from bench.share import verify
            from bench.workflow import all_plugins
        work = Work(
            plan,
            runs=tuple(plan.runs),
            results=opened.root,
            data=data,
            device=device,
            plugins=all_plugins(plan.file, plugin or ()),
        )
        checks = list(each("Computing again", verify.checks(opened, plan, store)))
        if all(check.holds for check in checks):
            if left := verify.not_from_answers(plan, checks, store):
                say([f"not recomputed, since no stored answers give it: {escape(', '.join(left))}"])
            if runs := verify.with_weights(plan, store):
                try:
                    checks += each("Evaluating weights", verify.evaluated(work, runs))
                except RequestError as error:
                    say([f"weights not evaluated: {escape(str(error))}"])
            if retrain is not None:
                again = list(verify.retrained(work, verify.chosen(opened, plan, store, retrain), margin))
                say([escape(f"trained again: {one}: difference {one.difference}") for one in again])
                checks += again
    wrong = [check for check in checks if not check.holds]
    say([escape(str(check)) for check in wrong])
    said = f"{len(wrong)} of {len(checks)} checks fail" if wrong else f"all {len(checks)} checks hold"
    say([f"{escape(str(bundle))}: {said} ({len(plan.runs)} runs)"])
    return RUN_FAILED if wrong else OK


def _report_of_bundle(
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
        plan, store, methods = _planned(bundle.suite, bundle.manifest.changes, bundle.root, plugins)
        return _report(plan, store, methods, list(plan.runs.values()), style, replaces=True, to=to)


def _overrides(changes: list[str] | None, teachers: Path | None, seeds: int | None = None) -> list[str]:
    """Return `--set`, `--teachers` and `--seeds` as changes of the suite file, in the same order for all commands."""
    given = list(changes or ())
    if teachers is not None:
        given.append(f"teachers={json.dumps(str(teachers.absolute()))}")
    return given if seeds is None else [*given, f"seeds={seeds}"]


def _planned(
    suite: Path, changes: Sequence[str], results: Path, plugins: list[Path] | None, trains: bool = False
) -> "tuple[Plan, Store, dict[str, Method]]":
    """Return `bench.workflow.planned` and show on a terminal what takes a while."""
    with doing(f"Reading {printable(str(suite))}"):
        from bench.share.bundle import is_bundle
        from bench.workflow import planned

        if is_bundle(suite):
            raise RequestError(f"{suite}: is a bundle, which `verify`, `report` and `compare` read. Name a suite")
        return planned(suite, changes, results, plugins or (), trains)


def _jobs(store: "Store") -> "list[Job]":
    """Return the jobs of all submissions of a store; none, with a warning, where no scheduler can be asked."""
    from bench.launch.slurm_queue import submitted

    try:
        return submitted(store)
    except RequestError as error:
        warn(f"warning: {error}. What follows is from the store alone")
        return []


def _dry_run(
    plan: "Plan",
    store: "Store",
    methods: "dict[str, Method]",
    wanted: "Sequence[RunSpec]",
    retried: set[str],
    data: Path,
    device: options.DeviceName,
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
    in_jobs = {run_id for job in _jobs(store) if job.state for run_id in job.runs} if slurm else None
    say(plan_tables(in_own_folder(plan, store), store, wanted, checks.reasons, retried, on, in_jobs))
    say(map(escape, [*checks.untried, *notes]))
    return OK


def _submit(work: "Work", store: "Store", methods: "dict[str, Method]", retried: set[str]) -> int:
    """Submit jobs and print where their logs are and how to follow them; return the exit status."""
    from bench.launch.slurm import submit
    from bench.plan.status import open_runs
    from bench.terminal.status import submission_lines

    jobs = submit(work, retried)
    if not jobs and not open_runs(work.wanted, work.plan, store):
        return _report(work.plan, store, methods, work.wanted)  # the open runs turned out to be inapplicable
    say(submission_lines(work, jobs))
    return OK


def _report(
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


def _with_command(words: list[str]) -> list[str]:
    """Return the words of a command line, beginning with `run` if no command is named.

    A word that is neither a command, a file nor a suite's name is reported, with exit status 2.
    """
    commands = {command.name or "" for command in app.registered_commands}
    if not words or words[0] in {*commands, "--help", "--version", *COMPLETION}:
        return words
    first = words[0]
    if re.fullmatch(r"\w[\w-]*", first) and not os.path.exists(first):
        from bench.suite.packaged import packaged_suites

        if first not in (suites := packaged_suites()):
            known = {**dict.fromkeys(sorted(commands)), **suites}
            warn(f"{first}: is neither a command nor a suite. {suggest(first, known)}")
            sys.exit(WRONG_REQUEST)
    return ["run", *words]


@cache
def _command() -> Any:  # noqa: ANN401
    """Return the commands as click has them. A process that runs several builds them once: that takes 20 ms."""
    return get_command(app)


def main() -> None:
    """Run the command line; without a command, the word `run` is understood: `distill-bench SUITE.yaml`."""
    # Waiting threads sleep after a short spin: no slower on an idle machine, ten times as fast on a shared one.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    output = tolerate()
    log_to_stderr()
    words = _with_command(sys.argv[1:])
    try:
        # shells complete no script
        _command()(words, prog_name=started_as() if COMPLETION.isdisjoint(words) else INSTALLED)
    except SystemExit as end:
        sys.stdout.flush()
        if output is None or output.error is None:
            raise
        warn(f"standard output cannot be written: {output.error.strerror}")
        sys.exit(end.code or RUN_FAILED)
