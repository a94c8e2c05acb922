"""Figures by epoch: learning curves, and what CRD's critic says."""

import re
from collections.abc import Iterator

import pandas as pd
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
        seeds = {cell.label: len(cell.runs) for cell in found}
        losses = {cell.label: findings.curve(cell, "ce") for cell in found}
        labelled = not any(frame.empty for frame in losses.values())
        if not labelled:
            losses = {cell.label: findings.curve(cell, "loss") for cell in found}
        tested = {cell.label: frame for cell in found if not (frame := findings.curve(cell, metric_of(cell))).empty}
        title = f"{findings.plan.suite.title}\n{group}"
        figure, axes = grid(2 if tested else 1, 2, 3.0, title, BAND_NOTE, sharex=True)
        if tested:
            for label, frame in tested.items():
                band(axes[0], frame, label, findings.looks[label], seeds[label])
            teacher = row_of(TEACHER, cells)
            if taught := findings.results(teacher):
                level(axes[0], list(taught.values()), TEACHER, TAUGHT, len(teacher.runs))
            axes[0].set_ylabel(f"{axis_of(found)} on the test split (%)")
        failed = {cell.label for cell in found if any(map(findings.has_failed, cell.runs))}
        for label in sorted(losses, key=failed.__contains__):
            if label in failed < losses.keys():  # it may have grown beyond all bounds
                axes[-1].set_ylim(axes[-1].get_ylim())
            band(axes[-1], losses[label], label, findings.looks[label], seeds[label])
        axes[-1].set_ylabel("cross-entropy in training" if labelled else "loss in training")
        for axis in axes:
            by_epoch(axis)
        legend(figure)
        yield named("curves", group), figure


def critics(findings: Findings) -> Iterator[tuple[str, Figure]]:
    """Yield the critic's value by epoch, of student anchors and of teacher anchors, a figure a pair."""
    by_pair = {cells[0].pair: cells for cells in findings.groups.values()}  # evaluations share what was trained
    for pair, cells in by_pair.items():
        found = {(side, cell.label): frame for cell in cells for side, frame in _critics(cell, findings).items()}
        sides = [side for side in ("student", "teacher") if any(side == one for one, _ in found)]
        if not sides:
            continue
        figure, axes = grid(
            len(sides), 2, 3.0, f"{findings.plan.suite.title}\n{pair}", f"{BAND_NOTE}\n{CRITIC_NOTE}", sharey=True
        )
        for axis, side in zip(axes, sides, strict=True):
            for cell in cells:
                if (side, cell.label) in found:
                    band(axis, found[side, cell.label], cell.label, findings.looks[cell.label], len(cell.runs))
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
        columns = [(match[1], name) for name in frame.columns if (match := CRITIC.fullmatch(name))]
        for side in dict.fromkeys(side for side, _ in columns):
            own = frame[[name for one, name in columns if one == side]]
            sides.setdefault(side, {})[run.seed] = own.mean(axis=1)
    return {side: pd.DataFrame(seeds) for side, seeds in sides.items()}
