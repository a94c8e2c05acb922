"""How a suite's figures look: rows, panels, bands, marks, legends.

A row has the same colour, line and marker in all of a suite's figures, and differs from others in grey, too.
"""

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from bench.report.frame import Summary

Look = dict[str, Any]  # a line's colour, style and marker, as matplotlib takes them
STYLE: dict[Any, Any] = sns.plotting_context("paper", font_scale=0.94) | {
    "text.parse_math": False,  # a label's dollars are dollars
    "axes.unicode_minus": False,
    "axes.titlesize": 8,
    "legend.fontsize": 8,
    "legend.title_fontsize": 8,
    "legend.frameon": False,
    "figure.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
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
BAND_NOTE = "line: mean over seeds; band: one standard deviation to each side"
BAR_NOTE = "mark: mean over seeds; bar: one standard deviation to each side"
PARTIAL_SUFFIX, PARTIAL_NOTE = " †", "† not all seeds are there"


def look(number: int) -> Look:
    """Return colour, line style and marker of the row or line with that number."""
    colour, line, marker = (choices[number % len(choices)] for choices in (COLOURS, LINES, MARKERS))
    return {"color": colour, "linestyle": line, "marker": marker}


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
    titles: Sequence[str],
    across: int,
    height: float,
    heading: Iterable[str],
    **settings: Any,  # noqa: ANN401
) -> tuple[Figure, list[Axes]]:
    """Return an empty figure a page wide, with a panel for each title, at most `across` of them side by side.

    A panel with a title of one line is `height` inches high. The heading is the figure's title and, below it, what else
    a reader must know. The settings are those of `Figure.subplots`.
    """
    lines = [line for text in "\n".join(heading).splitlines() for line in textwrap.wrap(text, LINE)]
    panels = ["\n".join(wrapped(line, PANEL_LINE) for line in title.splitlines()) for title in titles]
    height += 0.14 * max(panel.count("\n") for panel in panels)
    across = min(across, len(panels))
    down = math.ceil(len(panels) / across)
    figure = Figure(figsize=(WIDTH, height * down + 0.18 * len(lines)), layout="constrained")
    figure.suptitle("\n".join(lines))
    axes = list(figure.subplots(down, across, squeeze=False, **settings).flat)
    for unused in axes[len(panels) :]:
        unused.remove()
    for axis, panel in zip(axes, panels, strict=False):
        axis.set_title(panel)
    return figure, axes[: len(panels)]


def legend(figure: Figure) -> None:
    """Draw one legend for all panels below them, where it covers no data and takes no room from them."""
    entries: dict[str, Any] = {}
    partial = set()
    for axis in figure.axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            name = label.removesuffix(PARTIAL_SUFFIX)
            entries.setdefault(name, handle)
            if name != label:
                partial.add(name)
        if (of_panel := axis.get_legend()) is not None:
            of_panel.remove()
    if not entries:
        return
    labels = [marked(name, name not in partial) for name in entries]
    width = 0.6 + 0.075 * max(map(len, labels))  # inches: the line, and letters of 8 points
    columns = max(1, min(len(entries), int(WIDTH / width)))
    rows = math.ceil(len(entries) / columns) + bool(partial)
    figure.set_figheight(figure.get_figheight() + 0.18 * rows)
    title = PARTIAL_NOTE if partial else None
    figure.legend(entries.values(), labels, title=title, loc="outside lower center", ncols=columns, handlelength=3.2)


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
    """Draw a row's mean, if it has one, as a line across the panel, with a band likewise; as an error, 100 - mean."""
    if row.mean is None:
        return
    middle = 100 - row.mean if is_error else row.mean
    name = marked(label, row.status == "done")
    axis.axhline(middle, label=name, color=style["color"], linestyle=style["linestyle"])
    if row.std is not None:
        axis.axhspan(middle - row.std, middle + row.std, color=style["color"], alpha=0.1, lw=0)


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
    axis.set(xticks=[], yticks=[], xlabel="", ylabel="")
    axis.spines[:].set_visible(True)
