"""What the command line and the Python API do with a suite: plan it, see what to train, report. Imports no torch."""

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from fnmatch import fnmatchcase
from itertools import product
from pathlib import Path

from bench.models import NETWORKS
from bench.models.own import add_networks
from bench.plan import Cell, Plan, build_plan
from bench.plan.code import code_of_run
from bench.plan.status import changed, statuses, to_train_again
from bench.reading import check_folder, read_bytes
from bench.report.current import inputs, is_current, mark_current
from bench.report.folder import TABLES, Shown, in_own_folder, noted
from bench.report.frame import Frame, results_frame
from bench.report.sides import Measured, Place, Side, of_frame, of_report
from bench.report.write import frame_of_report, write_numbers, write_page, write_tables_of
from bench.share.bundle import RUNS, is_bundle, unpacked
from bench.spec import RunSpec
from bench.store import Store, number_in
from bench.store.files import NotWrittenError
from bench.suite import find_suite, load, packaged_suites
from bench.suite.load import plugins_of
from bench.tasks import task_of
from bench.types import RequestError, StyleName
from methods import Method, catalog


def planned(
    suite: Path, changes: Sequence[str], results: Path, plugins: Sequence[Path] = (), trains: bool = False
) -> tuple[Plan, Store, dict[str, Method]]:
    """Return the plan of a suite file with changes `KEY=VALUE`, its store, and the methods by name.

    Unless it `trains`, what the store remembers replaces image folders and checkpoints that no longer exist.

    Raises:
        RequestError: the suite file, a change, a plug-in or the folder of the results is wrong.
    """
    files = all_plugins(suite, plugins)
    add_networks(files, NETWORKS)
    methods = catalog(files)
    read = load(suite, methods, changes)
    store = store_in(results)
    remembered = {} if trains else store.sources(suite.stem)
    return build_plan(read, suite, methods, remembered, changes, store), store, methods


def all_plugins(suite: Path, plugins: Sequence[Path]) -> tuple[Path, ...]:
    """Return the files with methods and networks of the command line and those that the suite file names."""
    return (*plugins, *plugins_of(suite))


def teachers_found(plan: Plan) -> list[str]:
    """Return a line for each teacher of a suite that names a folder of published teachers: which file it is."""
    if plan.suite.teachers is None:
        return []
    lines = []
    for run_id, given in plan.checkpoints.items():
        published = "" if given.accuracy is None else f"; must reach {given.accuracy} % within 0.1 points"
        lines.append(f"teacher {plan.runs[run_id].student.network}: {given.path}{published}")
    return lines


def store_in(results: Path) -> Store:
    """Return the store in a folder, which need not exist; raise a `RequestError` if it cannot be one."""
    check_folder("--results", results)
    return Store(results)


def suite_file(shown: Shown, store: Store) -> Path:
    """Return the suite file of a report, which may have been moved away."""
    return Path(os.path.relpath(store.root.resolve() / shown.file))


def plan_of_report(shown: Shown, store: Store, name: str, plugins: Sequence[Path] = ()) -> Plan:
    """Return the plan of a report by its folder's name in the store; without plug-ins, with those that it names."""
    files = plugins or [Path(path) for path in shown.plugins]
    plan, _, _ = planned(suite_file(shown, store), shown.changes, store.root, files)
    return replace(plan, subfolder=name.partition("/")[2])


@contextmanager
def sides(a: Path, b: Path, results: Path, plugins: Sequence[Path] = ()) -> Iterator[tuple[Side, Side]]:
    """Yield both sides of a comparison, each as `side` returns it, or a bundle's; raises as `side`."""
    with _opened(a, results, plugins) as one, _opened(b, results, plugins) as other:
        yield one, other


@contextmanager
def _opened(given: Path, results: Path, plugins: Sequence[Path]) -> Iterator[Side]:
    with unpacked(given) if is_bundle(given) else nullcontext() as bundle:
        if bundle is None:
            yield side(given, results, plugins)
        else:
            plan, store, _ = planned(bundle.suite, bundle.manifest.changes, bundle.root, plugins)
            yield Side(str(given), {plan.name: of_frame(results_frame(plan, store))}, store)


def side(given: Path, results: Path, plugins: Sequence[Path] = ()) -> Side:
    """Return one side of a comparison: a suite in the folder `results`, a folder of results, or that of a report.

    Raises:
        RequestError: it is none of these, has no report, or cannot be read.
    """
    if os.path.isdir(given / RUNS):  # unlike Path.is_dir, False for what cannot be a path
        store = store_in(given)
        folders = sorted(path.parent for pattern in ("*", "*/with_*") for path in given.glob(f"{pattern}/{TABLES[0]}"))
        if not folders:
            raise RequestError(f"{given}: no suite has a report there. Run `report` for one first")
        names = {folder.relative_to(given).as_posix(): folder for folder in folders}
        return Side(str(given), {name: _measured(one, store, name, plugins) for name, one in names.items()}, store)
    if os.path.isfile(given / TABLES[0]):
        folder = given.resolve()
        root = next((path for path in folder.parents if os.path.isdir(path / RUNS)), None)
        if root is None or noted(folder) is None:  # copied or published without its runs
            return Side(str(given), {folder.name: of_report(given)}, None)
        store, name = Store(root), folder.relative_to(root).as_posix()
        return Side(str(given), {name: _measured(given, store, name, plugins)}, store)
    if given.suffix != ".yaml" and str(given) not in packaged_suites():
        raise RequestError(
            f"{given}: is neither a suite file (.yaml), nor a bundle (.zip), nor a folder of results (with {RUNS}/), "
            f"nor the folder of a report (with {TABLES[0]})"
        )
    plan, store, _ = planned(find_suite(given), (), results, plugins)
    return Side(str(given), {plan.name: of_frame(results_frame(plan, store))}, store)


