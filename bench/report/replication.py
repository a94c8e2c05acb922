"""Compares a suite's numbers with those that this project has published for the same runs. Imports no torch."""

import math
from collections.abc import Mapping
from pathlib import Path

from bench.report.folder import TABLES
from bench.report.frame import Frame
from bench.report.sides import Measured, Place, of_frame, of_report

PUBLISHED = Path(__file__).parents[2] / "results" / "published"  # in a clone of the project
MIN_N = 2  # seeds of a row, for a spread


def replication(frame: Frame, published: Path = PUBLISHED) -> str:
    """Return a sentence that compares a suite's rows with the published ones of the same runs; "" if there are none.

    The margin of a difference of two means is t * sqrt(v * 2 / n), with v the variance over seeds, pooled over all rows
    of both tables, and t the quantile that holds for all rows together (Bonferroni). Numbers from another processor are
    treated as those of other seeds: they differ by no more.
    """
    folder = published / frame.plan.folder
    if not (folder / TABLES[0]).is_file():
        return ""
    pairs = _same_runs(of_frame(frame), of_report(folder))
    if not pairs:
        return ""
    from scipy import special  # takes long to import

    from bench.report.inference import LEVEL

    squares = sum((one.n - 1) * (one.std or 0.0) ** 2 for pair in pairs.values() for one in pair)
    df = sum(one.n - 1 for pair in pairs.values() for one in pair)
    t = float(special.stdtrit(df, 1 - (1 - LEVEL) / 2 / len(pairs)))
    margins = {place: t * math.sqrt(2 * squares / df / ours.n) for place, (ours, _) in pairs.items()}
    outside = [
        f"{place.label} {difference:+.2f}"
        for place, (ours, theirs) in pairs.items()
        if abs(difference := (ours.mean or 0.0) - (theirs.mean or 0.0)) > margins[place]
    ]
    where, inside = folder.relative_to(published.parents[1]), len(pairs) - len(outside)
    text = (
        f"Compared with {where}: {inside} of {len(pairs)} rows are within {max(margins.values()):.2f} points of the "
        f"published mean, the {LEVEL:.0%} margin for other seeds and all rows together"
    )
    return f"{text}; outside: {', '.join(outside)}" if outside else text


def _same_runs(
    ours: Mapping[Place, Measured], theirs: Mapping[Place, Measured]
) -> dict[Place, tuple[Measured, Measured]]:
    """Return the cells of the main metric that have equal runs on both sides, by seed, and a spread."""
    first = next((place.metric for place, one in ours.items() if one.in_tables), None)
    return {
        place: (one, theirs[place])
        for place, one in ours.items()
        if place.metric == first and place in theirs and one.n >= MIN_N and one.runs == theirs[place].runs
    }
