"""Figures of what `cost` has measured."""

from collections.abc import Iterator
from statistics import mean, stdev

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from bench.figures.drawing import BAR_NOTE, COLOURS, LABEL_LINE, grid, legend, marked, named, wrapped
from bench.figures.findings import Findings, axis_of
from bench.types import RequestError

PHASES = ("student", "term", "backward", "optimizer")  # what `cost` measures of each row's step
COSTS = ("data_ms", "teacher_ms", *(f"{phase}_ms" for phase in PHASES), "step_ms", "peak_mb")


def costs(findings: Findings) -> Iterator[tuple[str, Figure]]:
    """Yield what `cost` has measured: a step's phases by row, and the metric against time and memory."""
    path = findings.store.suite_folder(findings.plan.name) / "cost.csv"
    if not path.exists():
        return
    columns: dict[str, type[str] | type[float]] = {"pair": str, "label": str, "stage": str}
    for name in COSTS:
        columns[name] = float
    empty = {"teacher_ms": ""}  # where no row listens to a teacher
    try:
        table = pd.read_csv(path, usecols=[*columns], dtype=columns, keep_default_na=False, na_values=empty)
    except (OSError, ValueError) as error:
        raise RequestError(f"{path}: cannot be read: {error}. Remove it, or measure anew with `cost`") from error
    known = table[table["pair"].isin([cell.pair for cell in findings.plan.cells])]
    if not known.empty:
        yield "cost", _phases(known, findings)
        yield from _against_cost(known[known["stage"] == "main"], findings)


def _phases(table: pd.DataFrame, findings: Findings) -> Figure:
    """Return a bar a row, its phases end to end, a panel a pair."""
    pairs = list(dict.fromkeys(table["pair"]))
    rows = int(table["pair"].value_counts().max())
    names = []
    for row, stage in zip(table["label"], table["stage"], strict=True):
        title = row if stage == "main" else f"{row} ({stage})"
        names.append(wrapped(title, LABEL_LINE))
    longest = max(len(name) for name in names)
    most_breaks = max(name.count("\n") for name in names)
    across = 2 if longest <= LABEL_LINE / 2 else 1  # or there is no room for the bars
    height = 1.1 + 0.24 * rows * (1 + 0.6 * most_breaks)
    figure, axes = grid(len(pairs), across, height, findings.plan.suite.title)
    table = table.assign(row=names)
    for axis, pair in zip(axes, pairs, strict=True):
        own = table[table["pair"] == pair]
        places = np.arange(len(own))
        left = np.zeros(len(own))
        for phase, colour, hatch in zip(PHASES, COLOURS, ("", "///", "...", "xxx"), strict=False):
            widths = own[f"{phase}_ms"].to_numpy(dtype=float)
            axis.barh(places, widths, left=left, color=colour, hatch=hatch, edgecolor="white", lw=0.3, label=phase)
            left += widths
        axis.set_yticks(places, own["row"], size=8)
        axis.invert_yaxis()
        first = own.iloc[0]
        teacher = "" if pd.isna(first.teacher_ms) else f"teacher {first.teacher_ms:.0f} ms, "
        axis.set_title(f"{wrapped(pair, LABEL_LINE)}\n{teacher}data {first.data_ms:.1f} ms once for all rows", size=8)
        axis.set_xlabel("ms a step")
    legend(figure)
    return figure


def _against_cost(table: pd.DataFrame, findings: Findings) -> Iterator[tuple[str, Figure]]:
    """Yield a pair's metric against a step's time and most memory, a row each with a mark of its own."""
    for group, every in findings.groups.items():
        measured = table[table["pair"] == every[0].pair].set_index("label")
        cells = [cell for cell in every if cell.label in measured.index]
        results: dict[str, list[float]] = {}
        whole = set()
        for cell in cells:
            found = findings.results(cell)
            if found:
                results[cell.label] = list(found.values())
            if len(found) == len(cell.runs):
                whole.add(cell.label)
        if not results:
            continue
        figure, axes = grid(2, 2, 3.0, f"{findings.plan.suite.title}\n{group}", BAR_NOTE, sharey=True)
        columns = {"step_ms": "ms a step, teacher and data apart", "peak_mb": "peak memory of a step (MB)"}
        for axis, (measure, name) in zip(axes, columns.items(), strict=True):
            for label, values in results.items():
                style = {
                    **findings.looks[label],
                    "linestyle": "none",
                    "markersize": 7,
                    "capsize": 2.5,
                    "label": marked(label, label in whole),
                }
                spread = stdev(values) if len(values) > 1 else None
                axis.errorbar(measured[measure][label], mean(values), yerr=spread, **style)
            axis.set_xlabel(name)
        axes[0].set_ylabel(f"{axis_of(cells)} (%)")
        legend(figure)
        yield named("accuracy_cost", group), figure
