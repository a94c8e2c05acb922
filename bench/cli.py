"""The command line. What needs torch imports it where it is used, so that `--help` answers at once."""

import itertools
import logging
import os
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import StrEnum
from fnmatch import fnmatchcase
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ParamSpec

import typer
from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.markup import escape, render
from rich.table import Table

from bench.types import RequestError

if TYPE_CHECKING:
    from bench.cost.rows import PairCosts
    from bench.launch.jobs import Job
    from bench.launch.work import Work
    from bench.plan import Cell, Plan
    from bench.report.tables import Outcome
    from bench.spec import RunSpec
    from bench.store import Store
    from methods import Method

P = ParamSpec("P")
OK, RUN_FAILED, WRONG_REQUEST, INTERRUPTED = 0, 1, 2, 130
UNBOUNDED = 10_000  # characters, wider than any table

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Train and compare knowledge-distillation methods: one suite file in, the comparison table out.",
)


class Device(StrEnum):
    """Where to train."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class Kind(StrEnum):
    """What `list` lists."""

    methods = "methods"
    models = "models"
    datasets = "datasets"
    suites = "suites"


SuiteFile = Annotated[Path, typer.Argument(metavar="SUITE.yaml", help="The suite file.", show_default=False)]
Results = Annotated[Path, typer.Option("--results", metavar="DIR", help="Where runs and tables are kept.")]
Data = Annotated[Path, typer.Option("--data", metavar="DIR", help="Where data sets lie or are downloaded to.")]
Only = Annotated[str, typer.Option(metavar="GLOB", help="Only rows whose label, or else method, matches.")]
Pairs = Annotated[str, typer.Option(metavar="GLOB", help="Only pairs `teacher->student` that match.")]
Where = Annotated[Device, typer.Option("--device", help="Where to train.")]
Seeds = Annotated[
    int | None, typer.Option("--seeds", metavar="N", min=1, help="Number of seeds instead of the suite's.")
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a key of the suite, such as training.epochs=2."),
]
Plugin = Annotated[list[Path] | None, typer.Option("--plugin", metavar="FILE.py", help="A method file kept elsewhere.")]


class Answer(Console):
    """Standard output; when its reader leaves early, as `| head` does, the exit status stays what it is."""

    def on_broken_pipe(self) -> None:
        """Go on in silence."""
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def answers(command: Callable[P, int]) -> Callable[P, None]:
    """Turn a command's result into the exit status, and its errors into one message each."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
        try:
            status = command(*args, **kwargs)
        except RequestError as error:
            typer.echo(str(error), err=True)
            status = WRONG_REQUEST
        except KeyboardInterrupt:
            typer.echo("Interrupted. The same command goes on from the last checkpoints.", err=True)
            status = INTERRUPTED
        raise typer.Exit(status)

    return run


@app.command(
    "run", help="Train what a suite still lacks, and write its tables and figures. The word `run` may be left out."
)
@answers
def run_command(
    suite: SuiteFile,
    only: Only = "*",
    pairs: Pairs = "*",
    seeds: Seeds = None,
    changes: Set = None,
    device: Where = Device.auto,
    results: Results = Path("results"),
    data: Data = Path("data"),
    plugin: Plugin = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what would run; write nothing.")] = False,
    slurm: Annotated[bool, typer.Option("--slurm", help="Submit it as jobs to the cluster, and end.")] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try again what failed, diverged or was refused.")
    ] = False,
    keep_checkpoints: Annotated[bool, typer.Option("--keep-checkpoints", help="Keep them beside records.")] = False,
) -> int:
    """Train what a suite still lacks."""
    from bench.plan.status import is_open

    plan, store, methods = _plan(suite, seeds, changes, results, plugin, trains=True)
    wanted = plan.with_needs(run for cell in _matching(plan, only, pairs) for run in cell.runs)
    for run_id, checkpoint in plan.checkpoints.items():
        if checkpoint.accuracy is None:
            continue
        record = store.record(run_id)
        if record is not None:
            checkpoint.check(record["metrics"]["top1"])
    retried = {run.id for run in wanted if retry_failed and store.failure(run.id)}
    if dry_run:
        return _dry_run(plan, store, wanted, methods, retried)
    if any(is_open(run, plan, store, retried) for run in wanted):
        from bench.launch.devices import devices, train
        from bench.launch.work import Work
        from bench.report.tables import write_tables

        work = Work(
            plan,
            runs=tuple(run.id for run in wanted),
            results=results,
            data=data,
            write_tables=write_tables,
            device=device.value,
            plugins=tuple(plugin or ()),
            keep_checkpoints=keep_checkpoints,
        )
        if slurm:
            return _submit(work, store, methods, retried)
        train(work, devices(device.value), retried)
    answer = _answer(plan, store, methods, wanted)
    return RUN_FAILED if any(is_open(run, plan, store) for run in wanted) else answer  # all who trained have died


