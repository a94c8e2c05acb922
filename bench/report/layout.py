"""The rows, columns and marks of a result table, before it is written as Markdown, LaTeX or text."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.report.frame import Frame
    from bench.report.summary import Column, Summary

MAX_LINE, CELL, MAX_COLUMNS = 100, 20, 4  # characters of a page's width and of a cell, and columns on a page
MISSING, PARTIAL = "—", "†"
INCOMPLETE = "not all seeds are finished; see n"
ALL_PAIRS = "all pairs"  # in place of a pair


@dataclass(frozen=True)
class Layout:
    """Methods by row, pairs by column."""

    headings: list[str]  # of each column: its pair, its metric or both
    networks: list[tuple[str, str]]  # (teacher, student) of each column
    metrics: list[str]  # of each column; empty if the whole table is about top-1 accuracy
    rows: list[
        tuple[str, list[tuple[Summary, str, bool]]]
    ]  # (label, (result, mark, whether it is bold) of each column)
    notes: list[tuple[str, str]]  # (mark, meaning)


def layout(frame: Frame, columns: Sequence[Column] | None = None) -> Layout:
    """Return the layout of some columns, or of all."""
    shown = frame.columns if columns is None else columns
    letters: dict[str, str] = {}  # by meaning
    rows = []
    for label in frame.labels:
        results = [frame.at(pair, metric, label) for pair, metric in shown]
        rows.append((label, [(one, _mark(one, letters), frame.is_best(one)) for one in results]))
    notes = [(letter, why) for why, letter in letters.items()]
    if any(mark == PARTIAL for _, cells in rows for _, mark, _ in cells):
        notes.append((PARTIAL, INCOMPLETE))
    only_top1 = frame.shown_metrics == {"top1"}
    first = [frame.at(pair, metric, frame.labels[0]).cell for pair, metric in shown]
    return Layout(
        headings=[_heading(pair, metric, frame.has_several_pairs, only_top1) for pair, metric in shown],
        networks=[(cell.teacher, cell.student) for cell in first],
        metrics=[] if only_top1 else [metric for _, metric in shown],
        rows=rows,
        notes=notes,
    )


def _mark(one: Summary, letters: dict[str, str]) -> str:
    """Return the mark of a result; a new reason is given a new letter."""
    if one.status == "done":
        return ""
    if one.status == "partial":
        return PARTIAL
    reason = " ".join(one.reason.split())
    why = f"{one.status}: {reason}" if reason else one.status
    return letters.setdefault(why, _letter(len(letters)))


def _letter(index: int) -> str:
    """Return the letter (a, b, ..., z, aa, ab, ...) at an index from 0."""
    last = chr(ord("a") + index % 26)
    return last if index < 26 else _letter(index // 26 - 1) + last


def _heading(pair: str, metric: str, several_pairs: bool, only_top1: bool) -> str:
    if only_top1:
        return pair
    return f"{pair} {metric}" if several_pairs else metric


def parts(columns: Sequence[Column], labels: Iterable[str]) -> list[Sequence[Column]]:
    """Return columns in as few parts as fit a page's width with the rows' labels, of about equal size."""
    fitting = (MAX_LINE - max(len(label) for label in labels)) // CELL
    count = math.ceil(len(columns) / min(MAX_COLUMNS, max(1, fitting)))
    return [columns[len(columns) * part // count : len(columns) * (part + 1) // count] for part in range(count)]


def number(one: Summary) -> str:
    """Return a result as `75.48 ± 0.21 (3)`, of two seeds as `75.48 (75.33, 75.63)`, of one as `75.48 (1)`."""
    if one.n == 2:  # a deviation of two values says less than the values
        return f"{one.mean:.2f} ({', '.join(f'{value:.2f}' for value in one.by_seed.values())})"
    spread = "" if one.std is None else f" ± {one.std:.2f}"
    return f"{one.mean:.2f}{spread} ({one.n})"


def span(values: Sequence[float], form: str = "{:.2f}") -> str:
    """Return the lowest and the highest value as text, or the only one; "" without any."""
    if not values:
        return ""
    low, high = form.format(min(values)), form.format(max(values))
    return low if low == high else f"{low} to {high}"


def p_value(p: float | None) -> str:
    """Return a p-value with three decimals; `MISSING` if it is not known."""
    if p is None or not math.isfinite(p):
        return MISSING
    return f"{p:.3f}" if p >= 0.001 else "< 0.001"


@dataclass(frozen=True)
class Style:
    """How a format writes plain text, a mark, and the numbers of the best methods and of the others."""

    text: Callable[[str], str]
    mark: Callable[[str], str]
    best: Callable[[str], str]
    number: Callable[[str], str] = str
    dash: str = MISSING

    def cell(self, one: Summary, mark: str, is_best: bool) -> str:
        """Return a result: its number, set off if it is among the best, its arrow against KD, and its mark."""
        text = self.dash
        if one.mean is not None:
            text = self.number(number(one))
            arrow = self.text(f" ({one.arrow})") if one.arrow else ""
            text = (self.best(text) if is_best else text) + arrow
        return text + (self.mark(mark) if mark else "")

    def note(self, mark: str, meaning: str) -> str:
        """Return a mark and its meaning."""
        return f"{self.mark(mark)} {self.text(meaning)}"
