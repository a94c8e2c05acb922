"""Figures of the last epochs' numbers: gains, ranks, a metric by a parameter or by the number of teachers."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

import pandas as pd
import scikit_posthocs
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from scipy import stats

from bench.figures.drawing import (
    BAND_NOTE,
    COLOURS,
    LABEL_LINE,
    PANEL_LINE,
    PARTIAL_NOTE,
    PLAIN,
    Look,
    band,
    grid,
    legend,
    level,
    look,
    marked,
    named,
    wrapped,
)
from bench.figures.findings import Findings, axis_of, group_of, row_of
from bench.plan import Cell, Plan
from bench.report.statistics import LEVEL, rankings
from bench.spec import RunSpec, Scalar
from bench.suite import NONE, TEACHER
from methods import Method

# gain over the undistilled student


def gains(findings: Findings) -> Iterator[tuple[str, Figure]]:
    """Yield what each row gains over the undistilled student of the same seed: a panel a pair, and one over all.

    What is judged in several ways has as many panels of each.
    """
    of_groups = {}
    for group, cells in findings.groups.items():
        rows = _gains(cells, findings)
        if rows:
            of_groups[group] = rows
    if not of_groups:
        return
    measures = {group: axis_of(findings.groups[group]) for group in of_groups}
    over_all = {}
    for name, groups in _over_all(of_groups, findings).items():
        over_all[name] = _means([of_groups[group] for group in groups])
        measures[name] = measures[groups[0]]
    panels = of_groups | over_all
    labels = [label for label in findings.looks if any(label in rows for rows in panels.values())]
    seeds = len(findings.plan.suite.seed_list)
    whole = {label for label in labels if all(len(rows.get(label, ())) == seeds for rows in of_groups.values())}
    names = [wrapped(marked(label, label in whole), LABEL_LINE) for label in labels]
    titles = {group: wrapped(group, PANEL_LINE) for group in panels}
    marks = "seeds; of all pairs: pairs" if over_all else "seeds"
    note = f"bar: mean with its {LEVEL:.0%} interval (Student's t); small marks: {marks}"
    if len(whole) < len(labels):
        note += f"\n{PARTIAL_NOTE}"
    title = f"{findings.plan.suite.title}\ngain over the undistilled student of the same seed"
    title_breaks = max(text.count("\n") for text in titles.values())
    name_breaks = max(text.count("\n") for text in names)
    height = 1.0 + 0.14 * title_breaks + 0.2 * (1 + 0.6 * name_breaks) * len(labels)
    figure, axes = grid(len(panels), 3, height, title, note, sharey=True)
    for axis, (group, rows) in zip(axes, panels.items(), strict=True):
        axis.axvline(0, color="0.6", linewidth=0.8)
        for place, label in enumerate(labels):
            if label in rows:
                _strip(axis, rows[label], place, findings.looks[label])
        axis.set_title(titles[group])
        axis.set_xlabel(f"points of {measures[group]}", size=8)
        axis.set_yticks(range(len(labels)), names, size=8)
        axis.set_ylim(len(labels) - 0.5, -0.5)
        axis.grid(axis="y", color="0.9")
        axis.set_axisbelow(True)
    yield "gain", figure


def _over_all(groups: Iterable[str], findings: Findings) -> dict[str, list[str]]:
    """Return the groups that a panel over all pairs is about, by its name: those of an evaluation, if several."""
    by_evaluation: dict[str, list[str]] = {}
    for group in groups:
        evaluation = findings.groups[group][0].evaluation
        by_evaluation.setdefault(evaluation, []).append(group)
    return {f"all pairs {one}".strip(): alike for one, alike in by_evaluation.items() if len(alike) > 1}


def _means(groups: Iterable[Mapping[str, Sequence[float]]]) -> dict[str, list[float]]:
    """Return each row's mean gain in every group that has the row, by label."""
    found: dict[str, list[float]] = {}
    for rows in groups:
        for label, values in rows.items():
            found.setdefault(label, []).append(mean(values))
    return found


def _gains(cells: Sequence[Cell], findings: Findings) -> dict[str, list[float]]:
    """Return each row's gains in points, one a seed that both it and the undistilled student have, by label."""
    plain = findings.results(row_of(NONE, cells))
    rows: dict[str, list[float]] = {}
    for cell in cells:
        if cell.method in (TEACHER, NONE):
            continue
        paired = [value - plain[seed] for seed, value in findings.results(cell).items() if seed in plain]
        if paired:
            rows[cell.label] = paired
    return rows


def _strip(axis: Axes, values: Sequence[float], place: float, style: Look) -> None:
    """Draw values as dots, and beneath their mean with its interval."""
    marks = {"color": style["color"], "marker": style["marker"]}
    axis.plot(values, [place - 0.15] * len(values), linestyle="none", alpha=0.6, markersize=3.5, **marks)
    reach = None
    if len(values) > 1:
        reach = stats.t.ppf((1 + LEVEL) / 2, len(values) - 1) * stdev(values) / len(values) ** 0.5
    axis.errorbar(mean(values), place + 0.18, xerr=reach, capsize=2.5, markersize=5, **marks)


