"""Writes statistics.csv and statistics.md."""

import math
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, groupby
from operator import itemgetter
from typing import Any

import pandas as pd

from bench.plan import Plan
from bench.report import images
from bench.report.folder import STATISTICS
from bench.report.frame import Frame
from bench.report.layout import MISSING, PARTIAL
from bench.report.markdown import MARKDOWN, grid
from bench.report.paper import IMPROVEMENT
from bench.report.statistics import ALL, Ranking, Statistics, statistics
from bench.report.write import digest
from bench.store import Store, write_whole
from bench.store.files import no_formula

COLUMNS = ("statistic", "metric", "pair", "label", "reference", "n", "value", "low", "high", "p", "p_holm", "note")
HOW = (
    "Gains are in percentage points of the last epochs' accuracies, on equal seeds. Intervals: 95 % percentile "
    "bootstrap of the mean difference, from at least three samples; with three to five they are too narrow. p: "
    "Student's paired t-test, two-sided; Holm's correction is over the rows of a table here. Over all pairs the "
    "samples are the pairs' means; pairs that share a network are not independent. † not all seeds, or not all pairs, "
    "are finished."
)


def write(frame: Frame, store: Store) -> None:
    """Write the statistics of a suite's results."""
    computed = statistics(frame)
    text = f"{to_markdown(frame.plan, computed)}\n<!-- of table.csv {digest(frame)} -->\n"
    folder = store.suite_folder(frame.plan.folder)
    of_images = images.rows(frame, store)
    for name, content in zip(STATISTICS, (to_csv(computed, of_images), text), strict=True):
        write_whole(folder / name, content)


def to_csv(computed: Statistics, of_images: Iterable[dict[str, Any]] = ()) -> str:
    """Return statistics.csv: gains in percentage points, improvements as shares; for `of_images`, see `images.rows`."""
    table = pd.DataFrame(chain(_rows(computed), of_images), columns=COLUMNS).map(no_formula)
    return table.to_csv(index=False, float_format="%.6g", lineterminator="\n")


def _rows(computed: Statistics) -> Iterator[dict[str, Any]]:
    yield from computed.gains
    for metric, ranks in computed.rankings.items():
        yield from ({"metric": metric, "pair": ALL, **row} for row in _rank_rows(ranks))
    for (metric, label), share in computed.improvements.items():
        note = f"{share.left_out} pair(s) left out: not above the student" if share.left_out else ""
        rows = {"metric": metric, "pair": ALL, "label": computed.ours, "reference": label}
        common = {**rows, "n": share.n, "note": note}
        yield {**common, "statistic": "relative_improvement_mean", "value": share.mean}
        yield {**common, "statistic": "relative_improvement_median", "value": share.median}


def _rank_rows(ranks: Ranking | str) -> Iterator[dict[str, Any]]:
    if isinstance(ranks, str):
        yield {"statistic": "friedman", "note": ranks}
        return
    n = ranks.blocks
    note = f"left out: {', '.join(ranks.left_out)}" if ranks.left_out else ""
    yield {"statistic": "friedman", "n": n, "value": ranks.statistic, "p": ranks.p, "note": note}
    yield {"statistic": "critical_difference", "n": n, "value": ranks.critical_difference}
    for label, rank in zip(ranks.labels, ranks.ranks, strict=True):
        yield {"statistic": "mean_rank", "n": n, "label": label, "value": rank}
    for i, label in enumerate(ranks.labels):
        for j, other in enumerate(ranks.labels[:i]):
            p = float(ranks.nemenyi[i, j])
            yield {"statistic": "nemenyi", "n": n, "label": label, "reference": other, "p": p}


def to_markdown(plan: Plan, computed: Statistics) -> str:
    """Return statistics.md."""
    lines = [f"# {MARKDOWN.text(plan.suite.title)}: statistics", ""]
    lines.append(HOW if computed.gains else "No gains yet: they need a method and KD or none with a seed in common.")
    for (reference, pair, metric), gains in groupby(computed.gains, itemgetter("reference", "pair", "metric")):
        heading = MARKDOWN.text(f"Gain over {reference} in {metric}, {pair}")
        heads = ["method", "pairs" if pair == ALL else "seeds", "gain", "95 % interval", "p", "p (Holm)"]
        lines += ["", f"## {heading}", "", *grid(heads, map(_gain_texts, gains))]
    for metric, ranks in computed.rankings.items():
        lines += ["", f"## Ranks over pairs in {MARKDOWN.text(metric)}", "", *_rank_lines(ranks)]
    if computed.improvements:
        rows = [
            [*map(MARKDOWN.text, (label, metric)), str(share.n), str(share.left_out)]
            + [MISSING if one is None else f"{100 * one:.1f} %" for one in (share.mean, share.median)]
            for (metric, label), share in computed.improvements.items()
        ]
        lines += ["", f"## Relative improvement of {MARKDOWN.text(computed.ours or '')}", "", IMPROVEMENT, ""]
        lines += grid(["over", "metric", "pairs", "left out", "mean", "median"], rows)
    return "\n".join(lines) + "\n"


def _gain_texts(row: Mapping[str, Any]) -> list[str]:
    n = f"{row['n']}{MARKDOWN.mark(PARTIAL) if row['note'] else ''}"
    interval = MISSING if row["low"] is None else f"{row['low']:+z.2f} to {row['high']:+z.2f}"
    return [MARKDOWN.text(row["label"]), n, f"{row['value']:+z.2f}", interval, _p(row["p"]), _p(row["p_holm"])]


def _rank_lines(ranks: Ranking | str) -> Iterator[str]:
    if isinstance(ranks, str):
        yield ranks
        return
    if ranks.left_out:
        why = "rows without a number in each pair, pairs not finished or lost"
        yield MARKDOWN.text(f"Left out ({why}): {', '.join(ranks.left_out)}.")
        yield ""
    yield (
        f"Over {ranks.blocks} pairs. Friedman: chi-squared {ranks.statistic:.2f}, p {_p(ranks.p)}. Mean ranks that are "
        f"{ranks.critical_difference:.2f} apart differ at 5 % (Nemenyi)."
    )
    yield ""
    best_first = sorted(zip(ranks.ranks, ranks.labels, strict=True))
    yield from grid(["row", "mean rank"], [[MARKDOWN.text(label), f"{rank:.2f}"] for rank, label in best_first])


def _p(value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return MISSING
    return f"{value:.3f}" if value >= 0.001 else "< 0.001"
