"""Mean ranks over pairs, with bars over the rows that Nemenyi's test does not tell apart, a figure per metric."""

import math
from collections.abc import Iterator

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from bench.figures.drawing import grid
from bench.figures.findings import Findings
from bench.figures.looks import COLOURS
from bench.report.inference import LEVEL
from bench.report.statistics import rankings


def draw(findings: Findings) -> Iterator[tuple[str, Figure]]:
    """Yield a critical-difference diagram per metric in which rows can be ranked."""
    for metric, ranking in rankings(findings.frame).items():
        if isinstance(ranking, str):
            continue
        import scikit_posthocs  # takes a second to import

        note = f"bars join rows that do not differ at {1 - LEVEL:.0%} (Nemenyi)"
        if math.isfinite(ranking.p):  # not where all rows tie in all pairs
            note += f"; Friedman's test: p = {ranking.p:.2g}"
        heading = [findings.title, f"mean rank in {metric} over {ranking.blocks} pairs, 1 is the best", note]
        if ranking.left_out:
            heading.append(f"left out: {', '.join(ranking.left_out)}")
        figure, (axis,) = grid(findings.style, [""], 1, 1.4 + 0.16 * len(ranking.labels), heading)
        diagram = scikit_posthocs.critical_difference_diagram(
            dict(zip(ranking.labels, ranking.ranks, strict=True)),
            pd.DataFrame(ranking.nemenyi, index=list(ranking.labels), columns=list(ranking.labels)),
            alpha=1 - LEVEL,
            ax=axis,
            label_fmt_left="{label}  {rank:.2f} ",
            label_fmt_right=" {rank:.2f}  {label}",
            text_h_margin=0.03 * len(ranking.labels),
            label_props={"size": findings.style.small},
            marker_props={"s": 14},
            elbow_props={"color": "0.2", "linewidth": 0.9},
            crossbar_props={"color": COLOURS[0], "linewidth": 3},
        )
        for (bar,) in diagram["crossbars"]:
            bar.set_xdata(sorted(bar.get_xdata()))  # the library iterates over a set, in an order that hashes decide
        reach = ranking.critical_difference / 2  # the library's own bar would cover the numbers of the axis
        middle = min(ranking.ranks) + reach
        axis.errorbar(middle, 1.9, xerr=reach, color="0.2", capsize=3)
        text = f"critical difference {ranking.critical_difference:.2f}"
        axis.text(middle, 2.1, text, ha="center", va="bottom", size=findings.style.small)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.spines["top"].set_visible(True)
        yield f"critical_difference_{metric}", figure
