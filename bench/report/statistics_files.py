"""Writes statistics.csv for programs and statistics.md for readers."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, groupby
from operator import itemgetter
from typing import Any

import pandas as pd

from bench.plan import Plan
from bench.report import per_image, variance
from bench.report.folder import STATISTICS
from bench.report.frame import Frame
from bench.report.improvement import IMPROVEMENT, Improvement
from bench.report.layout import ALL_PAIRS, MISSING, PARTIAL, p_value
from bench.report.markdown import MARKDOWN, markdown_table
from bench.report.statistics import Ranking, Statistics, statistics
from bench.report.table_csv import digest
from bench.store import write_whole
from bench.store.files import no_formula

COLUMNS = ("statistic", "metric", "pair", "label", "reference", "n", "value", "low", "high", "p", "p_adjusted", "note")
HOW = (
    "A gain is the mean difference in the last epoch's metric on equal seeds, in percentage points. Its 95 % interval "
    "is Student's t, needs three samples, and holds for its row alone. In one pair, the noise of each row comes from a "
    "row-by-seed model of the whole table, and p (adjusted) is corrected for all rows of the table (Dunnett). Over all "
    "pairs, the samples are the pairs' means; p is from Wilcoxon's signed-rank test, and p (adjusted) is Holm's "
    "correction. Pairs that share a network are not independent. † marks rows in which not all seeds, or not all "
    "pairs, are finished."
)
CROSSED = (
    "A gain is the mean difference in the last epoch's metric over all combinations of seeds, in percentage points. "
    "Runs that share a seed are not independent. In one pair, the 95 % interval is therefore Student's t with the "
    "variances between the seeds of the sources of chance that stand out from the rest; if none does, all runs count "
    "as one sample. p (adjusted) is corrected for all rows (Holm). The interval holds for other seeds of the sources "
    "that have three or more, and for these seeds of the others. Over all pairs, the samples are the pairs' means; p "
    "is from Wilcoxon's signed-rank test, and p (adjusted) is Holm's correction. † marks rows in which not all runs, "
    "or not all pairs, are finished."
)
TOGETHER = (
    "Probability of improvement: the share of seeds in which the method is above the reference, averaged over pairs. "
    "Interquartile mean: the mean of the middle half of the gains of all pairs and seeds. Intervals: Student's t at "
    "95 %, with the standard error of a jackknife over pairs."
)


def write(frame: Frame) -> None:
    """Write the statistics of a suite's results."""
    computed, spread = statistics(frame), variance.spreads(frame) if frame.plan.suite.crossed else []
    text = f"{to_markdown(frame.plan, computed, spread)}\n<!-- of table.csv {digest(frame)} -->\n"
    of_images = per_image.rows(frame)
    for name, content in zip(STATISTICS, (to_csv(computed, of_images), text), strict=True):
        write_whole(frame.folder / name, content)
    if frame.plan.suite.crossed:
        variance.write_csv(spread, frame)
    else:
        (frame.folder / variance.VARIANCE).unlink(missing_ok=True)


def to_csv(computed: Statistics, of_images: Iterable[dict[str, Any]] = ()) -> str:
    """Return statistics.csv: gains in percentage points, improvements as shares. `of_images`: see `per_image.rows`."""
    table = pd.DataFrame(chain(_rows(computed), of_images), columns=COLUMNS).map(no_formula)
    return table.to_csv(index=False, float_format="%.6g", lineterminator="\n")


def _rows(computed: Statistics) -> Iterator[dict[str, Any]]:
    yield from computed.gains
    yield from computed.together
    for metric, ranks in computed.rankings.items():
        yield from ({"metric": metric, "pair": ALL_PAIRS, **row} for row in _rank_rows(ranks))
    for (metric, label), share in computed.improvements.items():
        note = "" if share.ratio is not None else "not above the student by more than chance"
        common: dict[str, Any] = {"metric": metric, "pair": ALL_PAIRS, "label": computed.ours, "reference": label}
        common |= {"n": share.n, "note": note}
        low, high = share.interval or (None, None)
        yield {**common, "statistic": "relative_improvement", "value": share.ratio, "low": low, "high": high}
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