# ranks over pairs


def ranks(findings: Findings) -> Iterator[tuple[str, Figure]]:
    """Yield the mean ranks over pairs, with bars over rows that Nemenyi's test does not tell apart, by metric."""
    for metric, (found, left_out) in rankings(findings.frame).items():
        if isinstance(found, str):
            continue
        title = f"{findings.plan.suite.title}\nmean rank in {metric} over {found.blocks} pairs, 1 is the best"
        note = f"bars join rows that do not differ at {1 - LEVEL:.0%} (Nemenyi)"
        if math.isfinite(found.p):  # not where all rows tie in all pairs
            note += f"; Friedman's test: p = {found.p:.2g}"
        if left_out:
            note += f"\nleft out: {', '.join(left_out)}"
        figure, (axis,) = grid(1, 1, 1.4 + 0.16 * len(found.labels), title, note)
        scikit_posthocs.critical_difference_diagram(
            dict(zip(found.labels, found.ranks, strict=True)),
            pd.DataFrame(found.nemenyi, index=list(found.labels), columns=list(found.labels)),
            alpha=1 - LEVEL,
            ax=axis,
            label_fmt_left="{label}  {rank:.2f} ",
            label_fmt_right=" {rank:.2f}  {label}",
            text_h_margin=0.03 * len(found.labels),
            label_props={"size": 8},
            marker_props={"s": 14},
            elbow_props={"color": "0.2", "linewidth": 0.9},
            crossbar_props={"color": COLOURS[0], "linewidth": 3},
        )
        reach = found.critical_difference / 2  # the library's own bar lies over the numbers of the axis
        middle = min(found.ranks) + reach
        axis.errorbar(middle, 1.9, xerr=reach, color="0.2", capsize=3)
        axis.text(middle, 2.1, f"critical difference {found.critical_difference:.2f}", ha="center", va="bottom", size=8)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.spines["top"].set_visible(True)
        yield named("critical_difference", metric), figure


# a metric by a parameter


@dataclass(frozen=True)
class Sweep:
    """Cells of one group that differ in one numeric parameter alone.

    Attributes:
        group: their pair, and their evaluation.
        rest: the rows' other settings, by place and name: see `_settings`.
        cells: by the parameter's value, ascending.
    """

    group: str
    rest: Mapping[tuple[int, str], Scalar]
    cells: Mapping[float, Cell]


def sweeps(plan: Plan) -> dict[tuple[str, str], list[Sweep]]:
    """Return the sweeps of a plan by (method, parameter or `weight`)."""
    groups: dict[Any, dict[float, Cell]] = {}
    for cell in plan.cells:
        trained = plan.trained(cell.runs[0])
        settings = _settings(trained)
        for (term, name), value in settings.items():
            if term < 0 or isinstance(value, bool) or not isinstance(value, int | float):
                continue
            method = trained.terms[term].method
            rest = tuple((key, other) for key, other in settings.items() if key != (term, name))
            groups.setdefault((method, name, group_of(cell), rest), {})[value] = cell
    found: dict[tuple[str, str], list[Sweep]] = {}
    for (method, name, group, rest), cells in groups.items():
        if len(cells) > 1:
            ascending = dict(sorted(cells.items()))
            found.setdefault((method, name), []).append(Sweep(group, dict(rest), ascending))
    return found


def _settings(run: RunSpec) -> dict[tuple[int, str], Scalar]:
    """Return all that a row sets, by its term's place, or -1 for what is about none of them, and its name."""
    found: dict[tuple[int, str], Scalar] = {(-1, "task_weight"): run.task_weight, (-1, "combine"): run.combine}
    for place, term in enumerate(run.terms):
        found[place, "method"] = term.method
        found[place, "weight"] = term.weight
        for name, value in term.parameters.items():
            found[place, name] = value
    return found


def parameters(findings: Findings, methods: Mapping[str, Method]) -> Iterator[tuple[str, Figure]]:
    """Yield the metric by each parameter that a grid spans, with the undistilled student and the default."""
    for (method, name), found in sweeps(findings.plan).items():
        drawn = []
        for sweep in found:
            frame = _by_number(sweep.cells, findings)
            if len(frame) > 1:
                drawn.append((sweep, frame))
        if not drawn:
            continue
        own = methods[method]
        figure, (axis,) = grid(1, 1, 3.4, f"{findings.plan.suite.title}\n{own.title} by {name}", BAND_NOTE)
        _draw_sweeps(axis, drawn, own.title)
        _draw_students(axis, [sweep.group for sweep, _ in drawn], findings)
        places = sorted({value for _, frame in drawn for value in frame.index})
        default = own.weight if name == "weight" else own.parameters[name].default
        axis.set_xlabel(name)
        if isinstance(default, int | float):
            axis.set_xlabel(f"{name} (default {default:g})")
            if places[0] <= default <= places[-1]:
                axis.axvline(default, color="0.6", linewidth=0.8, label="default")
        _scale(axis, places)
        first, _ = drawn[0]
        axis.set_ylabel(f"{axis_of(first.cells.values())} (%)")
        legend(figure)
        yield named("parameter", f"{method}_{name}"), figure


