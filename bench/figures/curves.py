"""Learning curves: the metric on the test split and the loss in training, by epoch, a figure per pair and evaluation.

The loss is the cross-entropy with the labels, which means the same in each row; the total loss where there is none.
"""

from collections.abc import Iterator

from matplotlib.figure import Figure

from bench.figures.drawing import BAND_NOTE, TAUGHT, band, by_epoch, grid, level
from bench.figures.findings import Findings, row_of
from bench.suite import TEACHER


def draw(findings: Findings) -> Iterator[tuple[str, Figure]]:
    """Yield a figure per group in which a student has trained for an epoch."""
    for group, rows in findings.groups.items():
        runs = {row.label: row.cell.runs for row in rows if row.cell.method != TEACHER}
        totals, labelled = findings.curves(runs, "loss"), findings.curves(runs, "ce")
        if not totals:
            continue
        has_labels = totals.keys() == labelled.keys()
        losses = labelled if has_labels else totals
        tested = findings.curves(runs, rows[0].recorded)
        figure, axes = grid(["", ""] if tested else [""], 2, 3.0, [findings.title, group, BAND_NOTE], sharex=True)
        for label, curve in tested.items():
            band(axes[0], curve, label, findings.looks[label])
        if tested:
            level(axes[0], row_of(TEACHER, rows), TEACHER, TAUGHT)
            axes[0].set_ylabel(f"{rows[0].title} on the test split (%)")
        failed = {label for label in losses if any(findings.store.failure(run.id) for run in runs[label])}
        for label in sorted(losses, key=failed.__contains__):
            if label in failed and len(failed) < len(losses):
                axes[-1].set_ylim(axes[-1].get_ylim())  # those of the others: it may have grown without bound
            band(axes[-1], losses[label], label, findings.looks[label])
        axes[-1].set_ylabel("cross-entropy in training" if has_labels else "loss in training")
        by_epoch(axes)
        yield f"curves_{group}", figure
