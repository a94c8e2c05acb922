"""The metric by each numeric parameter that a grid of a suite spans, with the undistilled student and the default."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.figures.arrangement import name_lines
from bench.figures.drawing import BAND_NOTE, band, grid, level
from bench.figures.findings import Findings, by_number, row_of
from bench.figures.looks import PLAIN, look
from bench.report.summary import Summary
from bench.schedule import Scalar
from bench.spec import RunSpec
from bench.suite import NONE


class Sweep(NamedTuple):
    """Rows of one group that differ in one numeric parameter alone."""

    group: str
    others: Mapping[tuple[int, str], Scalar]  # their other settings; see `_settings`
    rows: Mapping[float, Summary]  # by the parameter's value, ascending


def sweeps(findings: Findings) -> dict[tuple[str, str], list[Sweep]]:
    """Return the sweeps of a suite by method and parameter, which may be `weight`."""
    rows_by: dict[Any, dict[float, Summary]] = {}
    for group, rows in findings.groups.items():
        for row in (row for row in rows if row.cell.choice is None):
            settings = _settings(findings.plan.trained(row.cell.runs[0]))
            for (term, name), value in settings.items():
                if term >= 0 and isinstance(value, int | float) and not isinstance(value, bool):
                    others = tuple((key, other) for key, other in settings.items() if key != (term, name))
                    rows_by.setdefault((settings[term, "method"], name, group, others), {})[value] = row
    sweeps: dict[tuple[str, str], list[Sweep]] = {}
    for (method, name, group, others), by_value in rows_by.items():
        if len(by_value) > 1:
            sweeps.setdefault((method, name), []).append(Sweep(group, dict(others), dict(sorted(by_value.items()))))
    return sweeps


def _settings(run: RunSpec) -> dict[tuple[int, str], Scalar]:
    """Return a row's settings by the position of their term, or -1 for those of no term, and their name."""
    settings: dict[tuple[int, str], Scalar] = {(-1, "task_weight"): run.task_weight, (-1, "combine"): run.combine}
    for place, term in enumerate(run.terms):
        own = {"method": term.method, "weight": term.weight, "warmup": term.warmup or 0, **term.parameters}
        settings |= {(place, name): value for name, value in own.items()}
    return settings


def draw(findings: Findings) -> Iterator[tuple[str, Figure]]:
    """Yield a figure per method and parameter, once two values have a result."""
    for (method_name, name), of_parameter in sweeps(findings).items():
        frames = [(sweep, frame) for sweep in of_parameter if len(frame := by_number(sweep.rows)) > 1]
        if not frames:
            continue
        method = findings.methods[method_name]
        figure, (axis,) = grid(findings.style, [""], 1, 3.4, [findings.title, f"{method.title} by {name}", BAND_NOTE])
        _draw_lines(axis, frames, method.title, findings)
        values = sorted({value for _, frame in frames for value in frame.index})
        default = method.default(name)
        axis.set_xlabel(name)
        if isinstance(default, int | float):
            axis.set_xlabel(f"{name} (default {default:g})")
            if values[0] <= default <= values[-1]:
                axis.axvline(default, color="0.6", linewidth=0.8)
        if values[0] > 0 and values[-1] / values[0] >= 10:  # a decade or more
            axis.set_xscale("log")
        axis.set_xticks(values, [f"{value:g}" for value in values])
        axis.minorticks_off()
        axis.set_ylabel(f"{next(iter(of_parameter[0].rows.values())).title} (%)")
        name_lines([axis])
        yield f"parameter_{method_name}_{name}", figure


def _draw_lines(axis: Axes, frames: Sequence[tuple[Sweep, pd.DataFrame]], title: str, findings: Findings) -> None:
    """Draw a line per sweep, named by what differs between them, or by a title; and the undistilled students.

    Where there are several groups, the line of an undistilled student has the colour of its group's first line.
    """
    settings = [sweep.others for sweep, _ in frames]
    differing = {key for one in settings for key, value in one.items() if value != settings[0].get(key)}
    groups = [sweep.group for sweep, _ in frames]
    has_several = len(set(groups)) > 1
    for number, (sweep, frame) in enumerate(frames):
        parts = [sweep.group] if has_several else []
        parts += [f"{key[1]}={sweep.others[key]}" for key in sorted(differing) if key in sweep.others]
        band(axis, frame, ", ".join(parts) or title, look(number))
    for group in dict.fromkeys(groups):
        style = {**PLAIN, "color": look(groups.index(group))["color"]} if has_several else PLAIN
        level(axis, row_of(NONE, findings.groups[group]), f"{NONE}, {group}" if has_several else NONE, style)
