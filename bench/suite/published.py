"""Published accuracies, read from `published.csv`. Imports no torch."""

import csv
from collections.abc import Mapping
from functools import cache
from importlib.resources import files

Key = tuple[str, str, str, str, str]  # data, teacher, student and method with the names of the paper, and metric


@cache
def published_tables() -> Mapping[str, Mapping[Key, float]]:
    """Return the accuracies of each table in percent, by the table's name; the metrics are `top1` and `top5`.

    Only accuracies and errors are read, so a table may be empty.
    """
    tables: dict[str, dict[Key, float]] = {}
    with (files("bench.suite") / "published.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            table = tables.setdefault(row["table"], {})
            metric, _, kind = row["metric"].partition("_")
            if not row["value"] or kind not in ("acc", "err"):
                continue
            value = float(row["value"])
            accuracy = value if kind == "acc" else round(100 - value, 4)  # the papers print errors with two digits
            table[row["dataset"], row["teacher"], row["student"], row["method"], metric] = accuracy
    return tables
