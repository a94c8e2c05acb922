"""What methods record of themselves by epoch, such as DKD's two parts: a figure per pair and method.

The values of CRD's critic have a figure of their own.
"""

import re
from collections.abc import Iterator

from matplotlib.figure import Figure

from bench.figures.arrangement import name_lines
from bench.figures.drawing import BAND_NOTE, band, by_epoch, grid
from bench.figures.findings import Findings
from bench.spec import RunSpec

NOTE = "means over the samples of an epoch, named as in epochs.csv; the term's weight is not in them"


def draw(findings: Findings) -> Iterator[tuple[str, Figure]]:
    """Yield a figure per pair and method that records something beside its term."""
    by_pair = {rows[0].pair: rows for rows in findings.groups.values()}  # evaluations share what was trained
    for pair, rows in by_pair.items():
        runs = {row.label: [findings.plan.trained(run) for run in row.cell.runs] for row in rows}
        recorded = dict.fromkeys(name for of_row in runs.values() for run in of_row for name in _names(run, findings))
        for method in dict.fromkeys(method for method, _ in recorded):
            names = [name for one, name in recorded if one == method]
            title = findings.methods[method].title
            heading = [findings.title, f"{title}, {pair}", BAND_NOTE, NOTE]
            figure, axes = grid(findings.style, [name.replace("_", " ") for name in names], 2, 3.0, heading)
            for axis, name in zip(axes, names, strict=True):
                for label, curve in findings.curves(runs, rf"term\d+_{method}_{name}").items():
                    band(axis, curve, label, findings.looks[label])
            by_epoch(axes)
            name_lines(axes)
            yield f"parts_{method}_{pair}", figure


def _names(run: RunSpec, findings: Findings) -> Iterator[tuple[str, str]]:
    """Yield method and name of each number that the terms of a run record, except a critic's values."""
    for column in findings.epochs[run.id].columns if run.id in findings.epochs else ():
        if (match := re.fullmatch(r"term(\d+)_(\w+)", column)) is None:
            continue
        method = run.terms[int(match[1]) % len(run.terms)].method  # each teacher's terms follow those of the one before
        name = match[2].removeprefix(f"{method}_")
        if name != match[2] and not name.startswith("critic_"):
            yield method, name