@app.command("status", help="Show what is done, running, failed (with reasons) and waiting.")
@answers
def status(
    suite: SuiteFile,
    seeds: Seeds = None,
    changes: Set = None,
    results: Results = Path("results"),
    plugin: Plugin = None,
) -> int:
    """Show where a suite stands."""
    from bench.launch.jobs import submitted
    from bench.terminal.status import cells_table, changed_methods, job_lines

    plan, store, methods = _plan(suite, seeds, changes, results, plugin)
    try:
        jobs = submitted(store)
    except RequestError as error:
        typer.echo(f"warning: {error}. What follows is from the store alone", err=True)
        jobs = []
    _say([cells_table(plan, store), *job_lines(plan, store, jobs)])
    for warning in changed_methods(plan, store, methods):
        typer.echo(warning, err=True)
    return OK


@app.command("cancel", help="End a suite's jobs on the cluster, and no others.")
@answers
def cancel(suite: SuiteFile, results: Results = Path("results")) -> int:
    """End a suite's jobs."""
    from bench.launch.jobs import cancel, submitted
    from bench.suite import check_name

    check_name(suite)
    left = [job for job in submitted(_store(results), suite.stem) if job.state]
    if left:
        cancel(left)
    _say([f"Cancelled: {', '.join(job.id for job in left)}" if left else "No job is left to be cancelled"])
    return OK


@app.command("report", help="Write a suite's tables, figures and page again, from the store alone.")
@answers
def report(
    suite: SuiteFile,
    seeds: Seeds = None,
    changes: Set = None,
    results: Results = Path("results"),
    plugin: Plugin = None,
) -> int:
    """Write the tables and all that is made of them."""
    plan, store, methods = _plan(suite, seeds, changes, results, plugin)
    return _answer(plan, store, methods, list(plan.runs.values()), anew=True)


@app.command("cost", help="Measure what each row's training step costs; write cost.csv and its figures.")
@answers
def cost(
    suite: SuiteFile,
    only: Only = "*",
    pairs: Pairs = "*",
    changes: Set = None,
    device: Annotated[Device, typer.Option("--device", help="Where to measure.")] = Device.auto,
    results: Results = Path("results"),
    data: Data = Path("data"),
    plugin: Plugin = None,
    steps: Annotated[int, typer.Option(metavar="N", min=1, help="Steps that count; times are their medians.")] = 7,
) -> int:
    """Measure what the rows of a suite cost."""
    plan, store, methods = _plan(suite, None, changes, results, plugin)
    cells = _matching(plan, only, pairs)
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # against the profiler's warnings; read as torch starts
    from bench.cost.rows import costs, write
    from bench.figures import write_cost
    from bench.launch.preparation import choose_device

    pairs_costs = []
    for pair_costs in costs(plan, cells, methods, data, choose_device(device.value), steps):
        _say(_cost_table(pair_costs))
        pairs_costs.append(pair_costs)
    table = write(plan, store, [row for pair_costs in pairs_costs for row in pair_costs.rows])
    written = [table, *write_cost(plan, store)]  # last: what was measured must not hang on the figures
    _say([f"Written: {escape(', '.join(map(str, written)))}"])
    return RUN_FAILED if any(pair_costs.failed for pair_costs in pairs_costs) else OK


@app.command("list", help="List methods, models, datasets or suites; with a name, all about one.")
@answers
def list_command(
    kind: Kind,
    name: Annotated[str | None, typer.Argument(show_default=False)] = None,
    plugin: Plugin = None,
) -> int:
    """List what there is."""
    from bench.terminal.listing import listing

    _say(listing(kind.value, name, plugin or ()))
    return OK


@app.command("show", help="Show one run: specification, curve, where its numbers come from, how to repeat it.")
@answers
def show(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run's id, or its beginning.", show_default=False)],
    results: Results = Path("results"),
) -> int:
    """Show one run."""
    from bench.terminal.status import describe

    _say(describe(_store(results), run))
    return OK


def _width() -> int:
    """Return how many characters wide the output can be."""
    return Console().width if sys.stdout.isatty() else UNBOUNDED


