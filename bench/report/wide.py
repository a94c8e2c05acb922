"""The main table of the web page: default and tuned results, published numbers and differences from them.

Where a metric has several pairs, a last group of columns averages over them. Imports no torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from bench.report.frame import Frame
from bench.report.layout import MISSING, PARTIAL
from bench.report.summary import Summary
from bench.suite.tuning import TUNED

RESULT, TUNED_RESULT, PUBLISHED, DIFFERENCE = KINDS = ("result", "tuned", "published", "difference")


@dataclass(frozen=True)
class Head:
    """A column of the table."""

    kind: str  # one of `KINDS`
    pair: str  # "" for the average over pairs
    metric: str

    @property
    def name(self) -> str:
        """Return its name in the page's address."""
        return f"{self.pair or 'average'} {self.metric} {self.kind}"


@dataclass(frozen=True)
class Entry:
    """A row's content in one column: a result, or a text with the number that it shows."""

    one: Summary | None = None
    text: str = MISSING
    value: float | None = None


@dataclass(frozen=True)
class WideRow:
    """A row of the table; a tuned row is in the row whose settings were tuned."""

    label: str
    method: str
    is_method: bool
    entries: list[Entry]  # by column


def heads(frame: Frame) -> list[Head]:
    """Return the columns, those of a pair together, the averages last."""
    has_tuned = bool(_merged(frame))
    columns_shown = [Head(kind, *column) for column in frame.columns for kind in _kinds(frame, [column], has_tuned)]
    for metric in dict.fromkeys(metric for _, metric in frame.columns):
        columns = [column for column in frame.columns if column[1] == metric]
        if len(columns) > 1:
            columns_shown += [Head(kind, "", metric) for kind in _kinds(frame, columns, has_tuned)]
    return columns_shown


def rows(frame: Frame) -> list[WideRow]:
    """Return the rows, in the order of the frame's labels."""
    columns, merged = heads(frame), _merged(frame)
    lines = []
    for label in frame.labels:
        if label not in merged:
            first = frame.at(*frame.columns[0], label)
            entries = [_entry(frame, head, label) for head in columns]
            lines.append(WideRow(label, first.cell.method, first.is_method, entries))
    return lines


def _merged(frame: Frame) -> set[str]:
    """Return the labels of tuned rows that stand beside the row of the default settings."""
    labels = set(frame.labels)
    tuned = {one.label for one in frame.tabled if one.cell.choice is not None}
    return {label for label in tuned if label.removesuffix(TUNED) in labels - {label}}


def _kinds(frame: Frame, columns: Sequence[tuple[str, str]], has_tuned: bool) -> list[str]:
    """Return the kinds of columns that at least one of these pairs fills."""
    has_published = any(frame.has_published(column) for column in columns)
    is_there = {RESULT: True, TUNED_RESULT: has_tuned, PUBLISHED: has_published, DIFFERENCE: has_published}
    return [kind for kind in KINDS if is_there[kind]]


def _entry(frame: Frame, head: Head, label: str) -> Entry:
    name = label
    if head.kind == TUNED_RESULT:
        name = f"{label}{TUNED}"
        if name not in frame.labels:
            return Entry()
    if head.pair:
        one = frame.at(head.pair, head.metric, name)
        return Entry(one=one) if head.kind in (RESULT, TUNED_RESULT) else _text(head.kind, [one])
    return _text(head.kind, [frame.at(pair, metric, name) for pair, metric in frame.columns if metric == head.metric])


def _text(kind: str, summaries: Sequence[Summary]) -> Entry:
    """Return the mean of some cells' numbers; nothing if one of them has none."""
    attribute = {PUBLISHED: "published", DIFFERENCE: "difference"}.get(kind, "mean")
    values = [getattr(one, attribute) for one in summaries]
    if None in values:
        return Entry()
    value = fmean(values)
    mark = f" {PARTIAL}" if kind != PUBLISHED and any(one.status == "partial" for one in summaries) else ""
    return Entry(text=(f"{value:+z.2f}" if kind == DIFFERENCE else f"{value:.2f}") + mark, value=value)
