"""Writes the web page, report.html: tables, curves, figures, and files to download. Imports no torch.

All text from the store is escaped: by the template in markup, as JSON in the data that the page's script inserts as
text. What only scripts read is compressed: curves, settings, drawings, and the files to download.
"""

import glob
import math
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from bench.plan import Plan
from bench.report import wide, words
from bench.report.caption import caption, marks
from bench.report.folder import FIGURES, PAGE, STATISTICS, TABLES, VARIANCE
from bench.report.frame import Frame
from bench.report.html import filled, packed
from bench.report.layout import MISSING, number
from bench.report.origins import origin_of, origins, training_command
from bench.report.regime import regime_line
from bench.report.summary import Summary
from bench.report.table_csv import digest
from bench.spec import RunSpec, column
from bench.store import write_whole
from bench.store.files import read_csv, read_text
from bench.tasks import Metric, task_of
from bench.types import RequestError

MAX_POINTS = 120  # of a curve, about one per three pixels of its chart
CURVES = "curves_"  # begins the names of the figures that the page's own charts replace
ABOUT_STATISTICS = ("gain", "critical_difference")  # begin the names of the figures shown beside the statistics
FEW_PAIRS = 3  # up to so many, the page first opens with the published numbers
SCRIPTS = ("table", "results", "data", "charts", "curves", "window", "figures", "compare")


def write(frame: Frame) -> Path:
    """Write the page of a suite, with the existing tables, figures and statistics; return its path."""
    path = frame.folder / PAGE
    write_whole(path, render(frame))
    return path


def render(frame: Frame) -> str:
    """Return the page of a suite as HTML."""
    plan, folder = frame.plan, frame.folder
    made = origins(frame.records.values())
    command = training_command(plan)
    heads, rows = wide.heads(frame), wide.rows(frame)
    opened = [entry.one for row in rows for entry in row.entries if entry.one is not None]
    runs = {run.id: run for one in frame.primary for run in one.cell.runs}
    shown_runs = {run.id: _run(run, frame, list(made)) for run in runs.values()}
    has_curves = any(epochs for one in shown_runs.values() for epochs, _ in one["curves"].values())
    figures = [_figure(path) for path in sorted((folder / FIGURES).glob("*.svg")) if path.is_file()]
    if has_curves:
        figures = [one for one in figures if not one.name.startswith(CURVES)]
    current = digest(frame)
    files = _files(folder, current)
    statistics = _rows_of(folder / STATISTICS[0]) if STATISTICS[0] in files else []
    return filled(
        "page",
        SCRIPTS,
        libraries=("uplot/uPlot.iife.min.js",),
        title=plan.suite.title,
        name=plan.name,
        number=number,
        missing=MISSING,
        heads=heads,
        kinds=[kind for kind in wide.KINDS if any(head.kind == kind for head in heads)],
        shows_published=len(plan.suite.pairs) <= FEW_PAIRS,
        metrics=sorted({metric for _, metric in frame.columns}),
        rows=rows,
        networks={one.pair: (one.cell.teacher, one.cell.student) for one in frame.tabled},
        answered=_answered(frame),
        counts=Counter(one.status for one in frame.primary),
        unfinished=_unfinished(frame),
        protocol=caption(frame),
        marks=marks(frame),
        regime=regime_line(frame),
        best=frame.best,
        has_curves=has_curves,
        said=words.said(statistics),
        gains=words.gains(statistics),
        variance=_rows_of(folder / VARIANCE) if plan.suite.crossed else [],
        figures=figures,
        about_statistics=[one for one in figures if one.name.startswith(ABOUT_STATISTICS)],
        files=list(files),
        command=shlex.join(command),
        suite_file=plan.text,
        suite_note=_changed_since(plan),
        file_name=plan.file.name,
        made=list(made.values()),
        table_hash=current,
        data=packed(
            {
                "name": plan.name,
                "cells": [_opened(one, command) for one in opened],
                "runs": shown_runs,
                "made": list(made.values()),
                "figures": {one.name: one.drawing for one in figures},
                "files": files,
            }
        ),
    )


def _answered(frame: Frame) -> tuple[list[str], list[tuple[str, str, list[Summary | None]]]]:
    """Return the titles of the metrics computed from answers, and (pair, row, results in that order) of each cell."""
    titles = {one.kind: f"{one.kind.title} ({one.kind.unit})" for one in frame.answered}
    cells: dict[tuple[str, str], dict[Metric, Summary]] = {}
    for one in frame.answered:
        cells.setdefault((one.pair, f"{one.label} {one.cell.evaluation}".strip()), {})[one.kind] = one
    rows = [(pair, row, [by_kind.get(kind) for kind in titles]) for (pair, row), by_kind in cells.items()]
    return list(titles.values()), rows


def _files(folder: Path, current: str) -> dict[str, str]:
    """Return the files that the page offers to copy or download, with statistics.csv only if it is of these results."""
    has_statistics = current in (_text_of(folder / STATISTICS[1]) or "")
    names = (*TABLES, STATISTICS[0]) if has_statistics else TABLES
    return {name: text for name in names if (text := _text_of(folder / name))}


