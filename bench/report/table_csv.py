"""Writes table.csv, and the digest that shows whether files are of the same results. Imports no torch."""

import hashlib
from operator import attrgetter

from bench.report.frame import Frame
from bench.store import csv_text

OF_CELL = ("pair", "teacher", "student", "method", "label")
OF_RESULT = ("metric", "n", "mean", "std", "best_mean", "published", "status", "reason", "difference")


def to_csv(frame: Frame) -> str:
    """Return table.csv: one row per cell and metric.

    A metric that is computed from answers has a row only for cells that have a value.
    """
    of_cell, of_result = attrgetter(*OF_CELL), attrgetter(*OF_RESULT)
    rows = ((*of_cell(one.cell), *map(_rounded, of_result(one)), one.cell.variant) for one in frame.listed)
    columns = (*OF_CELL, *OF_RESULT, "variant")
    return csv_text(columns, (dict(zip(columns, row, strict=True)) for row in rows))


def _rounded(value: object) -> object:
    return round(value, 4) if isinstance(value, float) else value


def digest(frame: Frame) -> str:
    """Return a hash of table.csv, by which other files tell whether they are of the same results."""
    return hashlib.sha256(to_csv(frame).encode()).hexdigest()[:16]
