"""The table as Markdown, with best epochs and published numbers next to those of the last epoch. Imports no torch."""

import shlex
from collections.abc import Iterable, Iterator, Sequence

from bench.report.caption import caption, published_source
from bench.report.frame import Frame
from bench.report.layout import MISSING, PARTIAL, Style, layout, number, parts
from bench.report.origins import origins, training_command
from bench.report.regime import regime_line
from bench.report.summary import Summary

BEST_IS_SHOWN = "The last epoch is the result; the best epoch, chosen on the test split, is shown only for comparison."


def _escape(text: str) -> str:
    return "".join(f"\\{character}" if character in "\\`*_{}[]<>#|~&$" else character for character in text)


MARKDOWN = Style(
    text=_escape,
    mark=lambda sign: f"<sup>{sign}</sup>",
    best=lambda text: f"**{text}**",
)


def markdown_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Yield the lines of a table."""
    yield f"| {' | '.join(heads)} |"
    yield "|---" * len(heads) + "|"
    yield from (f"| {' | '.join(row)} |" for row in rows)


def to_markdown(frame: Frame) -> str:
    """Return table.md: methods by pairs; per pair, best epochs and published numbers; origins."""
    plan = frame.plan
    lines = [f"# {_escape(plan.suite.title)}", "", _escape(caption(frame))]
    for columns in parts(frame.columns, frame.labels):
        table = layout(frame, columns)
        rows = [[_escape(label), *(MARKDOWN.cell(*cell) for cell in cells)] for label, cells in table.rows]
        lines += ["", *markdown_table(["method", *map(_escape, table.headings)], rows)]
        if table.notes:
            lines += ["", *(f"- {MARKDOWN.note(*note)}" for note in table.notes)]
    if said := regime_line(frame):
        lines += ["", _escape(said)]
    lines += _best_and_published(frame)
    lines += ["", "## How it was made", "", "```", shlex.join(training_command(plan)), "```"]
    if made := list(origins(frame.records.values()).values()):
        lines += ["", *markdown_table(list(made[0]), [[_escape(fact) for fact in origin.values()] for origin in made])]
    return "\n".join(lines) + "\n"


def _best_and_published(frame: Frame) -> list[str]:
    """Return the lines of the tables of best epochs and published numbers, one per column with any number."""
    if all(one.mean is None for one in frame.tabled):
        return []
    title, explained = "## Last epoch and best epoch", BEST_IS_SHOWN
    if any(one.published is not None for one in frame.tabled):
        title += " and published number"
        explained += f" {_escape(published_source(frame.plan))}"
    lines = ["", title, "", explained]
    for column, heading in zip(frame.columns, layout(frame).headings, strict=True):
        rows = [_details(one) for label in frame.labels if (one := frame.at(*column, label)).mean is not None]
        if rows:
            heads = ["method", "last epoch", "best epoch", "published", "difference"]
            width = 5 if frame.has_published(column) else 3
            lines += ["", f"### {_escape(heading)}", "", *markdown_table(heads[:width], [row[:width] for row in rows])]
    return lines


def _details(one: Summary) -> list[str]:
    """Return the texts of a row with a number: label, last epoch, best epoch, published, difference."""
    mark = MARKDOWN.mark(PARTIAL) if one.status == "partial" else ""
    return [
        _escape(one.label),
        number(one) + mark,
        MISSING if one.best_mean is None else f"{one.best_mean:.2f}{mark}",
        MISSING if one.published is None else f"{one.published:.2f}",
        MISSING if one.difference is None else f"{one.difference:+z.2f}{mark}",
    ]