def _say(parts: Iterable[RenderableType]) -> None:
    """Print tables and texts; where no terminal sets the width, every table is as wide as what it holds."""
    console = Answer(width=_width(), emoji=False, highlight=False)
    for part in parts:
        console.print(part, soft_wrap=isinstance(part, str))  # a line stays one, to be copied or piped on


def _plan(
    suite: Path,
    seeds: int | None,
    changes: Sequence[str] | None,
    results: Path,
    plugin: Sequence[Path] | None,
    trains: bool = False,
) -> "tuple[Plan, Store, dict[str, Method]]":
    """Return a suite's plan and store, and the methods; without training, a file that is gone is no error."""
    from bench.plan import build
    from bench.suite import load
    from methods import catalog

    methods = catalog(plugin or ())
    overrides = list(changes or ())
    if seeds is not None:
        overrides.append(f"seeds={seeds}")
    read = load(suite, methods, overrides)
    store = _store(results)
    remembered = {} if trains else store.sources(suite.stem)
    return build(read, suite, methods, remembered, overrides), store, methods


def _store(results: Path) -> "Store":
    """Return the store in a folder.

    Raises:
        RequestError: there is a file in the folder's place.
    """
    from bench.store import Store

    for path in (results, *results.parents):
        if path.is_file():
            raise RequestError(f"--results {results}: {path} is a file. Name a folder; it is made if it is not there")
    return Store(results)


def _matching(plan: "Plan", only: str, pairs: str) -> "list[Cell]":
    """Return the cells whose label, or else method, and whose pair match, in the plan's order.

    Raises:
        RequestError: nothing matches.
    """

    def matches(text: str, pattern: str) -> bool:
        return fnmatchcase(text.lower(), pattern.lower())

    in_pairs = [cell for cell in plan.cells if matches(cell.pair, pairs)]
    by_label = [cell for cell in in_pairs if matches(cell.label, only)]  # `crd` is the row CRD, not CRD+KD besides
    cells = by_label or [cell for cell in in_pairs if matches(cell.method, only)]
    if not cells:
        labels = ", ".join(dict.fromkeys(cell.label for cell in plan.cells))
        names = ", ".join(dict.fromkeys(cell.pair for cell in plan.cells))
        raise RequestError(f"--only {only!r} --pairs {pairs!r}: no cell matches. Rows: {labels}. Pairs: {names}")
    return cells


def _submit(work: "Work", store: "Store", methods: "dict[str, Method]", retried: set[str]) -> int:
    """Submit jobs, and say where to look; return the exit status."""
    from bench.launch.slurm import submit
    from bench.plan.status import is_open

    plan = work.plan
    jobs = submit(work, retried)
    if not jobs and not any(is_open(run, plan, store) for run in work.wanted):
        return _answer(plan, store, methods, work.wanted)  # what was open cannot be trained
    arrays: dict[str, list[Job]] = {}
    for job in jobs:
        arrays.setdefault(job.array, []).append(job)
    for array, members in arrays.items():
        runs = sum(len(job.runs) for job in members)
        waits = ", after what they need" if members[0].reason else ""
        _say([f"job {array}: {len(members)} task(s), {runs} run(s){waits}"])
    _say([f"Logs: {escape(str(jobs[0].log.parent))}" if jobs else "Nothing to submit: jobs have it already"])
    where = [str(plan.file), "--results", str(work.results)]
    settings = [f"--set={change}" for change in plan.changes]
    plugins = [f"--plugin={path}" for path in work.plugins]
    same = shlex.join([*where, *settings, *plugins])
    _say([escape(f"status: python run_suite.py status {same}")])
    _say([escape(f"cancel: python run_suite.py cancel {shlex.join(where)}")])
    return OK


