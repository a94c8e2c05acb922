"""Learning curves: the metric on the test split and the loss in training, by epoch, for each pair and evaluation.

The loss is the cross-entropy with the labels, which means the same in each row; the total loss where there is none.
"""

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from bench.figures.arrangement import name_lines
from bench.figures.drawing import BAND_NOTE, PARTIAL_NOTE, band, by_epoch, grid, level, marked, number_edges
from bench.figures.findings import Findings, row_of
from bench.figures.looks import PLAIN, TAUGHT
from bench.report.summary import Summary
from bench.suite import NONE, TEACHER

MAX_TOGETHER = 7  # rows that one panel shows
OTHERS_NOTE = "grey: from the lowest to the highest mean of all rows; dotted: the undistilled student"
CUT = 0.15  # of the values, those of the first epochs, that the panels of single rows need not show
Curves = Mapping[str, pd.DataFrame]


def draw(findings: Findings) -> Iterator[tuple[str, Figure]]:
    """Yield a figure per group in which a student has trained for an epoch.

    More than `MAX_TOGETHER` rows have a panel each, the best first, and their losses a figure of its own.
    """
    for group, rows in findings.groups.items():
        runs = {row.label: row.cell.runs for row in rows if row.cell.method != TEACHER}
        totals, labelled = findings.curves(runs, "loss"), findings.curves(runs, "ce")
        if not totals:
            continue
        has_labels = totals.keys() == labelled.keys()
        losses = labelled if has_labels else totals
        tested = findings.curves(runs, rows[0].recorded)
        failed = {label for label in losses if any(findings.store.failure(run.id) for run in runs[label])}
        title = f"{rows[0].title} on the test split (%)"
        loss_title = "cross-entropy in training" if has_labels else "loss in training"
        if len(losses) <= MAX_TOGETHER:
            yield f"curves_{group}", _together(findings, group, tested, losses, failed, (title, loss_title))
            continue
        if tested:
            falls = rows[0].kind.lower_is_better
            yield f"curves_{group}", _apart(findings, group, tested, failed, title, falls, row_of(TEACHER, rows))
        yield f"curves_loss_{group}", _apart(findings, group, losses, failed, loss_title, falls=True)


def _together(
    findings: Findings, group: str, tested: Curves, losses: Curves, failed: Iterable[str], titles: tuple[str, str]
) -> Figure:
    """Return a panel with all rows' metric, and one with their losses; those of failed rows may leave it."""
    heading = [findings.title, group, BAND_NOTE]
    figure, axes = grid(findings.style, ["", ""] if tested else [""], 2, 3.0, heading, sharex=True)
    for label, curve in tested.items():
        band(axes[0], curve, label, findings.looks[label])
    if tested:
        level(axes[0], row_of(TEACHER, findings.groups[group]), TEACHER, TAUGHT)
        axes[0].set_ylabel(titles[0])
    for label in sorted(losses, key=lambda label: label in failed):
        if label in failed and set(losses) - set(failed):
            axes[-1].set_ylim(axes[-1].get_ylim())  # those of the others: it may have grown without bound
        band(axes[-1], losses[label], label, findings.looks[label])
    axes[-1].set_ylabel(titles[1])
    by_epoch(axes)
    name_lines(axes)
    return figure


def _apart(
    findings: Findings,
    group: str,
    curves: Curves,
    failed: Iterable[str],
    title: str,
    falls: bool,
    teacher: Summary | None = None,
) -> Figure:
    """Return a panel for each row, by its last value, the best first; all others are a grey area."""
    means = pd.DataFrame({label: curve.mean(axis=1) for label, curve in curves.items()}).sort_index()
    last = {label: float(means[label].dropna().iloc[-1]) for label in curves}
    ordered = sorted(last, key=lambda label: (label in failed, last[label] if falls else -last[label]))
    sound = means[[label for label in curves if label not in failed] or list(curves)]
    values = sound.to_numpy()[np.isfinite(sound.to_numpy())]
    low, high = np.quantile(values, (0, 1 - CUT) if falls else (CUT, 1))
    room = 0.05 * (high - low) or 1.0
    dashed = "" if teacher is None else "; dashed: the teacher"
    heading = [findings.title, f"{group}: {title}", BAND_NOTE, f"{OTHERS_NOTE}{dashed}"]
    whole = {label: bool(curve.notna().all(axis=None)) for label, curve in curves.items()}
    titles = [f"{marked(label, whole[label])}  {last[label]:.2f}" for label in ordered]
    heading += [] if all(whole.values()) else [PARTIAL_NOTE]
    figure, axes = grid(findings.style, titles, 4, 1.6, heading)
    lowest, highest = sound.min(axis=1), sound.max(axis=1)
    for axis, label in zip(axes, ordered, strict=True):
        axis.fill_between(sound.index, lowest, highest, color="0.87", lw=0)
        if NONE in means and label != NONE:
            axis.plot(means[NONE], color=PLAIN["color"], linestyle=PLAIN["linestyle"], linewidth=0.8)
        style = {"color": findings.looks[label]["color"], "linewidth": 1.0}
        if len(curves[label]) == 1:  # a line of one point would not be visible
            style |= {"marker": "o", "markersize": 4.0}
        band(axis, curves[label], f"_{label}", style)
        if teacher is not None:
            level(axis, teacher, f"_{TEACHER}", TAUGHT)
        axis.set_ylim(low - room, high + room)
        axis.yaxis.set_major_locator(MaxNLocator(nbins=4))
    by_epoch(axes)
    epochs = [edge for axis in axes for edge in axis.get_xlim()]
    for axis in axes:
        axis.set_xlim(min(epochs), max(epochs))
        axis.set_xlabel("")
        axis.xaxis.set_major_locator(MaxNLocator(nbins=3, integer=True))
    number_edges(axes)  # the time of panels with shared axes grows with the square of their number
    figure.supxlabel("epoch", size="medium")
    figure.supylabel(title, size="medium")
    return figure
