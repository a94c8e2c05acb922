"""Writes classes.csv: the accuracy of each row on each class. Imports no torch."""

from collections.abc import Iterator
from statistics import mean, stdev
from typing import Any

from bench.report.folder import CLASSES
from bench.report.frame import Frame
from bench.store import csv_text, write_whole

COLUMNS = ("pair", "label", "evaluation", "class", "n", "mean", "std")


def write(frame: Frame) -> None:
    """Write classes.csv, if the answers of some run have been scored."""
    if table := list(rows(frame)):
        write_whole(frame.folder / CLASSES, csv_text(COLUMNS, table))


def rows(frame: Frame) -> Iterator[dict[str, Any]]:
    """Yield one row per cell and class: accuracies in percent over the seeds, as in table.csv; classes count from 0."""
    for one in frame.primary:
        cell = one.cell
        records = (frame.records.get(run.id, {}) for run in cell.runs)
        by_seed = [by_class for record in records if (by_class := record.get("class_accuracy", {}).get(cell.network))]
        for number, of_class in enumerate(zip(*by_seed, strict=True)):
            values = [value for value in of_class if value is not None]  # the test split may lack a class
            if values:
                yield {
                    "pair": cell.pair,
                    "label": cell.label,
                    "evaluation": cell.evaluation,
                    "class": number,
                    "n": len(values),
                    "mean": round(mean(values), 4),
                    "std": round(stdev(values), 4) if len(values) > 1 else None,
                }
