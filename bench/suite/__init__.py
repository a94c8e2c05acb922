"""From a suite file to what it asks for. Imports no torch."""

from bench.suite.load import check_name, load
from bench.suite.resources import Slurm
from bench.suite.rows import Row, rows
from bench.suite.schema import (
    MAX_SEEDS,
    NONE,
    PEERS,
    TEACHER,
    DataEntry,
    EvaluationEntry,
    PairEntry,
    Suite,
    TeacherChoice,
)

__all__ = [
    "MAX_SEEDS",
    "NONE",
    "PEERS",
    "TEACHER",
    "DataEntry",
    "EvaluationEntry",
    "PairEntry",
    "Row",
    "Slurm",
    "Suite",
    "TeacherChoice",
    "check_name",
    "load",
    "rows",
]