def _answer(
    plan: "Plan", store: "Store", methods: "dict[str, Method]", wanted: "Sequence[RunSpec]", anew: bool = False
) -> int:
    """Write and print the tables, and write all that is made of them; return the exit status.

    Args:
        plan: the suite's.
        store: its results.
        methods: by name.
        wanted: the runs whose failure decides the exit status.
        anew: whether to write it even if no table has changed since: it takes seconds.
    """
    from bench.plan.status import run_status
    from bench.report import tables as report

    found = report.write(plan, store)
    _say(_table(plan, found))
    folder = store.suite_folder(plan.name)
    tables = [str(folder / f"table.{kind}") for kind in ("csv", "md", "tex")]
    _say([f"Tables: {escape(', '.join(tables))}"])
    files = [folder / name for name in report.STATISTICS]
    digest = report.digest(plan, found)
    last = (files[-1], folder / "report.html")  # both say what they are made of
    made = files[0].exists() and all(path.exists() and digest in path.read_text(encoding="utf-8") for path in last)
    if anew or not made:
        from bench import figures
        from bench.report import epochs, page, statistics  # each takes a second to import

        epochs.write_csv(plan, store)
        epochs.write_events(plan, store)
        figures.write(plan, store, methods)
        statistics.write(plan, store, found)
        page.write(plan, store, found)
    _say([f"Statistics: {escape(', '.join(map(str, files)))}"])
    names = sorted(path.stem for path in (folder / "figures").glob("*.pdf"))
    if names:
        _say([f"Figures: {escape(str(folder / 'figures'))} ({escape(', '.join(names))})"])
    _say([f"Epochs: {escape(str(folder / 'epochs.csv'))}", f"Page: {escape(str(folder / 'report.html'))}"])
    failed = any(run_status(run, plan, store)[0] == "failed" for run in wanted)
    return RUN_FAILED if failed else OK


def _table(plan: "Plan", found: "Sequence[Outcome]") -> Iterator[RenderableType]:
    from bench.report.tables import TERMINAL, layout

    texts = layout(plan, found, TERMINAL)
    first = ("method", *(label for label, _ in texts.rows))
    columns = list(zip(texts.columns, *(row for _, row in texts.rows), strict=True))
    yield f"[bold]{TERMINAL.text(plan.suite.title)}[/bold]"
    while columns:  # as many pairs side by side as the width takes, the others below
        fitting = _fitting(first, columns)
        table = Table()
        for column in (first, *columns[:fitting]):
            table.add_column(column[0], overflow="fold")
        for row in zip(first[1:], *(column[1:] for column in columns[:fitting]), strict=True):
            table.add_row(*row)
        yield table
        columns = columns[fitting:]
    yield from texts.notes
    yield texts.protocol


def _fitting(first: Sequence[str], columns: Sequence[Sequence[str]]) -> int:
    """Return how many columns stand beside the first one within the width, at least one."""
    widths = [max(cell_len(render(text).plain) for text in column) + 3 for column in (first, *columns)]
    totals = itertools.accumulate(widths)
    return max(1, sum(total < _width() for total in totals) - 1)


def _cost_table(found: "PairCosts") -> Iterator[RenderableType]:
    def shown(value: float | None, digits: int = 1) -> str:
        return "—" if value is None else f"{value:,.{digits}f}"

    head = f"[bold]{escape(found.pair)}[/bold]"
    if found.rows:
        first = found.rows[0]
        yield f"{head}: teacher {shown(first.teacher_ms)} ms, data {shown(first.data_ms, 2)} ms a step"
        table = Table()
        table.add_column("row", justify="left")
        for name in ("step ms", "student", "term", "backward", "optimizer", "own %", "peak MB", "parameters", "GFLOP"):
            table.add_column(name, justify="right")
        for one in found.rows:
            table.add_row(
                escape(one.name),
                shown(one.step_ms),
                shown(one.student_ms),
                shown(one.term_ms),
                shown(one.backward_ms),
                shown(one.optimizer_ms),
                shown(one.own_percent),
                shown(one.peak_mb, 0),
                shown(one.extra_parameters, 0),
                shown(one.step_gflop),
            )
        yield table
    else:
        yield head
    for name, reason in found.inapplicable.items():
        yield escape(f"{name}: inapplicable: {reason}")
    for name, reason in found.failed.items():
        yield escape(f"{name}: failed: {reason}")


def _dry_run(
    plan: "Plan", store: "Store", wanted: "Sequence[RunSpec]", methods: "dict[str, Method]", retried: set[str]
) -> int:
    from bench.launch.preparation import unserved
    from bench.plan.status import is_open
    from bench.terminal.status import plan_tables

    left = [run for run in wanted if is_open(run, plan, store, retried)]
    reasons = unserved(plan, left, methods)
    _say(plan_tables(plan, store, wanted, reasons, retried))
    return OK


def main() -> None:
    """Run the command line; `run_suite.py SUITE.yaml` stands for `run_suite.py run SUITE.yaml`."""
    # threads that wait for each other soon sleep: as fast on a machine of one's own, ten times as fast on a shared one
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    arguments = sys.argv[1:]
    named = {command.name for command in app.registered_commands} | {"--help"}
    if arguments and arguments[0] not in named:
        arguments = ["run", *arguments]
    app(arguments, prog_name="run_suite.py")
