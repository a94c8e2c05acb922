"""The web page: results/<suite>/report.html, one file that needs no network. Imports no torch.

All text from the store is escaped: by the template in markup, as JSON in the data that the page's script inserts as
text. The page's policy allows only this script, identified by its hash, and only `data:` addresses.
"""

import base64
import csv
import glob
import hashlib
import io
import math
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import yaml
from markupsafe import Markup

from bench.plan import Plan
from bench.report.caption import caption, marks
from bench.report.folder import FIGURES, PAGE, STATISTICS, VARIANCE
from bench.report.frame import Frame, Summary
from bench.report.layout import MISSING, number
from bench.report.origins import origin_of, origins, training_command
from bench.report.regime import regime_line
from bench.report.write import digest
from bench.spec import RunSpec, column
from bench.store import Store, write_whole
from bench.store.files import as_written, read_text
from bench.tasks import Metric, task_of
from bench.types import RequestError

MAX_POINTS = 120  # of a curve: the curves of a thousand runs of 240 epochs then take two megabytes
DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # of the C library, which is three times as fast
MAX_DRAWING = 200_000  # bytes of an SVG, above which its PNG is shown if that is smaller


def write(frame: Frame, store: Store) -> Path:
    """Write the page of a suite, with the existing figures and statistics; return its path."""
    path = store.suite_folder(frame.plan.folder) / PAGE
    write_whole(path, render(frame, store))
    return path


def render(frame: Frame, store: Store) -> str:
    """Return the page of a suite as HTML."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("bench.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    sources = {name: (files("bench.report") / f"page.{name}").read_text(encoding="utf-8") for name in ("css", "js")}
    plan = frame.plan
    folder = store.suite_folder(plan.folder)
    made = origins(frame.records.values())
    rows = [[frame.at(*column, label) for column in frame.columns] for label in frame.labels]
    runs = {run.id: run for one in frame.primary for run in one.cell.runs}
    drawings = sorted(path for path in (folder / FIGURES).glob("*.svg") if path.is_file())
    command = training_command(plan)
    return environment.get_template("page.html.j2").render(
        title=plan.suite.title,
        name=plan.name,
        style=Markup(sources["css"]),
        script=Markup(sources["js"]),
        script_hash=base64.b64encode(hashlib.sha256(sources["js"].encode()).digest()).decode(),
        number=number,
        missing=MISSING,
        columns=rows[0],
        metrics=sorted({metric for _, metric in frame.columns}),
        rows=rows,
        answered=_answered(frame),
        counts=Counter(one.status for one in frame.primary),
        unfinished=_unfinished(frame),
        protocol=caption(frame),
        marks=marks(frame),
        regime=regime_line(frame),
        best=frame.best,
        statistics=_statistics(folder / STATISTICS[0]),
        variance=_statistics(folder / VARIANCE) if plan.suite.crossed else [],
        figures=[(drawing.stem.replace("-to-", " → "), _embedded(drawing)) for drawing in drawings],
        command=shlex.join(command),
        suite_file=plan.text,
        suite_note=_changed_since(plan),
        file_name=plan.file.name,
        made=list(made.values()),
        table_hash=digest(frame),
        data={
            "cells": [_opened(one, command) for row in rows for one in row],
            "runs": {run.id: _run(run, frame, store, list(made)) for run in runs.values()},
        },
    )


def _answered(frame: Frame) -> tuple[list[str], list[tuple[str, str, list[Summary | None]]]]:
    """Return the metrics that are computed from answers, and (pair, row, results in their order) of each cell."""
    titles = {one.kind: f"{one.kind.title} ({one.kind.unit})" for one in frame.answered}
    cells: dict[tuple[str, str], dict[Metric, Summary]] = {}
    for one in frame.answered:
        cells.setdefault((one.pair, f"{one.label} {one.cell.evaluation}".strip()), {})[one.kind] = one
    rows = [(pair, row, [found.get(kind) for kind in titles]) for (pair, row), found in cells.items()]
    return list(titles.values()), rows


def _statistics(path: Path) -> list[list[str]]:
    """Return the heading and rows of a CSV file; none if it cannot be read."""
    try:
        rows = csv.reader(io.StringIO(read_text(path) or ""))
    except RequestError:
        return []
    return [[as_written(text) for text in row] for row in rows]


def _changed_since(plan: Plan) -> str:
    """Return what has become of the suite file since the plan was made, if it is not the same any more."""
    try:
        text = read_text(plan.absolute)
    except (RequestError, UnicodeDecodeError):
        text = None
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
    settings = cell.runs[0].model_dump(mode="json", exclude_none=True)
    return {
        "label": one.label,
        "pair": one.pair,
        "metric": one.metric,
        "series": one.recorded,
        "facts": {name: text for name, text in facts.items() if text},
        "settings": yaml.dump(
            settings, Dumper=DUMPER, sort_keys=False, allow_unicode=True, default_flow_style=None, width=90
        ),
        "command": shlex.join([*command, "--only", glob.escape(one.label), "--pairs", glob.escape(one.pair)]),
        "runs": [run.id for run in cell.runs],
    }


def _run(run: RunSpec, frame: Frame, store: Store, made: Sequence[tuple[str, ...]]) -> dict[str, Any]:
    """Return what a cell's window shows of a run, which refers to its origin by the index in `made`."""
    record, seed = frame.records.get(run.id, {}), frame.plan.seed_of(run)
    status, reason = frame.statuses[run.id]
    epochs = [epoch for epoch in store.epochs(run.id) if epoch["stage"] == "main"] if status != "stale" else []
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
    kept = points[::-step][::-1]  # counted from the last one
    return [[epoch for epoch, _ in kept], [float(f"{value:.4g}") for _, value in kept]]


def _step(points: int) -> int:
    return max(1, math.ceil(points / MAX_POINTS))


def _unfinished(frame: Frame) -> list[tuple[str, str, list[str]]]:
    """Return (status, reason, cells) of the cells with a reason for missing numbers or seeds."""
    cells: dict[tuple[str, str], list[str]] = {}
    for one in frame.primary:
        if one.reason:
            cells.setdefault((one.status, one.reason), []).append(f"{one.cell.title} ({one.pair})")
    return [(status, reason, names) for (status, reason), names in cells.items()]


def _embedded(drawing: Path) -> str:
    """Return a figure as a `data:` address: its SVG, or its PNG if the SVG is large and the PNG smaller."""
    picture = drawing.with_suffix(".png")
    size = drawing.stat().st_size
    if size > MAX_DRAWING and picture.exists() and picture.stat().st_size < size:
        return f"data:image/png;base64,{base64.b64encode(picture.read_bytes()).decode()}"
    return f"data:image/svg+xml;base64,{base64.b64encode(drawing.read_bytes()).decode()}"
