"""Output of `compare`: differences of two results and the settings that differ. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.console import RenderableType

from bench.report.layout import MISSING
from bench.terminal.markup import escape
from bench.terminal.tables import in_parts

if TYPE_CHECKING:
    from bench.report.compare import Comparison
    from bench.report.differences import Difference

HOW = (
    "Difference: B - A, in the metric's unit (percentage points for accuracies). Interval: 95 %, by Student's t over "
    "seeds: paired where both sides have the same seeds, else Welch's. p (adjusted): corrected for all rows of the "
    "metric (Holm)."
)
HOW_IMAGES = (
    "On equal images: McNemar's p of the first seed that both sides have, and a 95 % interval of the difference that "
    "holds for other seeds and other images."
)


def comparison_tables(comparison: Comparison, width: int) -> Iterator[RenderableType]:
    """Yield the differences in the metrics that tables show, what only one side has, and the settings that differ."""
    yield f"[bold]A[/bold] {escape(comparison.a)}"
    yield f"[bold]B[/bold] {escape(comparison.b)}"
    shown = [one for one in comparison.cells if one.in_tables] or comparison.cells
    yield from in_parts(
        ["row", "metric", "A (seeds)", "B (seeds)", "B - A", "95 % interval", "p (adjusted)", "by"],
        [_texts(one) for one in shown],
        width,
    )
    yield HOW
    if any(one.mcnemar_p is not None for one in shown):
        rows = [_image_texts(one) for one in shown if one.mcnemar_p is not None]
        yield from in_parts(["row", "metric", "McNemar's p", "interval over seeds and images"], rows, width)
        yield HOW_IMAGES
    if len(shown) < len(comparison.cells):
        others = dict.fromkeys(one.metric for one in comparison.cells if not one.in_tables)
        yield escape(f"--json also has {', '.join(others)}.")
    for name, lines in (("A", comparison.only_a), ("B", comparison.only_b)):
        yield from (f"Only in {name}: {escape(line)}" for line in lines)
    every = list(dict.fromkeys(_row(one) for one in comparison.cells))
    if comparison.settings:
        rows = [
            [*(escape(text or MISSING) for text in (one.key, one.a, one.b)), _rows(one.rows, every)]
            for one in comparison.settings
        ]
        yield from in_parts(["setting", "A", "B", "rows"], rows, width)
    elif not comparison.without_settings:
        yield "All settings are the same."
    if comparison.without_settings:
        rows_without = _rows(comparison.without_settings, every)
        yield f"Settings not compared, since the runs are not in both stores: {rows_without}."


def _row(one: Difference) -> str:
    return ": ".join(filter(None, (one.suite, one.pair, one.label)))


def _rows(rows: Sequence[str], every: Sequence[str]) -> str:
    return "all rows" if len(rows) == len(every) else escape(", ".join(rows))


def _texts(one: Difference) -> list[str]:
    """Return a row of the table of differences, as markup."""
    reach = one.note or MISSING if one.low is None else _interval(one.low, one.high)
    numbers = [f"{one.mean_a:.2f} ({one.n_a})", f"{one.mean_b:.2f} ({one.n_b})", f"{one.difference:+z.2f}"]
    return [*map(escape, (_row(one), one.metric)), *numbers, escape(reach), _p(one.p_adjusted), one.test or MISSING]


def _image_texts(one: Difference) -> list[str]:
    reach = (
        "fewer than three seeds, crossed seeds, or no difference"
        if one.images_low is None
        else _interval(one.images_low, one.images_high)
    )
    return [*map(escape, (_row(one), one.metric)), _p(one.mcnemar_p), reach]


def _interval(low: float, high: float | None) -> str:
    assert high is not None  # an interval has both ends
    return f"{low:+z.2f} to {high:+z.2f}"


def _p(value: float | None) -> str:
    if value is None:
        return MISSING
    return f"{value:.3f}" if value >= 0.001 else "< 0.001"
