"""Output of `run`, `report` and `cost`: results and costs as tables. Imports no torch."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.console import RenderableType
from rich.markup import render
from rich.table import Column, Table

from bench.report.caption import protocol
from bench.report.frame import Frame
from bench.report.layout import MISSING, Style, layout
from bench.terminal.markup import escape

if TYPE_CHECKING:
    from bench.cost.rows import PairCosts

TERMINAL = Style(
    text=escape,
    mark=lambda sign: f" {sign}",
    best=lambda text: f"[bold]{text}[/bold]",
    second=lambda text: f"[underline]{text}[/underline]",
)


def results_table(frame: Frame, width: int) -> Iterator[RenderableType]:
    """Yield the table of results, split into several tables if the pairs do not fit into the width."""
    table = layout(frame)
    rows = [[escape(label), *(TERMINAL.cell(*cell) for cell in cells)] for label, cells in table.rows]
    first, *columns = zip(["method", *map(escape, table.headings)], *rows, strict=True)
    yield f"[bold]{escape(frame.plan.suite.title)}[/bold]"
    own, *widths = [max(cell_len(render(text).plain) for text in column) + 3 for column in (first, *columns)]
    while columns:
        fitting = max(1, sum(own + total < width for total in itertools.accumulate(widths)))
        heads, *texts = zip(first, *columns[:fitting], strict=True)
        part = Table(*(Column(head, overflow="fold") for head in heads))
        for row in texts:
            part.add_row(*row)
        yield part
        columns, widths = columns[fitting:], widths[fitting:]
    for note in table.notes:
        yield TERMINAL.note(*note)
    yield escape(protocol(frame.plan))


def cost_table(costs: PairCosts) -> Iterator[RenderableType]:
    """Yield the costs of the rows of a pair, and why some rows have none."""

    def shown(value: float | None, digits: int = 1) -> str:
        return MISSING if value is None else f"{value:,.{digits}f}"

    head = f"[bold]{escape(costs.pair)}[/bold]"
    if costs.rows:
        first = costs.rows[0]
        yield f"{head}: teacher {shown(first.teacher_ms)} ms, data {shown(first.data_ms, 2)} ms per step"
        names = ("step ms", "student", "term", "backward", "optimizer", "own %", "peak MB", "parameters", "GFLOP")
        table = Table("row", *(Column(name, justify="right") for name in names))
        for one in costs.rows:
            times = (one.step_ms, one.student_ms, one.term_ms, one.backward_ms, one.optimizer_ms, one.own_percent)
            counts = (shown(one.peak_mb, 0), shown(one.extra_parameters, 0), shown(one.step_gflop))
            table.add_row(escape(one.name), *map(shown, times), *counts)
        yield table
    else:
        yield head
    for name, reason in costs.inapplicable.items():
        yield escape(f"{name}: inapplicable: {reason}")
    for name, reason in costs.failed.items():
        yield escape(f"{name}: failed: {reason}")
