"""From the store to the figures: results/<suite>/figures/, each as pdf, svg and png. Imports no torch, never trains.

A row has the same colour, line and marker in all of a suite's figures, so that they can be told apart in grey as well.
"""

import io
import logging
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from safetensors import SafetensorError, safe_open
from scipy import stats

from bench.plan import Cell, Plan
from bench.report import HEADLINES
from bench.spec import PEER, RunSpec, Scalar, column
from bench.store import OUTPUTS, Store, write_whole
from bench.suite import NONE, TEACHER
from bench.types import RequestError
from methods.catalog import Method

Look = dict[str, Any]  # a line's colour, style and marker, as matplotlib takes them
KINDS = ("pdf", "svg", "png")
METRICS = {"top1": "top-1 accuracy", "miou": "mIoU", "pixel_accuracy": "pixel accuracy"}
CONFIDENCE = 0.95
STYLE: dict[Any, Any] = {
    **{"text.parse_math": False, "axes.unicode_minus": False},  # a label's dollars are dollars
    **{"font.size": 9, "axes.titlesize": 9, "legend.fontsize": 8, "figure.titlesize": 10},
    **{"axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False, "lines.linewidth": 1.3},
    **{"lines.markersize": 4.5, "savefig.dpi": 200, "pdf.fonttype": 42, "svg.hashsalt": "figures"},
}
WIDTH = 7.0  # inches: a page's text
LINE, PANEL_LINE = 90, 24  # characters of a title that fit into it, and above one of four panels
COLOURS = [
    sns.color_palette("colorblind")[i] for i in (0, 1, 2, 3, 4, 5, 6, 9)
]  # without its grey, and yellow on white
LINES = ("-", "--", "-.", (0, (4, 1, 1, 1, 1, 1)), (0, (6, 2, 2, 2)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "*", "h", "d")  # 8, 5 and 13: 520 looks, none twice
PLAIN: Look = {"color": "0.35", "linestyle": ":", "marker": "."}  # of `none`
TAUGHT: Look = {"color": "0.0", "linestyle": (0, (8, 2)), "marker": "+"}  # of `teacher`
CRITIC = re.compile(r"term\d+_\w+_critic_(student|teacher)")  # columns of a run's epochs
BAND_NOTE = "band: a standard deviation over seeds to each side of the mean"
CRITIC_NOTE = (
    "critic's value: log N less the loss, a lower bound of the embeddings' mutual information "
    "only with negatives=other_sample"
)
PHASES = ("student", "term", "backward", "optimizer")  # what `cost` measures of each row's step
COSTS = ("data_ms", "teacher_ms", *(f"{phase}_ms" for phase in PHASES), "step_ms", "peak_mb")


def look(number: int) -> Look:
    """Return colour, line style and marker of the row or line with that number."""
    return {
        "color": COLOURS[number % len(COLOURS)],
        "linestyle": LINES[number % len(LINES)],
        "marker": MARKERS[number % len(MARKERS)],
    }


@dataclass(frozen=True)
class Findings:
    """What a suite's figures are drawn from."""

    plan: Plan
    store: Store

    @cached_property
    def looks(self) -> dict[str, Look]:
        """Return each row's look, by label."""
        methods = dict.fromkeys(cell.label for cell in self.plan.cells if cell.method not in (TEACHER, NONE))
        return {NONE: PLAIN, TEACHER: TAUGHT} | {label: look(number) for number, label in enumerate(methods)}

    @cached_property
    def groups(self) -> dict[str, list[Cell]]:
        """Return the cells that stand side by side, in the table's order: a pair's, of one evaluation.

        Where teachers learn too, figures show the students: the undistilled one is no measure of a teacher.
        """
        found: dict[str, list[Cell]] = {}
        for cell in self.plan.cells:
            if any(name.startswith(column(PEER, "")) for name in cell.metrics.values()):
                continue
            found.setdefault(_group(cell), []).append(cell)
        return found

    @cached_property
    def epochs(self) -> dict[str, pd.DataFrame]:
        """Return the main stage's epochs of each run that has begun, a row each by epoch."""
        runs = [run for cell in self.plan.cells for own in cell.runs for run in (own, self.plan.trained(own))]
        rows = {run_id: self.store.epochs(run_id) for run_id in dict.fromkeys(run.id for run in runs)}
        main = {run_id: [row for row in one if row.get("stage") == "main"] for run_id, one in rows.items()}
        return {run_id: pd.DataFrame(one).set_index("epoch") for run_id, one in main.items() if one}

    def results(self, cell: Cell) -> dict[int, float]:
        """Return the last epoch's metric in percent of each seed that is done; nothing for a cell without a metric."""
        metric = _metric(cell)
        records = {run.seed: self.store.record(run.id) for run in cell.runs} if metric else {}
        return {seed: record["metrics"][metric] for seed, record in records.items() if record is not None}

    def curve(self, cell: Cell, column: str | None) -> pd.DataFrame:
        """Return a column of the epochs' rows: a row an epoch that has it, a column a seed."""
        seeds = {run.seed: self.epochs[run.id] for run in cell.runs if run.id in self.epochs}
        return pd.DataFrame({seed: frame[column] for seed, frame in seeds.items() if column in frame}).dropna(how="all")


def _of(method: str, cells: Iterable[Cell]) -> Cell:
    """Return a pair's cell of its teacher or of the undistilled student, which every plan has."""
    return next(cell for cell in cells if cell.method == method)


def _group(cell: Cell) -> str:
    """Return a cell's pair and, where a row has several evaluations, which of them it is."""
    return f"{cell.pair} {cell.evaluation}".strip()


def _metric(cell: Cell) -> str | None:
    """Return the records' name of the metric that a cell is drawn by: the first that tables show."""
    return next((name for name in cell.metrics.values() if name in HEADLINES), None)


def _axis(cells: Iterable[Cell]) -> str:
    """Return what an axis is called that shows some cells' metric."""
    return METRICS[next(name for cell in cells if (name := _metric(cell)))]


def write(plan: Plan, store: Store, methods: Mapping[str, Method]) -> list[Path]:
    """Write every figure that the store has something for now; return the files.

    Raises:
        RequestError: a file of the store cannot be read, or the folder not written.
    """
    with mpl.rc_context(STYLE):
        return list(_save(plan, store, figures(Findings(plan, store), methods)))


def write_cost(plan: Plan, store: Store) -> list[Path]:
    """Write the figures of cost.csv alone; return the files."""
    with mpl.rc_context(STYLE):
        return list(_save(plan, store, cost(Findings(plan, store))))


def _save(plan: Plan, store: Store, drawn: Iterable[tuple[str, Figure]]) -> Iterator[Path]:
    logging.getLogger("fontTools").setLevel(logging.WARNING)  # it tells of every glyph that a pdf takes
    dates: dict[str, dict[str, None]] = {"pdf": {"CreationDate": None}, "svg": {"Date": None}, "png": {}}
    for name, figure in drawn:
        figure.draw_without_rendering()  # lays it out, once for all kinds
        figure.set_layout_engine("none")
        for kind in KINDS:
            buffer = io.BytesIO()
            figure.savefig(buffer, format=kind, metadata=dates[kind])  # the same store gives the same bytes
            path = store.suite_folder(plan.name) / "figures" / f"{name}.{kind}"
            write_whole(path, buffer.getvalue())
            yield path


def figures(findings: Findings, methods: Mapping[str, Method]) -> Iterator[tuple[str, Figure]]:
    """Yield name and figure of all that the store has something for.

    Args:
        findings: of the suite.
        methods: by name, for their parameters' defaults.
    """
    yield from curves(findings)
    yield from gains(findings)
    yield from parameters(findings, methods)
    yield from ensembles(findings)
    yield from critics(findings)
    yield from correlations(findings)
    yield from cost(findings)


def _named(kind: str, text: str) -> str:
    """Return a figure's file name, without its ending."""
    return f"{kind}_{re.sub(r'[^A-Za-z0-9.+-]+', '_', text.replace('->', '-to-'))}"


def _grid(
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
    down = -(-panels // across)
    heading = [line for text in [*title.splitlines(), *note.splitlines()] for line in textwrap.wrap(text, LINE)]
    figure = Figure(figsize=(WIDTH, height * down + 0.18 * len(heading)), layout="constrained")
    axes = list(figure.subplots(down, across, squeeze=False, **settings).flat)
    for unused in axes[panels:]:
        figure.delaxes(unused)
    figure.suptitle("\n".join(heading))
    return figure, axes[:panels]


def _legend(figure: Figure) -> None:
    """Set one legend below the panels for all of them: it never lies over the data, nor takes room from it."""
    entries: dict[str, Any] = {}
    for axis in figure.axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    if not entries:
        return
    width = 0.6 + 0.075 * max(map(len, entries))  # inches: the line, and letters of 8 points
    columns = max(1, min(len(entries), int(WIDTH / width)))
    figure.set_figheight(figure.get_figheight() + 0.18 * -(-len(entries) // columns))
    settings: dict[str, Any] = {"loc": "outside lower center", "ncols": columns, "handlelength": 3.2}
    figure.legend(entries.values(), entries.keys(), **settings)


def _band(axis: Axes, frame: pd.DataFrame, label: str, style: Look) -> None:
    """Draw the mean over a frame's columns, the seeds, and a band of a standard deviation to each side."""
    middle, deviation = frame.mean(axis=1), frame.std(axis=1)
    step = max(1, len(frame) // 8)
    start = len(axis.get_lines()) % step  # or the markers of lines that run together lie on each other
    axis.plot(frame.index, middle, label=label, markevery=(start, step), **style)
    axis.fill_between(frame.index, middle - deviation, middle + deviation, color=style["color"], alpha=0.15, lw=0)


def _level(axis: Axes, values: Sequence[float], label: str, style: Look) -> None:
    """Draw a mean as a line through the whole panel, and a band of a standard deviation to each side."""
    middle = mean(values)
    axis.axhline(middle, label=label, color=style["color"], linestyle=style["linestyle"])
    if len(values) > 1:
        spread = stdev(values)
        axis.axhspan(middle - spread, middle + spread, color=style["color"], alpha=0.1, lw=0)


def _by_epoch(axis: Axes) -> None:
    """Make epochs an axis' horizontal one: whole numbers, be it a single one."""
    axis.set_xlabel("epoch")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


# learning curves


def curves(findings: Findings) -> Iterator[tuple[str, Figure]]:
    """Yield each group's metric on the test split, and its loss in training, by epoch.

    The loss is the cross-entropy with the labels, which means the same in each row; the total where there is none.
    """
    for group, cells in findings.groups.items():
        found = [cell for cell in cells if cell.method != TEACHER and not findings.curve(cell, "loss").empty]
        if not found:
            continue
        losses = {cell.label: findings.curve(cell, "ce") for cell in found}
        labelled = not any(frame.empty for frame in losses.values())
        if not labelled:
            losses = {cell.label: findings.curve(cell, "loss") for cell in found}
        tested = {cell.label: frame for cell in found if not (frame := findings.curve(cell, _metric(cell))).empty}
        title = f"{findings.plan.suite.title}\n{group}"
        figure, axes = _grid(2 if tested else 1, 2, 3.0, title, BAND_NOTE, sharex=True)
        if tested:
            for label, frame in tested.items():
                _band(axes[0], frame, label, findings.looks[label])
            if taught := findings.results(_of(TEACHER, cells)):
                _level(axes[0], list(taught.values()), TEACHER, TAUGHT)
            axes[0].set_ylabel(f"{_axis(found)} on the test split (%)")
        for label, frame in losses.items():
            _band(axes[-1], frame, label, findings.looks[label])
        axes[-1].set_ylabel("cross-entropy in training" if labelled else "loss in training")
        for axis in axes:
            _by_epoch(axis)
        _legend(figure)
        yield _named("curves", group), figure


# gain over the undistilled student


def gains(findings: Findings) -> Iterator[tuple[str, Figure]]:
    """Yield what each row gains over the undistilled student of the same seed: a panel a pair, and one over all.

    What is judged in several ways has as many panels of each.
    """
    found = {group: _gains(cells, findings) for group, cells in findings.groups.items()}
    found = {group: rows for group, rows in found.items() if rows}
    if not found:
        return
    by_evaluation: dict[str, list[dict[str, list[float]]]] = {}
    for group, rows in found.items():
        by_evaluation.setdefault(findings.groups[group][0].evaluation, []).append(rows)
    over_all = {f"all pairs {one}".strip(): pairs for one, pairs in by_evaluation.items() if len(pairs) > 1}
    for name, pairs in over_all.items():
        found[name] = {}
        for label, values in ((label, values) for rows in pairs for label, values in rows.items()):
            found[name].setdefault(label, []).append(mean(values))
    labels = [label for label in findings.looks if any(label in rows for rows in found.values())]
    marks = "seeds; of all pairs: pairs" if over_all else "seeds"
    note = f"bar: mean with its {CONFIDENCE:.0%} interval (Student's t); small marks: {marks}"
    title = f"{findings.plan.suite.title}\ngain over the undistilled student of the same seed"
    figure, axes = _grid(len(found), 3, 0.9 + 0.2 * len(labels), title, note, sharey=True)
    for axis, (group, rows) in zip(axes, found.items(), strict=True):
        axis.axvline(0, color="0.6", linewidth=0.8)
        for place, label in enumerate(labels):
            if label in rows:
                _strip(axis, rows[label], place, findings.looks[label])
        axis.set_title(group)
        axis.set_yticks(range(len(labels)), labels)
        axis.set_ylim(len(labels) - 0.5, -0.5)
        axis.grid(axis="y", color="0.9")
        axis.set_axisbelow(True)
    figure.supxlabel(f"points of {_axis(findings.plan.cells)}", size=9)
    yield "gain", figure


def _gains(cells: Sequence[Cell], findings: Findings) -> dict[str, list[float]]:
    """Return each row's gains in points, one a seed that both it and the undistilled student have, by label."""
    plain = findings.results(_of(NONE, cells))
    rows: dict[str, list[float]] = {}
    for cell in cells:
        if cell.method not in (TEACHER, NONE):
            paired = [value - plain[seed] for seed, value in findings.results(cell).items() if seed in plain]
            rows |= {cell.label: paired} if paired else {}
    return rows


def _strip(axis: Axes, values: Sequence[float], place: float, style: Look) -> None:
    """Draw values as dots, and beneath their mean with its interval."""
    marks = {"color": style["color"], "marker": style["marker"]}
    axis.plot(values, [place - 0.15] * len(values), linestyle="none", alpha=0.6, markersize=3.5, **marks)
    reach = None
    if len(values) > 1:
        reach = stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1) * stdev(values) / len(values) ** 0.5
    axis.errorbar(mean(values), place + 0.18, xerr=reach, capsize=2.5, markersize=5, **marks)


# a metric by a parameter


@dataclass(frozen=True)
class Sweep:
    """Cells of one group that differ in one numeric parameter alone.

    Attributes:
        group: their pair, and their evaluation.
        rest: the rows' other settings, by term and name.
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
            if isinstance(value, int | float) and not isinstance(value, bool):
                rest = {key: other for key, other in settings.items() if key != (term, name)}
                method = trained.terms[term].method
                groups.setdefault((method, name, _group(cell), tuple(rest.items())), {})[value] = cell
    found: dict[tuple[str, str], list[Sweep]] = {}
    for (method, name, group, rest), cells in groups.items():
        if len(cells) > 1:
            found.setdefault((method, name), []).append(Sweep(group, dict(rest), dict(sorted(cells.items()))))
    return found


def _settings(run: RunSpec) -> dict[tuple[int, str], Scalar]:
    """Return all that a row sets of its terms, by the term's place and the setting's name."""
    found: dict[tuple[int, str], Scalar] = {}
    for place, term in enumerate(run.terms):
        named = {"method": term.method, "weight": term.weight, **term.parameters}
        found |= {(place, name): value for name, value in named.items()}
    return found


def parameters(findings: Findings, methods: Mapping[str, Method]) -> Iterator[tuple[str, Figure]]:
    """Yield the metric by each parameter that a grid spans, with the undistilled student and the default."""
    for (method, name), found in sweeps(findings.plan).items():
        frames = {id(sweep): _swept(sweep, findings) for sweep in found}
        drawn = [sweep for sweep in found if len(frames[id(sweep)]) > 1]
        if not drawn:
            continue
        differing = {key for sweep in drawn for key, value in sweep.rest.items() if value != drawn[0].rest.get(key)}
        names = list(dict.fromkeys(sweep.group for sweep in drawn))
        figure, (axis,) = _grid(1, 1, 3.4, f"{findings.plan.suite.title}\n{methods[method].title} by {name}", BAND_NOTE)
        for number, sweep in enumerate(drawn):
            parts = [sweep.group] if len(names) > 1 else []
            parts += [f"{key[1]}={sweep.rest[key]}" for key in sorted(differing & sweep.rest.keys())]
            _band(axis, frames[id(sweep)], ", ".join(parts) or methods[method].title, look(number))
        for number, group in enumerate(names):
            plain = findings.results(_of(NONE, findings.groups[group]))
            if plain:
                of_group = {"color": look(number)["color"]} if len(names) > 1 else {}
                _level(axis, list(plain.values()), f"{NONE}, {group}" if len(names) > 1 else NONE, PLAIN | of_group)
        values = sorted({value for sweep in drawn for value in frames[id(sweep)].index})
        own = methods[method]
        default = own.weight if name == "weight" else own.parameters[name].default
        axis.set_xlabel(f"{name} (default {default:g})" if isinstance(default, int | float) else name)
        if isinstance(default, int | float) and values[0] <= default <= values[-1]:
            axis.axvline(default, color="0.6", linewidth=0.8, label="default")
        _scale(axis, values)
        axis.set_ylabel(f"{_axis(drawn[0].cells.values())} (%)")
        _legend(figure)
        yield _named("parameter", f"{method}_{name}"), figure


def _swept(sweep: Sweep, findings: Findings) -> pd.DataFrame:
    """Return the metric in percent: a row a value that has a number, a column a seed."""
    results = {value: found for value, cell in sweep.cells.items() if (found := findings.results(cell))}
    return pd.DataFrame.from_dict(results, orient="index")


def _scale(axis: Axes, values: Sequence[float]) -> None:
    """Set the horizontal axis for values, ascending: by factors where they span a decade or more, a tick each."""
    if values[0] > 0 and values[-1] / values[0] >= 10:
        axis.set_xscale("log")
    axis.set_xticks([*values], [f"{value:g}" for value in values])
    axis.minorticks_off()


# several teachers


def ensembles(findings: Findings) -> Iterator[tuple[str, Figure]]:
    """Yield the error by the number of teachers, where pairs differ in that number alone."""
    groups: dict[str, dict[int, list[Cell]]] = {}
    for group, cells in findings.groups.items():
        tested = _of(TEACHER, cells)
        together = findings.plan.trained(tested.runs[0])
        members = [findings.plan.runs[name] for name in together.teachers] or [together]
        networks = {member.student.network for member in members}
        if len(networks) == 1:
            alike = group.replace(tested.teacher, networks.pop(), 1)
            groups.setdefault(alike, {})[len(members)] = cells
    for group, by_number in sorted(groups.items()):
        frames: dict[str, pd.DataFrame] = {}
        for label, style in findings.looks.items():
            of_row = {n: cell for n, cells in by_number.items() for cell in cells if cell.label == label}
            results = {n: found for n, cell in sorted(of_row.items()) if (found := findings.results(cell))}
            if results and style is not PLAIN:
                frames[label] = 100 - pd.DataFrame.from_dict(results, orient="index")
        if max((len(frame) for frame in frames.values()), default=0) < 2:
            continue
        figure, (axis,) = _grid(1, 1, 3.4, f"{findings.plan.suite.title}\n{group}", BAND_NOTE)
        for label, frame in frames.items():
            shown = "the teachers together" if label == TEACHER else label
            _band(axis, frame, shown, findings.looks[label])
        plain = _of(NONE, next(iter(by_number.values())))
        if values := findings.results(plain):
            _level(axis, [100 - value for value in values.values()], NONE, PLAIN)
        axis.set_xticks(sorted(by_number))
        axis.set_xlabel("number of teachers")
        axis.set_ylabel(f"error: 100 - {_axis([plain])} (%)")
        _legend(figure)
        yield _named("ensemble", group), figure


# CRD's critic


def critics(findings: Findings) -> Iterator[tuple[str, Figure]]:
    """Yield the critic's value by epoch, of student anchors and of teacher anchors, a figure a pair."""
    by_pair = {cells[0].pair: cells for cells in findings.groups.values()}  # evaluations share what was trained
    for pair, cells in by_pair.items():
        found = {(side, cell.label): frame for cell in cells for side, frame in _critics(cell, findings).items()}
        sides = [side for side in ("student", "teacher") if any(side == one for one, _ in found)]
        if not sides:
            continue
        figure, axes = _grid(
            len(sides), 2, 3.0, f"{findings.plan.suite.title}\n{pair}", f"{BAND_NOTE}\n{CRITIC_NOTE}", sharey=True
        )
        for axis, side in zip(axes, sides, strict=True):
            for label in [label for one, label in found if one == side]:
                _band(axis, found[side, label], label, findings.looks[label])
            axis.set_title(f"{side} anchors")
            _by_epoch(axis)
        axes[0].set_ylabel("critic's value (nats)")
        _legend(figure)
        yield _named("critic", pair), figure


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


# correlations of logits


def correlations(findings: Findings) -> Iterator[tuple[str, Figure]]:
    """Yield the teacher's less the student's correlations of logits, a panel a row: the first seed that is done."""
    if findings.plan.suite.task == "mutual":
        return  # the row `teacher` is nobody's teacher there
    for group, cells in findings.groups.items():
        students = [cell for cell in cells if cell.method != TEACHER]
        found = {cell.label: _difference(cell, _of(TEACHER, cells), findings) for cell in students}
        panels = {label: matrix for label, matrix in found.items() if matrix is not None}
        if not panels:
            continue
        most = max(float(np.abs(matrix).max()) for matrix in panels.values()) or 1.0
        names = {label: textwrap.wrap(label, PANEL_LINE) for label in panels}
        height = 1.75 + 0.14 * max(map(len, names.values()))
        title = f"{findings.plan.suite.title}\n{group}: correlation of logits, teacher's less student's"
        figure, axes = _grid(len(panels), 4, height, title)
        for axis, (label, matrix) in zip(axes, panels.items(), strict=True):
            image = axis.imshow(matrix, cmap="RdBu", vmin=-most, vmax=most, interpolation="nearest")
            axis.set_title("\n".join([*names[label], f"mean |difference| {np.abs(matrix).mean():.4f}"]), size=8)
            axis.set_xticks([])
            axis.set_yticks([])
            axis.spines[:].set_visible(True)
        figure.colorbar(image, ax=axes, shrink=0.8, aspect=30)
        yield _named("correlation", group), figure


def _difference(cell: Cell, teacher: Cell, findings: Findings) -> np.ndarray | None:
    """Return (K, K), or None: there are several teachers, another test split, or no seed whose outputs are there."""
    for number, run in enumerate(cell.runs):
        tested = teacher.runs[min(number, len(teacher.runs) - 1)]  # one teacher for all seeds, or one each
        same = all(getattr(run.data, key) == getattr(tested.data, key) for key in ("name", "size", "fingerprint"))
        own, taught = (_correlation(one, findings.store) for one in (run, tested))
        if same and own is not None and taught is not None:
            return taught - own
    return None


def _correlation(run: RunSpec, store: Store) -> np.ndarray | None:
    """Return the correlations (K, K) of a run's logits; None if it is not done, or has left no outputs."""
    path = store.folder(run.id) / OUTPUTS
    if store.state(run.id) != "done" or not path.exists():
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            return file.get_tensor("correlation")
    except (OSError, SafetensorError) as error:
        raise RequestError(
            f"{path}: cannot be read ({error}). Copy the whole run folder, or remove this file"
        ) from error


# cost


def cost(findings: Findings) -> Iterator[tuple[str, Figure]]:
    """Yield what `cost` has measured: a step's phases by row, and the metric against time and memory."""
    path = findings.store.suite_folder(findings.plan.name) / "cost.csv"
    if not path.exists():
        return
    try:
        columns = {**dict.fromkeys(COSTS, float), **dict.fromkeys(("pair", "label", "stage"), str)}
        empty = {"teacher_ms": ""}  # where no row listens to a teacher
        table = pd.read_csv(path, usecols=[*columns], dtype=columns, keep_default_na=False, na_values=empty)
    except (OSError, ValueError) as error:
        raise RequestError(f"{path}: cannot be read: {error}. Remove it, or measure anew with `cost`") from error
    known = table[table["pair"].isin([cell.pair for cell in findings.plan.cells])]
    if not known.empty:
        yield "cost", _phases(known, findings)
        yield from _against_cost(known[known["stage"] == "main"], findings)


def _phases(table: pd.DataFrame, findings: Findings) -> Figure:
    """Return a bar a row, its phases end to end, a panel a pair."""
    pairs = list(dict.fromkeys(table["pair"]))
    rows = int(table["pair"].value_counts().max())
    figure, axes = _grid(len(pairs), 1, 0.24 * rows + 1.0, findings.plan.suite.title)
    for axis, pair in zip(axes, pairs, strict=True):
        own = table[table["pair"] == pair]
        places, left = np.arange(len(own)), np.zeros(len(own))
        for phase, colour, hatch in zip(PHASES, COLOURS, ("", "///", "...", "xxx"), strict=False):
            widths = own[f"{phase}_ms"].to_numpy(dtype=float)
            axis.barh(places, widths, left=left, color=colour, hatch=hatch, edgecolor="white", lw=0.3, label=phase)
            left += widths
        names = [
            row if stage == "main" else f"{row} ({stage})" for row, stage in zip(own.label, own.stage, strict=True)
        ]
        axis.set_yticks(places, names)
        axis.invert_yaxis()
        first = own.iloc[0]
        teacher = "" if pd.isna(first.teacher_ms) else f"teacher {first.teacher_ms:.0f} ms, "
        axis.set_title(f"{pair}; {teacher}data {first.data_ms:.1f} ms once for all rows")
        axis.set_xlabel("ms a step")
    _legend(figure)
    return figure


def _against_cost(table: pd.DataFrame, findings: Findings) -> Iterator[tuple[str, Figure]]:
    """Yield a pair's metric against a step's time and most memory, a row each with a mark of its own."""
    for group, every in findings.groups.items():
        measured = table[table["pair"] == every[0].pair].set_index("label")
        cells = [cell for cell in every if cell.label in measured.index]
        results = {cell.label: list(found.values()) for cell in cells if (found := findings.results(cell))}
        if not results:
            continue
        figure, axes = _grid(2, 2, 3.0, f"{findings.plan.suite.title}\n{group}", sharey=True)
        columns = {"step_ms": "ms a step, teacher and data apart", "peak_mb": "peak memory of a step (MB)"}
        for axis, (measure, name) in zip(axes, columns.items(), strict=True):
            for label, values in results.items():
                spread = stdev(values) if len(values) > 1 else None
                style = {**findings.looks[label], "linestyle": "none", "markersize": 7}
                axis.errorbar(measured[measure][label], mean(values), yerr=spread, capsize=2.5, label=label, **style)
            axis.set_xlabel(name)
        axes[0].set_ylabel(f"{_axis(cells)} (%)")
        _legend(figure)
        yield _named("accuracy_cost", group), figure
