"""The panels of a suite's figures, on a page and in a paper, and the bands, levels and marks that are drawn in them."""

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from bench.figures.looks import Look
from bench.report.summary import Summary
from bench.types import StyleName

RC: dict[Any, Any] = sns.plotting_context("paper", font_scale=0.94) | {
    "font.family": "DejaVu Sans",  # that of `sans-serif`; without other choices, which are looked up for each text
    "text.parse_math": False,  # a label's dollars are dollars
    "text.hinting": "none",  # with it, a text is measured narrower than pdf and svg draw it, and is cut at an edge
    "axes.unicode_minus": False,
    "axes.titlesize": 8,
    "legend.fontsize": 8,
    "legend.title_fontsize": 8,
    "legend.frameon": False,
    "figure.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "savefig.dpi": 200,
    "pdf.fonttype": 3,  # takes a fraction of the time of 42
    "svg.hashsalt": "figures",
}
SMALL = dict.fromkeys(("xtick.labelsize", "ytick.labelsize", "legend.fontsize", "legend.title_fontsize"), 7)
NARROW = RC | SMALL | dict.fromkeys(("font.size", "axes.labelsize", "axes.titlesize"), 7.5)
NARROW |= {"pdf.fonttype": 42}  # publishers ask for fonts of this type
NARROW |= {"lines.linewidth": 1.0, "lines.markersize": 3.5, "savefig.dpi": 400}


@dataclass(frozen=True)
class Style:
    """The size of figures and of their text, which is 7 to 10 points high."""

    width: float  # inches
    has_titles: bool  # whether a figure has its heading, which a paper has in its caption
    scale: float  # of a panel's height
    across: Mapping[int, int]  # panels side by side, by their number on a page
    rc: dict[Any, Any]  # matplotlib's settings
    small: float  # points of the smallest text


STYLES: dict[StyleName, Style] = {
    "page": Style(7.0, True, 1.0, {1: 1, 2: 2, 3: 3, 4: 4}, RC, 8.0),
    "paper": Style(3.3, False, 0.75, {1: 1, 2: 1, 3: 2, 4: 3}, NARROW, 7.0),  # the column of a page of two columns
}
LINE, LABEL_LINE = 13, 30  # characters of a title per inch, and of a label beside a panel
BAND_NOTE = "line: mean over seeds; band: one standard deviation to each side"
BAR_NOTE = "mark: mean over seeds; bar: one standard deviation to each side"
PARTIAL_SUFFIX, PARTIAL_NOTE = " †", "† not all seeds are there"


def marked(label: str, is_whole: bool) -> str:
    """Return a row's name, with a † where a mean is drawn of which some seeds are missing."""
    return label if is_whole else label + PARTIAL_SUFFIX


def wrapped(text: str, width: int) -> str:
    """Return a name in lines of so many characters; a pair's name breaks after its arrow, if it must."""
    if len(text) <= width:
        return text
    lines = textwrap.wrap(text.replace("->", "-> "), width, break_on_hyphens=False)
    return "\n".join(lines).replace("-> ", "->")


