"""How a suite's figures look: what rows look like, panels, bands, legends.

A row has the same colour, line and marker in all of a suite's figures, so that they can be told apart in grey as well.
"""

import math
import re
import textwrap
from collections.abc import Sequence
from statistics import mean, stdev
from typing import Any

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

Look = dict[str, Any]  # a line's colour, style and marker, as matplotlib takes them
STYLE: dict[Any, Any] = {
    "text.parse_math": False,  # a label's dollars are dollars
    "axes.unicode_minus": False,
    "font.size": 9,
    "axes.titlesize": 9,
    "legend.fontsize": 8,
    "figure.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "lines.linewidth": 1.3,
    "lines.markersize": 4.5,
    "savefig.dpi": 200,
    "pdf.fonttype": 42,
    "svg.hashsalt": "figures",
}
WIDTH = 7.0  # inches: a page's text
LINE, PANEL_LINE, LABEL_LINE = 90, 24, 30  # characters of a title that fit into it, above a panel, and beside one
PALETTE = sns.color_palette("colorblind")
COLOURS = [PALETTE[i] for i in (0, 1, 2, 3, 4, 5, 6, 9)]  # without its grey, and yellow on white
LINES = ("-", "--", "-.", (0, (4, 1, 1, 1, 1, 1)), (0, (6, 2, 2, 2)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "*", "h", "d")  # 8, 5 and 13: 520 looks, none twice
PLAIN: Look = {"color": "0.35", "linestyle": ":", "marker": "."}  # of `none`
TAUGHT: Look = {"color": "0.0", "linestyle": (0, (8, 2)), "marker": "+"}  # of `teacher`
BAND_NOTE = "band: a standard deviation over seeds to each side of the mean"
BAR_NOTE = "bar: a standard deviation over seeds to each side of the mean"
PARTIAL, PARTIAL_NOTE = "†", "† not all seeds are there"


def look(number: int) -> Look:
    """Return colour, line style and marker of the row or line with that number."""
    return {
        "color": COLOURS[number % len(COLOURS)],
        "linestyle": LINES[number % len(LINES)],
        "marker": MARKERS[number % len(MARKERS)],
    }


def named(kind: str, text: str) -> str:
    """Return a figure's file name, without its ending."""
    words = text.replace("->", "-to-")
    return f"{kind}_{re.sub(r'[^A-Za-z0-9.+-]+', '_', words)}"


def marked(label: str, is_whole: bool) -> str:
    """Return a row's name, with a † where a mean is drawn of which not all seeds are there."""
    return label if is_whole else f"{label} {PARTIAL}"


def wrapped(text: str, width: int) -> str:
    """Return a name in lines of so many characters; a pair's breaks at its arrow, if it must."""
    if len(text) <= width:
        return text
    lines = textwrap.wrap(text.replace("->", "-> "), width, break_on_hyphens=False)
    return "\n".join(lines).replace("-> ", "->")


def grid(
    panels: int,
    across: int,
    height: float,
    title: str,
    note: str = "",
    **settings: Any,  # noqa: ANN401
) -> tuple[Figure, list[Axes]]:
    """Return an empty figure a page wide, with its panels.

    Args:
        panels: how many.
        across: the most side by side.
        height: of each, in inches.
        title: of the figure.
        note: what else must be known to read it, beneath the title.
        settings: of `Figure.subplots`.
    """
    across = min(across, panels)
    down = math.ceil(panels / across)
    heading: list[str] = []
    for text in [*title.splitlines(), *note.splitlines()]:
        heading += textwrap.wrap(text, LINE)
    figure = Figure(figsize=(WIDTH, height * down + 0.18 * len(heading)), layout="constrained")
    axes = list(figure.subplots(down, across, squeeze=False, **settings).flat)
    for unused in axes[panels:]:
        figure.delaxes(unused)
    figure.suptitle("\n".join(heading))
    return figure, axes[:panels]


def legend(figure: Figure) -> None:
    """Set one legend below the panels for all of them: it never lies over the data, nor takes room from it."""
    entries: dict[str, Any] = {}
    partial = set()
    for axis in figure.axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            name = label.removesuffix(marked("", False))
            entries.setdefault(name, handle)
            if name != label:
                partial.add(name)
    if not entries:
        return
    labels = [marked(name, name not in partial) for name in entries]
    longest = max(len(label) for label in labels)
    width = 0.6 + 0.075 * longest  # inches: the line, and letters of 8 points
    columns = max(1, min(len(entries), int(WIDTH / width)))
    rows = math.ceil(len(entries) / columns)
    figure.set_figheight(figure.get_figheight() + 0.18 * rows)
    settings: dict[str, Any] = {"loc": "outside lower center", "ncols": columns, "handlelength": 3.2}
    if partial:
        figure.set_figheight(figure.get_figheight() + 0.18)
        settings |= {"title": PARTIAL_NOTE, "title_fontsize": 8}
    figure.legend(entries.values(), labels, **settings)


def band(axis: Axes, frame: pd.DataFrame, label: str, style: Look, seeds: int) -> None:
    """Draw the mean over a frame's columns, of so many seeds, and a band of a standard deviation to each side."""
    is_whole = len(frame.columns) == seeds and bool(frame.notna().all(axis=None))
    middle, deviation = frame.mean(axis=1), frame.std(axis=1)
    step = max(1, len(frame) // 8)
    start = len(axis.get_lines()) % step  # or the markers of lines that run together lie on each other
    axis.plot(frame.index, middle, label=marked(label, is_whole), markevery=(start, step), **style)
    axis.fill_between(frame.index, middle - deviation, middle + deviation, color=style["color"], alpha=0.15, lw=0)


def level(axis: Axes, values: Sequence[float], label: str, style: Look, seeds: int) -> None:
    """Draw a mean, over so many seeds, as a line through the whole panel, and a band likewise."""
    middle = mean(values)
    axis.axhline(middle, label=marked(label, len(values) == seeds), color=style["color"], linestyle=style["linestyle"])
    if len(values) > 1:
        spread = stdev(values)
        axis.axhspan(middle - spread, middle + spread, color=style["color"], alpha=0.1, lw=0)


def by_epoch(axis: Axes) -> None:
    """Make epochs an axis' horizontal one: whole numbers, be it a single one."""
    axis.set_xlabel("epoch")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