def _draw_sweeps(axis: Axes, drawn: Sequence[tuple[Sweep, pd.DataFrame]], title: str) -> None:
    """Draw a line a sweep, called by what tells it from the others; a single one by a title."""
    first, _ = drawn[0]
    differing = {key for sweep, _ in drawn for key, value in sweep.rest.items() if value != first.rest.get(key)}
    several_groups = len({sweep.group for sweep, _ in drawn}) > 1
    for number, (sweep, frame) in enumerate(drawn):
        parts = [sweep.group] if several_groups else []
        own = [key for key in sorted(differing) if key in sweep.rest]
        parts += [f"{key[1]}={sweep.rest[key]}" for key in own]
        seeds = len(next(iter(sweep.cells.values())).runs)
        band(axis, frame, ", ".join(parts) or title, look(number), seeds)


def _draw_students(axis: Axes, groups: Sequence[str], findings: Findings) -> None:
    """Draw the undistilled student of each group, in the colour of the group's first line where there are several.

    Args:
        axis: where the lines are.
        groups: of each line.
        findings: of the suite.
    """
    names = list(dict.fromkeys(groups))
    for group in names:
        plain = row_of(NONE, findings.groups[group])
        values = list(findings.results(plain).values())
        if not values:
            continue
        label, style = NONE, PLAIN
        if len(names) > 1:
            label = f"{NONE}, {group}"
            style = {**PLAIN, "color": look(groups.index(group))["color"]}
        level(axis, values, label, style, len(plain.runs))


def _by_number(cells: Mapping[Any, Cell], findings: Findings) -> pd.DataFrame:
    """Return cells' metric in percent: a row a number whose cell has a result, a column a seed."""
    results = {number: findings.results(cell) for number, cell in cells.items()}
    return pd.DataFrame.from_dict({number: found for number, found in results.items() if found}, orient="index")


def _scale(axis: Axes, values: Sequence[float]) -> None:
    """Set the horizontal axis for values, ascending: by factors where they span a decade or more, a tick each."""
    if values[0] > 0 and values[-1] / values[0] >= 10:
        axis.set_xscale("log")
    axis.set_xticks([*values], [f"{value:g}" for value in values])
    axis.minorticks_off()


# several teachers


def ensembles(findings: Findings) -> Iterator[tuple[str, Figure]]:
    """Yield the error by the number of teachers, where pairs differ in that number alone."""
    for group, by_number in sorted(_by_teachers(findings).items()):
        frames: dict[str, pd.DataFrame] = {}
        seeds: dict[str, int] = {}
        for label, style in findings.looks.items():
            if style is PLAIN:
                continue
            of_row = {n: cell for n, cells in sorted(by_number.items()) for cell in cells if cell.label == label}
            frame = _by_number(of_row, findings)
            if not frame.empty:
                frames[label] = 100 - frame
                seeds[label] = max(len(cell.runs) for cell in of_row.values())
        if not any(len(frame) > 1 for frame in frames.values()):
            continue
        figure, (axis,) = grid(1, 1, 3.4, f"{findings.plan.suite.title}\n{group}", BAND_NOTE)
        for label, frame in frames.items():
            shown = "the teachers together" if label == TEACHER else label
            band(axis, frame, shown, findings.looks[label], seeds[label])
        plain = row_of(NONE, next(iter(by_number.values())))
        values = findings.results(plain)
        if values:
            level(axis, [100 - value for value in values.values()], NONE, PLAIN, len(plain.runs))
        axis.set_xticks(sorted(by_number))
        axis.set_xlabel("number of teachers")
        axis.set_ylabel(f"error: 100 - {axis_of([plain])} (%)")
        legend(figure)
        yield named("ensemble", group), figure


def _by_teachers(findings: Findings) -> dict[str, dict[int, list[Cell]]]:
    """Return the groups that differ in the number of teachers alone, by the name of one teacher's, and that number."""
    found: dict[str, dict[int, list[Cell]]] = {}
    for group, cells in findings.groups.items():
        tested = row_of(TEACHER, cells)
        together = findings.plan.trained(tested.runs[0])
        members = [findings.plan.runs[name] for name in together.teachers] or [together]
        networks = {member.student.network for member in members}
        if len(networks) == 1:
            alike = group.replace(tested.teacher, networks.pop(), 1)
            found.setdefault(alike, {})[len(members)] = cells
    return found
