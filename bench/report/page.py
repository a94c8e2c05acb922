"""The web page: results/<suite>/report.html, one file, opened from disk, that needs no network. Imports no torch.

Whatever comes from the store is escaped: by the template where it is markup, as JSON where the page's script puts it
into place as text. The page's policy allows that one script, known by its hash, and no address but `data:`.
"""

import base64
import csv
import glob
import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import jinja2
import yaml
from markupsafe import Markup

from bench.plan import Cell, Plan
from bench.plan.status import run_status
from bench.report import tables as report
from bench.report.origins import command, origin_of, origins
from bench.report.tables import MISSING, Outcome
from bench.spec import RunSpec
from bench.spec import column as recorded
from bench.store import Store, write_whole
from bench.tasks import task_of

PAGE = "report.html"
MOST_POINTS = 120  # of a curve: those of a thousand runs of 240 epochs then take two megabytes
LARGE = 200_000  # bytes of a drawing, above which its picture is shown if that is smaller


@dataclass(frozen=True)
class Column:
    """A column of the table: a pair, and one of its metrics."""

    pair: str
    teacher: str
    student: str
    metric: str


@dataclass(frozen=True)
class Box:
    """A cell of the table as it is shown.

    Attributes:
        index: its place among what can be opened.
        value: the mean in percent by which it is sorted, or None.
        mean: the same as text.
        spread: standard deviation, number of seeds, and whether the mean is above or below KD's, as text.
        place: 1 and 2 for the best and the second method of a column.
        status: as table.csv has it.
    """

    index: int
    value: float | None
    mean: str
    spread: str
    place: int
    status: str


def write(plan: Plan, store: Store, found: Sequence[Outcome]) -> Path:
    """Write the page of a suite from what the store holds now, its figures and statistics included; return its path."""
    path = store.suite_folder(plan.name) / PAGE
    write_whole(path, render(plan, store, found))
    return path


def render(plan: Plan, store: Store, found: Sequence[Outcome]) -> str:
    """Return the page as HTML.

    Args:
        plan: the suite's.
        store: where its runs are.
        found: the outcomes of its cells.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("bench.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    sources = {name: (files("bench.report") / f"page.{name}").read_text(encoding="utf-8") for name in ("css", "js")}
    digest = base64.b64encode(hashlib.sha256(sources["js"].encode()).digest()).decode()
    folder = store.suite_folder(plan.name)
    made = origins(plan, store)
    columns, rows, opened = _table(plan, found)
    return environment.get_template("page.html.j2").render(
        title=plan.suite.title,
        name=plan.name,
        style=Markup(sources["css"]),
        script=Markup(sources["js"]),
        script_hash=digest,
        columns=columns,
        metrics=sorted({column.metric for column in columns}),
        rows=rows,
        has_arrows=any(_has_arrow(box) for row in rows for box in row["boxes"]),
        counts=_counts(found),
        unfinished=_unfinished(found),
        protocol=report.protocol(plan),
        statistics=_statistics(folder / "statistics.csv"),
        figures=[(drawing.stem.replace("-to-", " → "), _embedded(drawing)) for drawing in _drawings(folder)],
        command=command(plan),
        suite_file=plan.file.read_text(encoding="utf-8"),
        file_name=plan.file.name,
        made=list(made.values()),
        table_hash=report.digest(plan, found),
        data={"cells": opened, "runs": _runs(plan, store, found, list(made))},
    )


# the table, and what its cells open


def _table(plan: Plan, found: Sequence[Outcome]) -> tuple[list[Column], list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the columns, the rows (label, method, boxes) and what the boxes open, in the order of their indices."""
    numbers = {(row["pair"], row["metric"], row["label"]): row for row in report.rows(plan, found)}
    outcomes = {
        (Column(outcome.cell.pair, outcome.cell.teacher, outcome.cell.student, shown), outcome.cell.label): outcome
        for outcome in found
        for shown in outcome.cell.metrics
        if report.is_tabled(shown)
    }
    columns = list(dict.fromkeys(column for column, _ in outcomes))
    methods = {outcome.cell.label: outcome.cell.method for outcome in found}
    kd = report.row_named(plan.cells, "KD")
    rows: list[dict[str, Any]] = []
    opened: list[dict[str, Any]] = []
    for label, method in methods.items():
        boxes = []
        for column in columns:
            outcome = outcomes[column, label]
            row = numbers[column.pair, column.metric, label]
            rivals = [outcomes[column, other] for other in methods]
            place = report.place_of(outcome, rivals, column.metric)
            arrow = report.arrow(outcome, None if kd is None else outcomes[column, kd], column.metric)
            boxes.append(_box(len(opened), outcome, column, place, arrow))
            opened.append(_opened(plan, outcome, column, row))
        rows.append({"label": label, "method": method, "boxes": boxes})
    return columns, rows, opened


def _has_arrow(box: Box) -> bool:
    return report.ABOVE in box.spread or report.BELOW in box.spread


def _box(index: int, outcome: Outcome, column: Column, place: int, arrow: str) -> Box:
    values = outcome.values[column.metric]
    if not values:
        return Box(index, None, MISSING, "", 0, outcome.status)
    shown, spread = _result(values).split(" ", 1)
    return Box(index, mean(values), shown, spread + arrow, place, outcome.status)


