"""Figures by epoch: learning curves, and what CRD's critic says."""

import re
from collections.abc import Iterator, Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.figures.drawing import BAND_NOTE, TAUGHT, band, by_epoch, grid, legend, level, named
from bench.figures.findings import Findings, axis_of, metric_of, row_of
from bench.plan import Cell
from bench.suite import TEACHER

CRITIC = re.compile(r"term\d+_\w+_critic_(student|teacher)")  # columns of a run's epochs
CRITIC_NOTE = (
    "critic's value: log N less the loss, a lower bound of the embeddings' mutual information "
    "only with negatives=other_sample"
)


def curves(findings: Findings) -> Iterator[tuple[str, Figure]]:
    """Yield each group's metric on the test split, and its loss in training, by epoch.

    The loss is the cross-entropy with the labels, which means the same in each row; the total where there is none.
    """
    for group, cells in findings.groups.items():
        found = [cell for cell in cells if cell.method != TEACHER and not findings.curve(cell, "loss").empty]
        if not found:
            continue
        tested = [cell for cell in found if not findings.curve(cell, metric_of(cell)).empty]
        title = f"{findings.plan.suite.title}\n{group}"
        figure, axes = grid(2 if tested else 1, 2, 3.0, title, BAND_NOTE, sharex=True)
        if tested:
            for cell in tested:
                _band(axes[0], cell, metric_of(cell), findings)
            teacher = row_of(TEACHER, cells)
            taught = findings.results(teacher)
            if taught:
                level(axes[0], list(taught.values()), TEACHER, TAUGHT, len(teacher.runs))
            axes[0].set_ylabel(f"{axis_of(found)} on the test split (%)")
        _losses(axes[-1], found, findings)
        for axis in axes:
            by_epoch(axis)
        legend(figure)
        yield named("curves", group), figure


def _losses(axis: Axes, cells: Sequence[Cell], findings: Findings) -> None:
    """Draw cells' losses in training; those of cells with a failed run lie within the others' limits."""
    labelled = not any(findings.curve(cell, "ce").empty for cell in cells)
    loss = "ce" if labelled else "loss"
    failed = [cell for cell in cells if any(findings.has_failed(run) for run in cell.runs)]
    sound = [cell for cell in cells if cell not in failed]
    for cell in sound:
        _band(axis, cell, loss, findings)
    if failed and sound:
        axis.set_ylim(axis.get_ylim())  # a failed one's loss may have grown beyond all bounds
    for cell in failed:
        _band(axis, cell, loss, findings)
    axis.set_ylabel("cross-entropy in training" if labelled else "loss in training")


def _band(axis: Axes, cell: Cell, column: str | None, findings: Findings) -> None:
    band(axis, findings.curve(cell, column), cell.label, findings.looks[cell.label], len(cell.runs))


def critics(findings: Findings) -> Iterator[tuple[str, Figure]]:
    """Yield the critic's value by epoch, of student anchors and of teacher anchors, a figure a pair."""
    by_pair = {cells[0].pair: cells for cells in findings.groups.values()}  # evaluations share what was trained
    for pair, cells in by_pair.items():
        found = {cell.label: _critics(cell, findings) for cell in cells}
        sides = [side for side in ("student", "teacher") if any(side in of_row for of_row in found.values())]
        if not sides:
            continue
        title = f"{findings.plan.suite.title}\n{pair}"
        figure, axes = grid(len(sides), 2, 3.0, title, f"{BAND_NOTE}\n{CRITIC_NOTE}", sharey=True)
        for axis, side in zip(axes, sides, strict=True):
            for cell in cells:
                if side in found[cell.label]:
                    band(axis, found[cell.label][side], cell.label, findings.looks[cell.label], len(cell.runs))
            axis.set_title(f"{side} anchors")
            by_epoch(axis)
        axes[0].set_ylabel("critic's value (nats)")
        legend(figure)
        yield named("critic", pair), figure


def _critics(cell: Cell, findings: Findings) -> dict[str, pd.DataFrame]:
    """Return a cell's critic by side, a row an epoch, a column a seed; of several teachers, the mean."""
    sides: dict[str, dict[int, pd.Series]] = {}
    for run in cell.runs:
        frame = findings.epochs.get(findings.plan.trained(run).id, pd.DataFrame())
        columns: dict[str, list[str]] = {}
        for name in frame.columns:
            match = CRITIC.fullmatch(name)
            if match is not None:
                columns.setdefault(match[1], []).append(name)
        for side, names in columns.items():
            sides.setdefault(side, {})[run.seed] = frame[names].mean(axis=1)
    return {side: pd.DataFrame(seeds) for side, seeds in sides.items()}
