"""Output of `run`, `report` and `cost`: results and costs as tables. Imports no torch."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.cells import cell_len
from rich.console import RenderableType
from rich.markup import render
from rich.table import Column, Table

from bench.report.caption import caption
from bench.report.folder import EPOCHS, FIGURES, PAGE, STATISTICS, TABLES, TUNING
from bench.report.frame import Frame
from bench.report.layout import MISSING, Style, layout
from bench.report.regime import regime_line
from bench.report.replication import replication
from bench.terminal.markup import escape

if TYPE_CHECKING:
    from bench.cost.rows import PairCosts

TERMINAL = Style(
    text=escape,
    mark=lambda sign: f" {sign}",
    best=lambda text: f"[bold]{text}[/bold]",
)


def results_table(frame: Frame, width: int) -> Iterator[RenderableType]:
    """Yield the table of results, split into several tables if the pairs do not fit into the width."""
    table = layout(frame)
    rows = [[escape(label), *(TERMINAL.cell(*cell) for cell in cells)] for label, cells in table.rows]
    yield f"[bold]{escape(frame.plan.suite.title)}[/bold]"
    yield from in_parts(["method", *map(escape, table.headings)], rows, width)
    for note in table.notes:
        yield TERMINAL.note(*note)
    yield escape(caption(frame))
    if said := regime_line(frame):
        yield escape(said)


def report_lines(frame: Frame, folder: Path) -> Iterator[str]:
    """Yield where the files of a report are, and how its results compare with published ones."""

    def paths(names: Iterable[str]) -> str:
        return escape(", ".join(str(folder / name) for name in names))

    if frame.plan.subfolder and not frame.aside:
        yield f"The suite was changed on the command line: its results have their own folder, {escape(str(folder))}"
    yield f"Tables: {paths(TABLES)}"
    yield f"Statistics: {paths(STATISTICS)}"
    if frame.plan.suite.tuning is not None:
        yield f"Tuning: {paths(TUNING)}"
    if names := sorted(path.stem for path in (folder / FIGURES).glob("*.pdf")):
        yield f"Figures: {paths([FIGURES])} ({escape(', '.join(names))})"
    yield f"Epochs: {paths([EPOCHS])}"
    yield f"Page: {paths([PAGE])}"
    if compared := replication(frame):
        yield escape(compared)


def in_parts(
    heads: Sequence[str], rows: Sequence[Sequence[str]], width: int, justify: Literal["left", "right"] = "left"
) -> Iterator[Table]:
    """Yield one table of all columns if that fits into the width; otherwise several, each with the first column.

    `heads` and `rows` are markup; `justify` applies to all columns but the first.
    """
    first, *columns = zip(heads, *rows, strict=True)
    own, *widths = [max(cell_len(render(text).plain) for text in column) + 3 for column in (first, *columns)]
    while columns:
        fitting = max(1, sum(own + total < width for total in itertools.accumulate(widths)))
        (head, *others), *texts = zip(first, *columns[:fitting], strict=True)
        part = Table(Column(head, overflow="fold"), *(Column(one, justify=justify, overflow="fold") for one in others))
        for row in texts:
            part.add_row(*row)
        yield part
        columns, widths = columns[fitting:], widths[fitting:]


def cost_table(costs: PairCosts, width: int) -> Iterator[RenderableType]:
    """Yield the costs of the rows of a pair and why some rows have none."""

    def shown(value: float | None, digits: int = 1) -> str:
        return MISSING if value is None else f"{value:,.{digits}f}"

    head = f"[bold]{escape(costs.pair)}[/bold]"
    if costs.rows:
        first = costs.rows[0]
        yield f"{head}: teacher {shown(first.teacher_ms)} ms, data {shown(first.data_ms, 2)} ms per step"
        names = ("step ms", "student", "term", "backward", "optimizer", "own %", "peak MB", "parameters", "GFLOP")
        rows = []
        for one in costs.rows:
            times = (one.step_ms, one.student_ms, one.term_ms, one.backward_ms, one.optimizer_ms, one.own_percent)
            counts = (shown(one.peak_mb, 0), shown(one.extra_parameters, 0), shown(one.step_gflop))
            rows.append([escape(one.name), *map(shown, times), *counts])
        yield from in_parts(["row", *names], rows, width, "right")
    else:
        yield head
    for name, reason in costs.inapplicable.items():
        yield escape(f"{name}: inapplicable: {reason}")
    for name, reason in costs.failed.items():
        yield escape(f"{name}: failed: {reason}")