def _changed_since(plan: Plan) -> str:
    """Return a note if the suite file has changed or is gone since the plan was made; "" if it is the same."""
    text = _text_of(plan.absolute)
    if text == plan.text:
        return ""
    what = "is not there any more" if text is None else "has changed since"
    return f"This is the text with which these results were made. The file {what}."


def _opened(one: Summary, command: Sequence[str]) -> dict[str, Any]:
    """Return the content of a cell's window, without its runs; `command` trains the whole suite."""
    cell = one.cell
    facts = {"method": cell.method, "status": one.status, "reason": one.reason}
    if one.mean is not None:
        facts["last epoch"] = number(one)
    if one.best_mean is not None:
        facts["best epoch"] = f"{one.best_mean:.2f}, the mean of each seed's best; not the result"
    if one.published is not None:
        difference = "" if one.difference is None else f" (here {one.difference:+z.2f})"
        facts["published"] = f"{one.published:.2f}{difference}"
    return {
        "label": one.label,
        "pair": one.pair,
        "metric": one.metric,
        "series": one.recorded,
        "mean": one.mean,
        "n": one.n,
        "facts": {name: text for name, text in facts.items() if text},
        "command": shlex.join([*command, "--only", glob.escape(one.label), "--pairs", glob.escape(one.pair)]),
        "runs": [run.id for run in cell.runs],
    }


def _run(run: RunSpec, frame: Frame, made: Sequence[tuple[str, ...]]) -> dict[str, Any]:
    """Return what a cell's window shows of a run; `made` is the index of its origin in the argument `made`."""
    record, seed = frame.records.get(run.id, {}), frame.plan.seed_of(run)
    status, reason = frame.statuses[run.id]
    epochs = [epoch for epoch in frame.store.epochs(run.id) if epoch["stage"] == "main"] if status != "stale" else []
    task = task_of(run)
    names = ["loss", *(metric.name for metric in task.metrics if metric.in_tables)]
    series = [column(network, name) for name in names for network in task.networks]
    return {
        "seed": seed if isinstance(seed, int) else str(seed),
        "status": status,
        "reason": reason,
        "last": _rounded(record.get("metrics")),
        "best": _rounded(record.get("best")),
        "epochs": len(epochs),
        "of": run.training.epochs if run.trains else 0,
        "wall_s": record.get("wall_s"),
        "made": made.index(origin_of(record)) if record else None,
        "settings": run.model_dump(mode="json", exclude_none=True),
        "every": _step(len(epochs)),
        "curves": {name: curve(epochs, name) for name in series},
    }


def _rounded(values: Mapping[str, Any] | None) -> dict[str, float]:
    """Return a record's numbers rounded for display; JSON has no numbers that are not finite."""
    return {name: round(value, 4) for name, value in (values or {}).items() if math.isfinite(value)}


def curve(epochs: Sequence[Mapping[str, Any]], name: str) -> list[list[float]]:
    """Return [epochs, values] of a column, at most `MAX_POINTS` each, evenly spread, the last one kept."""
    points = [(epoch["epoch"], epoch[name]) for epoch in epochs if math.isfinite(epoch.get(name, math.nan))]
    step = _step(len(points))
    kept = points[(len(points) - 1) % step :: step]  # ends with the last one
    return [[epoch for epoch, _ in kept], [float(f"{value:.4g}") for _, value in kept]]


def _step(points: int) -> int:
    return max(1, math.ceil(points / MAX_POINTS))


def _unfinished(frame: Frame) -> list[tuple[str, str, list[str]]]:
    """Return (status, reason, cells) for each reason why cells lack numbers or seeds."""
    cells: dict[tuple[str, str], list[str]] = {}
    for one in frame.primary:
        if one.reason:
            cells.setdefault((one.status, one.reason), []).append(f"{one.cell.title} ({one.pair})")
    return [(status, reason, names) for (status, reason), names in cells.items()]


@dataclass(frozen=True)
class Figure:
    """A figure of the page: a drawing that a script shows."""

    name: str
    drawing: str  # SVG
    pdf: str  # address of the same figure beside the page; "" if there is none

    @property
    def title(self) -> str:
        """Return its name as people read it."""
        return self.name.replace("-to-", " → ")


def _figure(path: Path) -> Figure:
    pdf = path.with_suffix(".pdf")
    return Figure(path.stem, path.read_text("utf-8"), f"{FIGURES}/{quote(pdf.name)}" if pdf.is_file() else "")


def _rows_of(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV file; none if it cannot be read."""
    try:
        return read_csv(path)
    except RequestError:
        return []


def _text_of(path: Path) -> str | None:
    """Return the text of a file beside the page; None if it cannot be read."""
    try:
        return read_text(path)
    except (RequestError, UnicodeDecodeError):
        return None