def _result(values: Sequence[float]) -> str:
    deviation = stdev(values) if len(values) > 1 else None
    return report.number(mean(values), deviation, len(values))


def _opened(plan: Plan, outcome: Outcome, column: Column, row: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a cell's window tells beside its runs."""
    cell, values = outcome.cell, outcome.values[column.metric]
    facts = {"method": cell.method, "status": outcome.status, "reason": outcome.reason}
    if values:
        facts["last epoch"] = _result(values)
    if row["best_mean"] != "":
        facts["best epoch"] = f"{row['best_mean']:.2f}, the mean of each seed's best: not the result"
    if row["published"] != "":
        facts["published"] = f"{row['published']:.2f}"
        if values:
            facts["published"] += f" (here {mean(values) - row['published']:+z.2f})"
    return {
        "label": cell.label,
        "pair": column.pair,
        "metric": column.metric,
        "series": cell.metrics[column.metric],
        "facts": {name: text for name, text in facts.items() if text},
        "settings": _settings(cell.runs[0]),
        "command": _repetition(plan, cell),
        "runs": [run.id for run in cell.runs],
    }


def _settings(run: RunSpec) -> str:
    document = run.model_dump(mode="json", exclude_none=True)
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True, default_flow_style=None, width=90)


def _repetition(plan: Plan, cell: Cell) -> str:
    """Return the command that trains a cell, and what it needs, alone."""
    return command(plan, "--only", glob.escape(cell.label), "--pairs", glob.escape(cell.pair))


def _runs(
    plan: Plan, store: Store, found: Sequence[Outcome], made: Sequence[tuple[str, ...]]
) -> dict[str, dict[str, Any]]:
    """Return what a cell's window tells of each run, by id; `made` are the origins, which runs name by number."""
    runs = {run.id: run for outcome in found for run in outcome.cell.runs}
    return {run_id: _run(run, plan, store, made) for run_id, run in runs.items()}


def _run(run: RunSpec, plan: Plan, store: Store, made: Sequence[tuple[str, ...]]) -> dict[str, Any]:
    record = store.record(run.id) or {}
    status, reason = run_status(run, plan, store)
    epochs = [epoch for epoch in store.epochs(run.id) if epoch["stage"] == "main"]
    task = task_of(run)
    series = [recorded(network, "loss") for network in task.networks]
    series += [metric for metric in task.recorded if report.is_tabled(metric)]
    return {
        "seed": run.seed,
        "status": status,
        "reason": reason,
        "last": _rounded(record.get("metrics")),
        "best": _rounded(record.get("best")),
        "epochs": len(epochs),
        "of": run.schedule.epochs if run.schedule else 0,
        "wall_s": record.get("wall_s"),
        "made": made.index(origin_of(record)) if record else None,
        "every": _step(len(epochs)),
        "curves": {name: curve(epochs, name) for name in series},
    }


def _rounded(values: Mapping[str, Any] | None) -> dict[str, float]:
    """Return a record's numbers as short as they are shown; JSON has no word for those that are not finite."""
    if values is None:
        return {}
    return {name: round(value, 4) for name, value in values.items() if math.isfinite(value)}


def curve(epochs: Sequence[Mapping[str, Any]], name: str) -> list[list[float]]:
    """Return [epochs, values] of a column, at most `MOST_POINTS` each, evenly spread, the last one kept."""
    points = [(epoch["epoch"], epoch[name]) for epoch in epochs if math.isfinite(epoch.get(name, math.nan))]
    step = _step(len(points))
    first = (len(points) - 1) % step  # or the last one would not be kept
    kept = points[first::step]
    return [[epoch for epoch, _ in kept], [float(f"{value:.4g}") for _, value in kept]]


def _step(points: int) -> int:
    return max(1, math.ceil(points / MOST_POINTS))


def _counts(found: Iterable[Outcome]) -> dict[str, int]:
    statuses = [outcome.status for outcome in found]
    return {status: statuses.count(status) for status in dict.fromkeys(statuses)}


def _unfinished(found: Iterable[Outcome]) -> list[tuple[str, str, list[str]]]:
    """Return (status, reason, cells) of what has no number, or not all seeds, and says why."""
    cells: dict[tuple[str, str], list[str]] = {}
    for outcome in found:
        if outcome.reason:
            name = f"{outcome.cell.title} ({outcome.cell.pair})"
            cells.setdefault((outcome.status, outcome.reason), []).append(name)
    return [(status, reason, names) for (status, reason), names in cells.items()]


# what others have written beside the tables


def _statistics(path: Path) -> list[list[str]]:
    """Return the rows of a table that may not be there, its heading first."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def _drawings(folder: Path) -> list[Path]:
    return sorted((folder / "figures").glob("*.svg"))


def _embedded(drawing: Path) -> str:
    """Return a figure as a `data:` address: the drawing, or its picture where that spares a large one."""
    picture = drawing.with_suffix(".png")
    size = drawing.stat().st_size
    if size > LARGE and picture.exists() and picture.stat().st_size < size:
        return f"data:image/png;base64,{base64.b64encode(picture.read_bytes()).decode()}"
    return f"data:image/svg+xml;base64,{base64.b64encode(drawing.read_bytes()).decode()}"
