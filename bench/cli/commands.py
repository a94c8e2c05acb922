"""The commands. Modules that need torch are imported inside them: `--help` stays fast."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from bench import __version__
from bench.cli import options
from bench.cli.group import OK, RUN_FAILED, Commands
from bench.cli.steps import jobs_of, overrides, print_report, read_plan, report_of_bundle, show_dry_run, submit_jobs
from bench.program import INSTALLED, started_as
from bench.terminal.markup import escape
from bench.terminal.output import say, say_json, warn, width
from bench.terminal.streams import doing, each
from bench.types import RequestError

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
    plan, store, methods = read_plan(suite, overrides(changes, teachers, seeds), results, plugin, trains=True)
    from bench.workflow import accept, all_plugins, runs_to_retry, teachers_found, wanted_runs

    for line in teachers_found(plan):
        warn(line)
    wanted = wanted_runs(plan, store, only or (), pairs or ())
    if accept_changed and not dry_run:
        for line in accept(plan, store, wanted):
            warn(line)
    retried = runs_to_retry(plan, store, wanted, retry_failed, accept_changed)
    if dry_run:
        return show_dry_run(plan, store, methods, wanted, retried, data, device, slurm)
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
            return submit_jobs(work, store, methods, retried)
        train(work, jobs, retried)
        while (again := continued(plan, methods, store)) is not None:  # settings were chosen
            plan, wanted = again, wanted_runs(again, store, only or (), pairs or ())
            if open_runs(wanted, plan, store):
                work = replace(work, plan=plan, runs=tuple(run.id for run in wanted))
                train(work, jobs)
    exit_status = print_report(plan, store, methods, wanted, style)
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

    plan, store, _ = read_plan(suite, overrides(changes, teachers, seeds), results, plugin)
    jobs = jobs_of(store)
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
    jobs = submitted(store_in(results), suite)
    if not jobs and not os.path.isfile(suite):
        raise RequestError(
            f"{suite}: there is no such file, and {results} has no job of a suite with this path. "
            "Check the path, or name the folder with --results"
        )
    left = [job for job in jobs if job.state]
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
        return report_of_bundle(suite, overrides(changes, teachers, seeds), results, plugin, style)
    plan, store, methods = read_plan(suite, overrides(changes, teachers, seeds), results, plugin)
    in_own_folder(plan, store)  # raises if another suite has its results there
    return print_report(plan, store, methods, list(plan.runs.values()), style, replaces=True)


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

    plan, store, methods = read_plan(suite, overrides(changes, teachers, seeds), results, plugin)
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
    exit_status = print_report(plan, store, methods, ())
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

    plan, store, methods = read_plan(suite, overrides(changes, teachers), results, plugin)
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
    to: Annotated[
        Path, typer.Option("--to", metavar="DIR", help="A new folder.", show_default=False, parser=options.path_of)
    ],
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

    plan, store, _ = read_plan(suite, overrides(changes, teachers, seeds), results, plugin)
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
        plan, store, _ = read_plan(opened.suite, opened.manifest.changes, opened.root, plugin)
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
                    checks += each("Evaluating weights", verify.evaluated(opened, work, runs))
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
