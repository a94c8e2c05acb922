"""What a suite's searches for settings tell: the best of k trials, the stability of ranks, the sensitivity to settings.

The numbers are those of tuning.md: of the trials of the first rung, on the dev images.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from bench.figures.drawing import LABEL_LINE, grid, wrapped
from bench.figures.findings import Findings
from bench.figures.looks import PLAIN
from bench.plan.model import Choice
from bench.report.tuning import best_of, by_chance, rank_stability, searches, sensitivity
from bench.suite import NONE
from bench.suite.tuning import SHARED
from bench.text import plural

FAR = 1 / 3  # of all places: a row that moves farther has its own colour
TICKS = 1.5  # of numbers of trials, per inch
OTHERS = "other settings"
Searches = Mapping[str, Choice]  # of a pair, by row
Curves = Mapping[str, Sequence[float]]  # the expected best of k trials, for k from 1, by row, the best first


def draw(findings: Findings) -> Iterator[tuple[str, Figure]]:
    """Yield the figures of each pair whose rows have ended two trials or more."""
    for pair, own in searches(findings.frame).items():
        best = dict(sorted(best_of(own).items(), key=lambda one: one[1][::-1], reverse=True))
        if any(len(curve) < 2 for curve in best.values()):
            continue
        epochs = next(iter(own.values())).first_rung[0].epochs
        trials = f"{pair}: {{}} of k trials of {plural(epochs, 'epoch')}"
        yield f"tuning_best_{pair}", _best(findings, trials.format("expected best"), best, own)
        if len(best) > 1:
            yield f"tuning_ranks_{pair}", _ranks(findings, trials.format("place by the expected best"), best)
        if not (correlations := _correlations(own)).empty:
            yield f"tuning_sensitivity_{pair}", _sensitivity(findings, pair, correlations)


def _best(findings: Findings, subject: str, best: Curves, own: Searches) -> Figure:
    """Return a panel for each row, the best first; all others are a grey area."""
    values = np.array(list(best.values()))  # rows by k
    trials = range(1, values.shape[1] + 1)
    dotted = f"; dotted: {NONE}" if NONE in best else ""
    notes = [f"number: after all trials; dashed: own settings{dotted}; grey: lowest to highest row"]
    if any(trial.value is None for choice in own.values() for trial in choice.first_rung if not trial.is_open):
        notes.append("a trial without a result counts as 0 %")
    titles = [f"{label}  {curve[-1]:.2f}" for label, curve in best.items()]
    heading = [findings.title, subject, *notes]
    figure, axes = grid(findings.style, titles, 4, 1.5, heading, sharex=True, sharey=True)
    for axis, (label, curve) in zip(axes, best.items(), strict=True):
        axis.fill_between(trials, values.min(axis=0), values.max(axis=0), color="0.9", lw=0)
        if NONE in best and label != NONE:
            axis.plot(trials, best[NONE], color=PLAIN["color"], linestyle=PLAIN["linestyle"], linewidth=0.8)
        colour = findings.looks[label]["color"]
        if (default := own[label].trials[0].value) is not None:
            axis.axhline(default, color=colour, linestyle="--", linewidth=0.8)
        axis.plot(trials, curve, color=colour, marker=".", linewidth=1.2)
        axis.xaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
        axis.yaxis.set_major_locator(MaxNLocator(nbins=4))
    figure.supxlabel("trials k", size="medium")
    figure.supylabel(f"{_metric(findings)} on the dev images (%)", size="medium")
    return figure


def _ranks(findings: Findings, subject: str, best: Curves) -> Figure:
    """Return a line for each row through its places after k trials, with its name at both ends."""
    values = np.array(list(best.values()))  # rows by k
    places = 1 + (-values).argsort(axis=0, kind="stable").argsort(axis=0)
    rows, most = values.shape
    names = _wrapped(best)
    far = int(FAR * rows) + 1
    note = f"in colour: rows that move {far} places or more; equal rows keep the order on the right"
    figure, (axis,) = grid(findings.style, [""], 1, _height(names), [findings.title, subject, note])
    for label, of_row in zip(best, places, strict=True):
        moves = np.ptp(of_row) >= far
        style = findings.looks[label] if moves else {"color": "0.75", "marker": "."}
        axis.plot(range(1, most + 1), of_row, zorder=2 + moves, **style)
    axis.set_ylim(rows + 0.5, 0.5)
    axis.set_yticks(places[:, 0], names)
    last = [f"{place} {name}" for place, name in enumerate(names, start=1)]
    axis.secondary_yaxis("right").set_yticks(places[:, -1], last)
    taus = rank_stability(list(best.values()))
    shown = sorted({round(k) for k in np.linspace(1, most, int(TICKS * findings.style.width))})
    axis.set_xticks(shown)
    axis.set_xlabel("trials k")
    top = axis.secondary_xaxis("top")
    top.set_xticks(shown, ["" if (tau := taus[k - 1]) is None else f"{tau:.2f}" for k in shown])
    top.set_xlabel(f"Kendall's tau with the order after {most} trials")
    return figure


def _sensitivity(findings: Findings, pair: str, table: pd.DataFrame) -> Figure:
    """Return a panel for each setting that any method has, with a line for each row, and one with the other settings.

    `table` has the correlations of `_correlations`. The order of the rows is that of the last of their panels.
    """
    panels = {name: panel for name in (*SHARED, OTHERS) if not (panel := table[table["panel"] == name]).empty}
    rows = [line for name in reversed(SHARED) if name in panels for line in panels[name]["line"]]
    lines = {name: list(panel["line"] if name == OTHERS else dict.fromkeys(rows)) for name, panel in panels.items()}
    heading = [
        findings.title,
        f"{pair}: rank correlation of settings with {_metric(findings)} on the dev images",
        "to the right: larger values are better; filled: chance alone fills 1 of 20",
    ]
    names = {name: _wrapped(of_panel) for name, of_panel in lines.items()}
    most = max(map(len, lines.values()))
    figure, axes = grid(findings.style, list(panels), 4, max(map(_height, names.values())), heading)
    for axis, (name, panel) in zip(axes, panels.items(), strict=True):
        places = [lines[name].index(line) for line in panel["line"]]
        colours = [findings.looks[label]["color"] for label in panel["label"]]
        inside = [colour if is_sure else "white" for colour, is_sure in zip(colours, panel["is_sure"], strict=True)]
        axis.axvline(0, color="0.6", linewidth=0.8, zorder=1)
        axis.hlines(places, 0, panel["value"], colors=colours, linewidth=0.9)
        axis.scatter(panel["value"], places, s=18, edgecolors=colours, facecolors=inside, zorder=3)
        axis.set_yticks(range(len(lines[name])), names[name])
        axis.tick_params(labelleft=name == OTHERS or axis is axes[0])
        axis.set_ylim(most - 0.5, -0.5)
        axis.set_xlim(-1.15, 1.15)
        axis.set_xticks([-1, 0, 1])
        axis.grid(axis="y", color="0.93")
        axis.set_axisbelow(True)
    figure.supxlabel("Spearman's rank correlation", size="medium")
    return figure


def _correlations(own: Searches) -> pd.DataFrame:
    """Return the correlations of settings with the metric, ascending: by row, with panel and line in the figure."""
    correlations = [
        (label, name if name in SHARED else OTHERS, label if name in SHARED else f"{label} {name}", value)
        for label, choice in own.items()
        for name in choice.space
        if (value := sensitivity(choice, name)) is not None
    ]
    table = pd.DataFrame(correlations, columns=["label", "panel", "line", "value"])
    table["is_sure"] = [abs(value) > by_chance(own[label]) for label, _, _, value in correlations]
    return table.sort_values("value", kind="stable")


def _wrapped(names: Iterable[str]) -> list[str]:
    """Return what is written for names beside a panel."""
    return [wrapped(name, LABEL_LINE) for name in names]


def _height(names: Sequence[str]) -> float:
    """Return the height in inches of a panel with a line for each name."""
    return 1.0 + 0.165 * (1 + 0.6 * max(name.count("\n") for name in names)) * len(names)


def _metric(findings: Findings) -> str:
    """Return the name of the metric that settings are chosen by."""
    return findings.frame.primary[0].title
