"""Writes a suite's files: tables after each cohort, the rest of the report once. Imports no torch."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager

from bench.plan import Plan
from bench.report.folder import CLASSES, EPOCHS, PAGE, STATISTICS, SUITE, TABLES, TUNING, note, placed
from bench.report.frame import Frame, results_frame
from bench.report.latex import to_latex
from bench.report.markdown import to_markdown
from bench.report.table_csv import to_csv
from bench.store import SOURCES, Store, write_whole
from bench.types import RequestError

logger = logging.getLogger(__name__)


@contextmanager
def attempt(output: object, failed: list[Exception] | None) -> Iterator[None]:
    """Log an error of one output and add it to `failed`, so that the other outputs are written; raise it if None."""
    try:
        yield
    except Exception as error:  # of a library, the disk, or a file of the store; the other outputs are written
        if failed is None:
            raise
        reason = str(error) if isinstance(error, RequestError) else f"{type(error).__name__}: {error}"
        logger.warning("warning: %s is not written: %s", output, reason)
        logger.debug("", exc_info=True)
        failed.append(error)


def frame_of_report(plan: Plan, store: Store, replaces: bool = False) -> Frame:
    """Return the results of a suite in the store, with the folder of their report; see `bench.report.folder`.

    Raises:
        RequestError: a file of the store cannot be read, or the folder has the results of another suite file. Also if
            the report `replaces` the present one, which shows more finished runs.
    """
    frame = placed(results_frame(plan, store))
    if frame.aside and replaces:
        raise RequestError(frame.aside)
    return frame


def write_tables(plan: Plan, store: Store, failed: list[Exception] | None = None) -> Frame:
    """Write the tables of a suite from the store; return the results; see `frame_of_report` and `write_tables_of`."""
    frame = frame_of_report(plan, store)
    write_tables_of(frame, failed)
    return frame


def write_tables_of(frame: Frame, failed: list[Exception] | None = None) -> None:
    """Write the tables of a suite's results, and the fingerprints of its files; for `failed`, see `attempt`."""
    plan, store, folder = frame.plan, frame.store, frame.folder
    for name, table in zip(TABLES, (to_csv, to_markdown, to_latex), strict=True):
        with attempt(folder / name, failed):
            write_whole(folder / name, table(frame))
    with attempt(folder / SUITE, failed):
        finished = [run_id for run_id, (status, _) in frame.statuses.items() if status == "done"]
        note(plan, store, finished=finished)
    if plan.sources:
        path = store.suite_folder(plan.name) / SOURCES
        with attempt(path, failed):
            sources = store.sources(plan.name) | dict(plan.sources)  # keep those that this call leaves out
            write_whole(path, json.dumps(sources, indent=1) + "\n")


def write_while_training(plan: Plan, store: Store) -> None:
    """Write the tables and event files, or log why not: the training goes on.

    Processes take turns, so that the tables of the latest results remain.
    """
    from bench.report.epochs import write_events

    failed: list[Exception] = []
    with attempt("the report", failed), store.locked("tables"):
        write_tables(plan, store, failed)
        write_events(plan, store)


def write_numbers(frame: Frame, failed: list[Exception] | None = None) -> None:
    """Write the epochs, classes and statistics; see `attempt`."""
    from bench.report import classes, epochs, statistics_files  # each takes a second to import

    folder = frame.folder
    with attempt(folder / EPOCHS, failed):
        epochs.write_csv(frame)
    with attempt(folder / CLASSES, failed):
        classes.write(frame)
    with attempt("an event file", failed):
        epochs.write_events(frame.plan, frame.store)
    with attempt(folder / STATISTICS[0], failed):
        statistics_files.write(frame)
    if frame.plan.suite.tuning is not None:
        from bench.report import tuning

        with attempt(folder / TUNING[0], failed):
            tuning.write(frame)


def write_page(frame: Frame, failed: list[Exception] | None = None) -> None:
    """Write the page, which shows the existing tables, figures and statistics, and the index; see `attempt`."""
    from bench.report import index, page  # take a second to import

    with attempt(frame.folder / PAGE, failed):
        page.write(frame)
    with attempt(frame.store.root / index.INDEX, failed):
        index.write(frame.store)
