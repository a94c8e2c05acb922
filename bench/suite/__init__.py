"""From a suite file to what it asks for. Imports no torch."""

from bench.suite.schema import (
    MOST_SEEDS,
    NONE,
    PEERS,
    TEACHER,
    Data,
    Evaluation,
    Pair,
    Row,
    Slurm,
    Suite,
    Teacher,
    check_name,
    json_schema,
    load,
    rows,
)

__all__ = [
    "MOST_SEEDS",
    "NONE",
    "PEERS",
    "TEACHER",
    "Data",
    "Evaluation",
    "Pair",
    "Row",
    "Slurm",
    "Suite",
    "Teacher",
    "check_name",
    "json_schema",
    "load",
    "rows",
]