def grid(
    style: Style,
    titles: Sequence[str],
    across: int,
    height: float,
    heading: Iterable[str],
    **settings: Any,  # noqa: ANN401
) -> tuple[Figure, list[Axes]]:
    """Return an empty figure and its panels.

    Args:
        style: of the figure.
        titles: one per panel.
        across: the most panels that a page has side by side.
        height: of a panel with a title of one line on a page, in inches.
        heading: lines for the figure's title, and below it what else a reader must know; also the figure's label.
        settings: those of `Figure.subplots`.
    """
    most = style.across[across]
    width = style.width / most  # of a panel
    some = (3, 4) if most == 4 else (most,)
    used = min(len(titles), min(some, key=lambda n: (-len(titles) % n, -n)))  # leaves the fewest places empty
    down = math.ceil(len(titles) / used)
    whole = max(used * width, STYLES["paper"].width)  # inches
    panels = ["\n".join(wrapped(line, int(LINE * width)) for line in title.splitlines()) for title in titles]
    height = height * style.scale + 0.14 * max(panel.count("\n") for panel in panels)
    text = "\n".join(heading)
    lines = [line for one in text.splitlines() for line in textwrap.wrap(one, int(LINE * whole))]
    lines = lines if style.has_titles else []
    figure = Figure(figsize=(whole, height * down + 0.18 * len(lines)), layout="constrained", label=text)
    if lines:
        figure.suptitle("\n".join(lines))
    axes = list(figure.subplots(down, used, squeeze=False, **settings).flat)
    for number, unused in enumerate(axes[len(panels) :], start=len(panels)):
        unused.remove()
        axes[number - used].tick_params(labelbottom=True)  # is now the lowest of its column
    for axis, panel in zip(axes, panels, strict=False):
        axis.set_title(panel)
    return figure, axes[: len(panels)]


def band(axis: Axes, frame: pd.DataFrame, label: str, style: Look) -> None:
    """Draw the mean over a frame's columns, one per seed, and a band of a standard deviation to each side.

    `seaborn.lineplot` draws the same 25 times slower: two seconds per panel for 15 rows of 240 epochs.
    """
    mean, deviation = frame.mean(axis=1), frame.std(axis=1)
    step = max(1, len(frame) // 8)
    start = len(axis.get_lines()) % step  # or the markers of lines that coincide would cover each other
    name = marked(label, bool(frame.notna().all(axis=None)))
    axis.plot(frame.index, mean, label=name, markevery=(start, step), **style)
    axis.fill_between(frame.index, mean - deviation, mean + deviation, color=style["color"], alpha=0.15, lw=0)


def level(axis: Axes, row: Summary, label: str, style: Look, is_error: bool = False) -> None:
    """Draw a row's mean, if it has one, as a line across the panel; as an error, 100 - mean.

    Its band is as wide as what the panel shows already.
    """
    if row.mean is None:
        return
    middle = 100 - row.mean if is_error else row.mean
    name = marked(label, row.status == "done")
    axis.axhline(middle, label=name, color=style["color"], linestyle=style["linestyle"])
    if row.std is not None and axis.get_lines()[:-1]:
        shown = axis.dataLim.intervalx
        axis.fill_between(shown, middle - row.std, middle + row.std, color=style["color"], alpha=0.1, lw=0)


def marks(axis: Axes, frame: pd.DataFrame, looks: Mapping[str, Look], **settings: Any) -> None:  # noqa: ANN401
    """Draw a mark for each row of a frame, in the look of its `label`; with settings of `seaborn.scatterplot`."""
    shown = {label: style for label, style in looks.items() if label in set(frame["label"])}
    colours = {label: style["color"] for label, style in shown.items()}
    markers = {label: style["marker"] for label, style in shown.items()}
    order = {"hue": "label", "hue_order": list(shown), "style": "label", "style_order": list(shown)}
    sns.scatterplot(frame, **order, palette=colours, markers=markers, linewidth=0, ax=axis, **settings)


def by_epoch(axes: Iterable[Axes]) -> None:
    """Label the horizontal axes of panels as epochs: whole numbers, even if there is only one."""
    for axis in axes:
        axis.set_xlabel("epoch")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def unscaled(axis: Axes) -> None:
    """Replace a panel's scales by a frame."""
    for own in (axis.xaxis, axis.yaxis):
        own.set_visible(False)  # without ticks alone, drawing it takes as long as with some
    axis.spines[:].set_visible(True)


def number_edges(axes: Sequence[Axes]) -> None:
    """Leave the numbers of panels with equal scales only at the left and at the bottom of their grid."""
    lowest = {axis.get_subplotspec().colspan.start: axis for axis in axes}  # type: ignore[union-attr]
    for axis in axes:
        axis.label_outer()
    for axis in lowest.values():
        axis.tick_params(labelbottom=True)  # below it, there may be no panel
