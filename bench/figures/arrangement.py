"""Arranges a figure: its legend, and names beside lines and points, so that none covers another."""

import math
from collections.abc import Iterable, Sequence
from itertools import product
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text
from matplotlib.ticker import FixedFormatter, FixedLocator
from matplotlib.transforms import Bbox

from bench.figures.drawing import PARTIAL_NOTE, PARTIAL_SUFFIX, marked

MAX_NAMED = 14  # lines of a panel that have their names beside it
NAMED = "named"  # marks the texts beside a panel or its points, which `arrange` moves


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
