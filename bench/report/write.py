"""Writes a suite's files: tables after each cohort, the rest of the report once. Imports no torch."""

import hashlib
import json

from bench.plan import Plan
from bench.report.frame import Frame, results_frame
from bench.report.latex import to_latex
from bench.report.markdown import to_markdown
from bench.store import SOURCES, Store, csv_text, write_whole
from bench.store.files import read_text

COLUMNS = (
    *("pair", "teacher", "student", "method", "label", "metric", "n", "mean", "std", "best_mean", "published"),
    *("status", "reason", "difference"),
)
TABLES = ("table.csv", "table.md", "table.tex")
STATISTICS = ("statistics.csv", "statistics.md")
PAGE = "report.html"


def write_tables(plan: Plan, store: Store) -> Frame:
    """Write the tables of a suite from the store, and the fingerprints of its files; return the results."""
    frame = results_frame(plan, store)
    folder = store.suite_folder(plan.name)
    for name, text in zip(TABLES, (to_csv(frame), to_markdown(frame), to_latex(frame)), strict=True):
        write_whole(folder / name, text)
    if plan.sources:
        sources = store.sources(plan.name) | dict(plan.sources)  # keep those that this call leaves out
        write_whole(folder / SOURCES, json.dumps(sources, indent=1) + "\n")
    return frame


def write_while_training(plan: Plan, store: Store) -> None:
    """Write the tables and event files. Processes take turns, so that the tables of the latest results remain."""
    from bench.report.epochs import write_events

    with store.locked("tables"):
        write_tables(plan, store)
        write_events(plan, store)


def write_report(frame: Frame, store: Store) -> None:
    """Write the epochs, the statistics and the page, which shows the existing figures."""
    from bench.report import epochs, page, statistics_files  # each takes a second to import

    epochs.write_csv(frame, store)
    epochs.write_events(frame.plan, store)
    statistics_files.write(frame, store)
    page.write(frame, store)


def is_reported(frame: Frame, store: Store) -> bool:
    """Return whether the report of these results is written: its last files hold the digest of their table."""
    first, *last = (store.suite_folder(frame.plan.name) / name for name in (*STATISTICS, PAGE))
    current = digest(frame)
    return first.exists() and all(current in (read_text(path) or "") for path in last)


def to_csv(frame: Frame) -> str:
    """Return table.csv: one row per cell and metric, numbers in percent."""
    rows = []
    for one in frame.summaries:
        row = {name: getattr(one if hasattr(one, name) else one.cell, name) for name in COLUMNS}
        rows.append({name: round(value, 4) if isinstance(value, float) else value for name, value in row.items()})
    return csv_text(COLUMNS, rows)


def digest(frame: Frame) -> str:
    """Return a hash of table.csv, which shows whether files of the same results are up to date."""
    return hashlib.sha256(to_csv(frame).encode()).hexdigest()[:16]
