"""What `cost` has measured: the phases of each row's step, and the metric against a step's time and memory."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from bench.figures.arrangement import name_points
from bench.figures.drawing import BAR_NOTE, LABEL_LINE, grid, marked, marks, wrapped
from bench.figures.findings import Findings
from bench.figures.looks import COLOURS
from bench.plan.duration import COST
from bench.store.files import as_written
from bench.suite import TEACHER
from bench.types import RequestError

PHASES = {"student": "", "term": "///", "backward": "...", "optimizer": "xxx"}  # of a step, with their hatches
COSTS = ("data_ms", "teacher_ms", *(f"{phase}_ms" for phase in PHASES), "step_ms", "peak_mb")
AXES = {"step_ms": "ms per step, without teacher and data", "peak_mb": "peak memory of a step (MB)"}


def draw(findings: Findings) -> Iterator[tuple[str, Figure]]:
    """Yield the phases of all rows, then a figure of the metric against costs per group.

    Raises:
        RequestError: cost.csv cannot be read.
    """
    path = findings.frame.folder / COST
    if not path.exists():
        return
    types = dict.fromkeys(("pair", "label", "stage"), str) | dict.fromkeys(COSTS, float)
    empty = {"teacher_ms": ""}  # where no row has a teacher
    try:
        table = pd.read_csv(path, usecols=list(types), dtype=types, keep_default_na=False, na_values=empty)
    except (OSError, ValueError) as error:
        raise RequestError(f"{path}: cannot be read: {error}. Remove it, or measure anew with `cost`") from error
    table["label"] = table["label"].map(as_written)
    table = table[table["pair"].isin([cell.pair for cell in findings.plan.cells])]
    if not table.empty:
        yield "cost", _phases(table, findings)
        yield from _against_cost(table[table["stage"] == "main"], findings)


def _phases(table: pd.DataFrame, findings: Findings) -> Figure:
    """Return a bar per row, its phases end to end, the shortest on top, a panel per pair."""
    labels = table["label"].where(table["stage"] == "main", table["label"] + " (" + table["stage"] + ")")
    table = table.assign(row=[wrapped(label, LABEL_LINE) for label in labels])
    across = 2 if table["row"].str.len().max() <= LABEL_LINE / 2 else 1  # so that the bars have room
    height = 1.1 + 0.24 * table["pair"].value_counts().max() * (1 + 0.6 * table["row"].str.count("\n").max())
    pairs = dict(iter(table.groupby("pair", sort=False)))
    figure, axes = grid(findings.style, [""] * len(pairs), across, height, [findings.title])
    for axis, (pair, own) in zip(axes, pairs.items(), strict=True):
        own = own.iloc[np.argsort(own[[f"{phase}_ms" for phase in PHASES]].sum(axis=1), kind="stable")]
        left = np.zeros(len(own))
        for colour, (phase, hatch) in zip(COLOURS, PHASES.items(), strict=False):
            widths = own[f"{phase}_ms"].to_numpy()
            bar: dict[str, Any] = {"color": colour, "hatch": hatch, "edgecolor": "white", "lw": 0.3, "label": phase}
            axis.barh(range(len(own)), widths, left=left, **bar)
            left += widths
        axis.set_yticks(range(len(own)), own["row"])
        axis.invert_yaxis()
        first = own.iloc[0]
        teacher = "" if pd.isna(first.teacher_ms) else f"teacher {first.teacher_ms:.0f} ms, "
        axis.set_title(f"{wrapped(str(pair), LABEL_LINE)}\n{teacher}data {first.data_ms:.1f} ms once for all rows")
        axis.set_xlabel("ms per step")
    return figure


def _against_cost(table: pd.DataFrame, findings: Findings) -> Iterator[tuple[str, Figure]]:
    """Yield a group's metric against a step's time and peak memory, a mark per row."""
    for group, rows in findings.groups.items():
        costs = table[table["pair"] == rows[0].pair].set_index("label")
        students = [row for row in rows if row.cell.method != TEACHER and row.label in costs.index and row.n]
        looks = {marked(row.label, row.status == "done"): findings.looks[row.label] for row in students}
        if not looks:
            continue
        results = [(row.label, row.mean, row.std or 0.0) for row in students]
        frame = pd.DataFrame(results, columns=["row", "mean", "std"]).join(costs, on="row").assign(label=list(looks))
        low, high = frame["mean"] - frame["std"], frame["mean"] + frame["std"]
        figure, axes = grid(findings.style, ["", ""], 2, 3.0, [findings.title, group, BAR_NOTE], sharey=True)
        for axis, (cost, name) in zip(axes, AXES.items(), strict=True):
            axis.vlines(frame[cost], low, high, [style["color"] for style in looks.values()], zorder=0)
            marks(axis, frame, looks, x=cost, y="mean", s=40, legend=False)
            name_points(axis, zip(looks, frame[cost], frame["mean"], strict=True))
            axis.set(xlabel=name, ylabel="")
        axes[0].set_ylabel(f"{rows[0].title} (%)")
        yield f"accuracy_cost_{group}", figure
