"""The value of CRD's critic by epoch, for student anchors and teacher anchors, a figure per pair."""

from collections.abc import Iterator

from matplotlib.figure import Figure

from bench.figures.arrangement import name_lines
from bench.figures.drawing import BAND_NOTE, band, by_epoch, grid
from bench.figures.findings import Findings

COLUMN = r"term\d+_\w+_critic_{}"  # of a run's epochs; of several teachers, the mean is drawn
NOTE = (
    "critic's value: log N minus the loss, a lower bound of the embeddings' mutual information "
    "only with negatives=other_sample"
)


def draw(findings: Findings) -> Iterator[tuple[str, Figure]]:
    """Yield a figure per pair in which a critic has trained for an epoch."""
    by_pair = {rows[0].pair: rows for rows in findings.groups.values()}  # evaluations share what was trained
    for pair, rows in by_pair.items():
        runs = {row.label: [findings.plan.trained(run) for run in row.cell.runs] for row in rows}
        sides = {f"{side} anchors": findings.curves(runs, COLUMN.format(side)) for side in ("student", "teacher")}
        sides = {side: curves for side, curves in sides.items() if curves}
        if not sides:
            continue
        figure, axes = grid(findings.style, list(sides), 2, 3.0, [findings.title, pair, BAND_NOTE, NOTE], sharey=True)
        for axis, curves in zip(axes, sides.values(), strict=True):
            for label, curve in curves.items():
                band(axis, curve, label, findings.looks[label])
        axes[0].set_ylabel("critic's value (nats)")
        by_epoch(axes)
        name_lines(axes)
        yield f"critic_{pair}", figure
