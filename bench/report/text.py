"""Comma-separated values."""

import csv
import io
from collections.abc import Iterable, Mapping
from typing import Any


def csv_text(columns: Iterable[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """Return a heading and rows as comma-separated values; a column that a row lacks is empty there."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
