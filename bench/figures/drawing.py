"""How a suite's figures look: rows, panels, bands, marks, legends.

A row has the same colour, line and marker in all of a suite's figures, and can be told apart in greyscale too.
"""

import math
import textwrap
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, count, product
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text
from matplotlib.ticker import FixedFormatter, FixedLocator, MaxNLocator
from matplotlib.transforms import Bbox

from bench.report.summary import Summary
from bench.types import StyleName

Look = dict[str, Any]  # a line's colour, style and marker, as matplotlib takes them
RC: dict[Any, Any] = sns.plotting_context("paper", font_scale=0.94) | {
    "font.family": "DejaVu Sans",  # that of `sans-serif`; without other choices, which are looked up for each text
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
# Glasbey et al., Colour displays for categorical images, 2007: each colour is far from those before it. The list is
# colorcet's `glasbey_bw_minc_20_maxl_70` (CC BY 4.0), readable on white, without black and its palest colours.
COLOURS = (
    *("#0774d8", "#d60000", "#018700", "#8c3bff", "#e6a500", "#00acc6", "#ff7ed1", "#6b004f", "#573b00", "#005659"),
    *("#15e18c", "#0000dd", "#a17569", "#bf03b8", "#645472", "#790000", "#729a7c", "#ff7752", "#004b00", "#8e7b01"),
    *("#f2007b", "#8eba00", "#a57bb8", "#5901a3", "#a03a52", "#9e4b00", "#546744", "#5e7b87", "#60383b", "#8287ff"),
    *("#e252ff", "#bcb6ff", "#e2afaf", "#a1c8c8"),
)
LINES = ("-", "--", "-.", (0, (4, 1, 1, 1, 1, 1)), (0, (6, 2, 2, 2)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "*", "h", "d")  # 5 and 13: 65 looks in grey, none twice
METHODS = (  # a method's place is its look: add new ones at the end
    *("kd", "fitnet", "at", "sp", "cc", "vid", "rkd", "pkt", "ab", "ft", "fsp", "nst", "crd", "dkd", "dist", "ofd"),
    *("reviewkd", "simkd", "srrl", "nkd", "mlld", "ctkd", "catkd", "itrd", "ttm", "wttm", "crd_local", "ofa"),
)
PLAIN: Look = {"color": "0.35", "linestyle": ":", "marker": "."}  # of `none`
TAUGHT: Look = {"color": "0.0", "linestyle": (0, (8, 2)), "marker": "+"}  # of `teacher`
BAND_NOTE = "line: mean over seeds; band: one standard deviation to each side"
BAR_NOTE = "mark: mean over seeds; bar: one standard deviation to each side"
PARTIAL_SUFFIX, PARTIAL_NOTE = " †", "† not all seeds are there"
MAX_NAMED = 14  # lines of a panel that have their names beside it
NAMED = "named"  # marks the texts beside a panel or its points, which `arrange` moves


def look(number: int) -> Look:
    """Return colour, line style and marker of the row or line with that number."""
    colour, line, marker = (choices[number % len(choices)] for choices in (COLOURS, LINES, MARKERS))
    return {"color": colour, "linestyle": line, "marker": marker}


def looks(rows: Mapping[str, str]) -> dict[str, Look]:
    """Return the look of each row, by label.

    A method at its defaults has the same look in all suites. The look of another row follows from its label, or is the
    next one that is free. No two rows have the same look; of up to 34 rows, no two have the same colour.

    Args:
        rows: the method of each row at its method's defaults, or "", by label.
    """
    numbers: dict[str, int] = {}
    for label, method in rows.items():
        if method in METHODS and METHODS.index(method) not in numbers.values():
            numbers[label] = METHODS.index(method)
    for label in (label for label in rows if label not in numbers):
        start = zlib.crc32(label.encode())
        places = chain(((start + i) % len(COLOURS) for i in range(len(COLOURS))), count(len(COLOURS)))
        numbers[label] = next(place for place in places if place not in numbers.values())
    return {label: look(numbers[label]) for label in rows}


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


def legend(figure: Figure) -> None:
    """Draw one legend for all panels, below them. Lines that are named beside a panel are not in it."""
    entries: dict[str, Any] = {}
    partial = set()
    for axis in figure.axes:
        named = {text.get_text() for text in _names(axis)}
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            name = label.removesuffix(PARTIAL_SUFFIX)
            if label not in named:
                entries.setdefault(name, handle)
            if name != label:
                partial.add(name)
        if (of_panel := axis.get_legend()) is not None:
            of_panel.remove()
    if not entries and not partial:
        return
    labels = [marked(name, name not in partial) for name in entries]
    width = 0.7 + 0.075 * max(map(len, labels), default=0)  # inches: the line, gaps, and letters of 8 points
    rows = math.ceil(len(entries) / max(1, int(figure.get_figwidth() / width)))
    columns = math.ceil(len(entries) / max(1, rows))  # about as many in each row
    figure.set_figheight(figure.get_figheight() + 0.18 * (rows + bool(partial)))
    title = PARTIAL_NOTE if partial else None
    figure.legend(
        entries.values(), labels, title=title, loc="outside lower center", ncols=max(1, columns), handlelength=3.2
    )


def name_lines(axes: Iterable[Axes]) -> None:
    """Write the names of lines beside their panels, unless there are more than `MAX_NAMED`; `arrange` parts them."""
    for axis in axes:
        lines = [line for line in axis.get_lines() if not str(line.get_label()).startswith("_")]
        if len(lines) > MAX_NAMED:
            continue
        low, high = axis.get_ylim()
        axis.set_ylim(low, high)
        for line in lines:
            ends = [y for y in np.asarray(line.get_ydata(), dtype=float) if math.isfinite(y)]
            if not ends:
                continue
            leader = {"arrowstyle": "-", "color": line.get_color(), "lw": 0.7, "shrinkA": 0, "shrinkB": 0}
            place: dict[str, Any] = {"xy": (1, min(max(ends[-1], low), high)), "xycoords": axis.get_yaxis_transform()}
            place |= {"xytext": (8, 0), "textcoords": "offset points", "va": "center", "annotation_clip": False}
            text = axis.annotate(str(line.get_label()), **place, arrowprops=leader, size="small", gid=NAMED)
            text.set_in_layout(True)


def name_points(axis: Axes, points: Iterable[tuple[str, float, float]]) -> None:
    """Write a name beside each point (name, x, y); `arrange` finds its place."""
    leader = {"arrowstyle": "-", "color": "0.6", "lw": 0.5, "shrinkA": 0, "shrinkB": 3}
    for name, x, y in points:
        place: dict[str, Any] = {
            "xy": (x, y),
            "xytext": (0, 0),
            "textcoords": "offset points",
            "va": "center",
            "ha": "center",
        }
        axis.annotate(name, **place, arrowprops=leader, size="small", gid=NAMED).set_in_layout(False)


def arrange(figure: Figure) -> None:
    """Fix the layout of a figure, and move the names in it so that none covers another."""
    FigureCanvasAgg(figure)  # keeps its renderer; without it, each text would be measured by a new one
    for axis in figure.axes:
        _fix_titles(axis)
    if (engine := figure.get_layout_engine()) is not None:
        engine.execute(figure)
    figure.set_layout_engine(None)  # with any other one, each format is drawn twice
    for axis in figure.axes:
        _fix_ticks(axis)
        if not (names := _names(axis)):
            continue
        if names[0].get_in_layout():
            _part(axis, names)
        else:
            _scatter(axis, names)


def _fix_titles(axis: Axes) -> None:
    """Give an axis' title and its empty labels places: matplotlib would look for them each time it draws the figure."""
    for own in (axis.xaxis, axis.yaxis):
        if not own.get_label_text():
            own.set_label_coords(0, 0)
    axis.yaxis.get_ticklabels()  # formats them
    if not axis.yaxis.get_major_formatter().get_offset():  # stands where the title is, which then moves up
        axis.set_title(axis.get_title(), y=1.0)


def _fix_ticks(axis: Axes) -> None:
    """Keep an axis' ticks, which matplotlib would choose and format again each time it draws the figure."""
    for own in (axis.xaxis, axis.yaxis):
        places, formatter = own.get_majorticklocs().tolist(), own.get_major_formatter()
        fixed = FixedFormatter(formatter.format_ticks(places))
        fixed.set_offset_string(formatter.get_offset())
        own.set_major_locator(FixedLocator(places))
        own.set_major_formatter(fixed)


def _names(axis: Axes) -> list[Annotation]:
    return [text for text in axis.texts if isinstance(text, Annotation) and text.get_gid() == NAMED]


def _part(axis: Axes, names: Sequence[Annotation]) -> None:
    """Move the names beside a panel up and down until each has its own line."""
    per_point = axis.figure.dpi / 72  # pixels
    wanted = sorted(((axis.transData.transform((0, name.xy[1]))[1], name) for name in names), key=lambda one: one[0])
    gap = 1.02 * max(Text.get_window_extent(name).height for name in names)  # without the line to what it names
    places = [y for y, _ in wanted]
    for i in range(1, len(places)):
        places[i] = max(places[i], places[i - 1] + gap)
    places[-1] = min(places[-1], max(axis.bbox.y1, wanted[-1][0]))
    for i in reversed(range(len(places) - 1)):
        places[i] = min(places[i], places[i + 1] - gap)
    for place, (y, name) in zip(places, wanted, strict=True):
        name.set_position((8, (place - y) / per_point))


def _scatter(axis: Axes, names: Sequence[Annotation]) -> None:
    """Move each name to the nearest place around its point where it covers no other name, and no point."""
    per_point = axis.figure.dpi / 72
    centres = [axis.transData.transform(name.xy) for name in names]
    taken = [Bbox.from_extents(x - 4, y - 4, x + 4, y + 4) for x, y in centres]
    for name, (x, y) in zip(names, centres, strict=True):
        box = Text.get_window_extent(name)
        free: list[tuple[float, float, float, Bbox]] = []
        for ring, (across, up) in product(range(1, 9), product((1, -1, 0), (0, 1, -1))):
            dx = across * (box.width / 2 + 5 * ring + 3)
            dy = up * (box.height / 2 + 5 * ring + 3)
            here = Bbox.from_bounds(x + dx - box.width / 2, y + dy - box.height / 2, box.width, box.height)
            is_inside = axis.bbox.x0 <= here.x0 and here.x1 <= axis.bbox.x1 and axis.bbox.y0 <= here.y0
            faults = here.count_overlaps(taken) + (0 if is_inside and here.y1 <= axis.bbox.y1 else 1)
            free.append((faults, ring, len(free), here))
        *_, best = min(free, key=lambda one: one[:3])
        taken.append(best)
        name.set_position((((best.x0 + best.x1) / 2 - x) / per_point, ((best.y0 + best.y1) / 2 - y) / per_point))


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