def _measured(folder: Path, store: Store, name: str, plugins: Sequence[Path]) -> dict[Place, Measured]:
    """Return the measured cells of a report: those of its runs, or what it printed if the runs may have changed."""
    printed, shown = of_report(folder), noted(folder)
    file = suite_file(shown, store) if shown else None
    if shown is None or file is None or not file.exists():
        return printed
    if hashlib.sha256(read_bytes(file)).hexdigest() != shown.sha256:
        return printed
    plan = plan_of_report(shown, store, name, plugins)
    if store.suite_folder(plan.folder).resolve() != folder.resolve():  # a copy: its runs may have changed since
        return {place: replace(one, runs={}) for place, one in printed.items()}
    now = of_frame(results_frame(plan, store))
    printed = {place: one for place, one in printed.items() if place not in now or now[place].n < one.n}
    return now | {place: replace(one, runs={}) for place, one in printed.items()}


def matching(plan: Plan, only: Sequence[str], pairs: Sequence[str]) -> list[Cell]:
    """Return the cells whose pair and label match one of the patterns; a pattern of no label is one of methods.

    Without patterns, all match.

    Raises:
        RequestError: no cell matches a pattern.
    """

    def matches(text: str, pattern: str) -> bool:
        return fnmatchcase(text.lower(), pattern.lower())

    chosen: set[int] = set()  # places of cells in the plan
    for pair, row in product(pairs or ["*"], only or ["*"]):
        in_pair = [place for place, cell in enumerate(plan.cells) if matches(cell.pair, pair)]
        by_label = [place for place in in_pair if matches(plan.cells[place].label, row)]  # `crd` is not CRD+KD
        places = by_label or [place for place in in_pair if matches(plan.cells[place].method, row)]
        if not places:
            labels = ", ".join(dict.fromkeys(cell.label for cell in plan.cells))
            names = ", ".join(dict.fromkeys(cell.pair for cell in plan.cells))
            raise RequestError(f"--only {row!r} --pairs {pair!r}: no cell matches. Rows: {labels}. Pairs: {names}")
        chosen |= set(places)
    return [plan.cells[place] for place in sorted(chosen)]


def wanted_runs(plan: Plan, store: Store, only: Sequence[str], pairs: Sequence[str]) -> list[RunSpec]:
    """Return the runs of the cells that match, and what they need, after everything in the store is checked.

    Raises:
        RequestError: no cell matches, another suite has its results in this folder, a given teacher does not reach its
            accuracy, or a file of the store is damaged.
    """
    in_own_folder(plan, store)
    wanted = plan.with_needs(run for cell in matching(plan, only, pairs) for run in cell.wanted)
    for run_id, checkpoint in plan.checkpoints.items():
        if checkpoint.accuracy is not None and (record := store.record(run_id)) is not None:
            primary = task_of(plan.runs[run_id]).metrics[0].name
            checkpoint.check(number_in(record, primary, store.folder(run_id)) or 0.0)
    statuses(plan.runs.values(), plan, store)  # damage is named before anything trains
    return wanted


def accept(plan: Plan, store: Store, runs: Sequence[RunSpec]) -> Iterator[str]:
    """State that the changed code of finished runs' methods gives the same numbers and yield a line for each run."""
    for run in runs:
        record = store.record(run.id)
        change = record and changed(run, record, plan.code, store)
        if change and change.of_method:
            store.accept(run.id, {name: code.sha256 for name, code in code_of_run(run, plan.code).items()})
            yield f"run {run.id}: accepted as unchanged, though {change.what}"


def runs_to_retry(
    plan: Plan, store: Store, wanted: Sequence[RunSpec], retry_failed: bool, accept_changed: bool
) -> set[str]:
    """Return the ids of the runs that are trained again: failed ones on request and stale ones."""
    begun = store.begun()
    retried = {run.id for run in wanted if retry_failed and run.id in begun and store.failure(run.id)}
    if retry_failed or not accept_changed:
        retried |= set(to_train_again([run for run in wanted if run.id in begun], plan, store, retry_failed))
    return retried


def reported(
    plan: Plan, store: Store, methods: Mapping[str, Method], style: StyleName = "page", replaces: bool = False
) -> tuple[Frame, list[Exception]]:
    """Write tables, figures and page, unless they are up to date; return the results, and the errors of outputs.

    A report that `replaces` the existing one raises an error if that one shows more finished runs.
    """
    failed: list[Exception] = []
    with store.locked("tables"):  # as `write_while_training`; what prints may wait for its reader
        frame = frame_of_report(plan, store, replaces)
        if is_current(frame, style):
            return frame, failed
        for run_id in store.begun() & plan.runs.keys() if replaces else ():
            store.epochs(run_id)  # a damaged file is named before anything is written
        from bench.figures.write import write_figures  # takes a second to import

        made_of = inputs(frame)
        write_tables_of(frame, failed)
        write_figures(frame, store, methods, failed, style, meanwhile=lambda: write_numbers(frame, failed))
        write_page(frame, failed)
        if not failed:
            mark_current(frame, made_of)
    return frame, failed


def raise_damage(failed: Sequence[Exception]) -> None:
    """Raise the first error that a damaged file of the store caused; the outputs that do not need it are written."""
    for error in failed:
        if isinstance(error, RequestError) and not isinstance(error, NotWrittenError):
            raise error