def to_markdown(plan: Plan, computed: Statistics, spread: Sequence[variance.Spread] = ()) -> str:
    """Return statistics.md."""
    lines = [f"# {MARKDOWN.text(plan.suite.title)}: statistics", ""]
    how = CROSSED if plan.suite.crossed else HOW
    lines.append(how if computed.gains else "No gains yet: they need a method and KD or none with a seed in common.")
    samples = "runs" if plan.suite.crossed else "seeds"
    for (reference, pair, metric), gains in groupby(computed.gains, itemgetter("reference", "pair", "metric")):
        heading = MARKDOWN.text(f"Gain over {reference} in {metric}, {pair}")
        heads = ["method", "pairs" if pair == ALL_PAIRS else samples, "gain", "95 % interval", "p", "p (adjusted)"]
        lines += ["", f"## {heading}", "", *markdown_table(heads, map(_gain_texts, gains))]
    lines += variance.lines(spread)
    if computed.together:
        lines += ["", "## Over pairs and seeds", "", TOGETHER, ""]
        lines += markdown_table(
            ["statistic", "metric", "method", "over", "pairs", "value", "95 % interval"],
            map(_together_texts, computed.together),
        )
    for metric, ranks in computed.rankings.items():
        lines += ["", f"## Ranks over pairs in {MARKDOWN.text(metric)}", "", *_rank_lines(ranks)]
    if computed.improvements:
        rows = [
            [*map(MARKDOWN.text, (label, metric)), f"{share.n} {share.unit}s", *_shares(share)]
            for (metric, label), share in computed.improvements.items()
        ]
        lines += ["", f"## Relative improvement of {MARKDOWN.text(computed.ours or '')}", "", IMPROVEMENT, ""]
        lines += markdown_table(
            ["over", "metric", "samples", "ratio of sums", "95 % interval", "paper's mean of ratios", "median"], rows
        )
    return "\n".join(lines) + "\n"


def _gain_texts(row: Mapping[str, Any]) -> list[str]:
    n = f"{row['n']}{MARKDOWN.mark(PARTIAL) if row['note'] else ''}"
    interval = MISSING if row["low"] is None else f"{row['low']:+z.2f} to {row['high']:+z.2f}"
    p, p_adjusted = p_value(row["p"]), p_value(row["p_adjusted"])
    return [MARKDOWN.text(row["label"]), n, f"{row['value']:+z.2f}", interval, p, p_adjusted]


def _together_texts(row: Mapping[str, Any]) -> list[str]:
    texts = [row["statistic"].replace("_", " "), *(MARKDOWN.text(row[key]) for key in ("metric", "label", "reference"))]
    return [*texts, str(row["n"]), f"{row['value']:.2f}", f"{row['low']:.2f} to {row['high']:.2f}"]


def _shares(share: Improvement) -> list[str]:
    """Return the texts of an improvement: ratio of sums, its interval, mean and median of ratios."""
    low, high = share.interval or (None, None)
    interval = MISSING if low is None or high is None else f"{100 * low:.1f} % to {100 * high:.1f} %"
    ratio, mean, median = (
        MISSING if one is None else f"{100 * one:.1f} %" for one in (share.ratio, share.mean, share.median)
    )
    return [ratio, interval, mean, median]


def _rank_lines(ranks: Ranking | str) -> Iterator[str]:
    if isinstance(ranks, str):
        yield ranks
        return
    if ranks.left_out:
        why = "rows without a number in each pair, pairs not finished or lost"
        yield MARKDOWN.text(f"Left out ({why}): {', '.join(ranks.left_out)}.")
        yield ""
    yield (
        f"Over {ranks.blocks} pairs. Friedman: chi-squared {ranks.statistic:.2f}, p {p_value(ranks.p)}. Mean ranks "
        f"that are {ranks.critical_difference:.2f} apart differ at 5 % (Nemenyi)."
    )
    yield ""
    best_first = sorted(zip(ranks.ranks, ranks.labels, strict=True))
    yield from markdown_table(
        ["row", "mean rank"], [[MARKDOWN.text(label), f"{rank:.2f}"] for rank, label in best_first]
    )
