"""Reads suite files: their keys, checks and error messages, and the rows of their tables. Imports no torch."""

from bench.suite.entries import LONGER, NONE, TEACHER
from bench.suite.evaluations import DataEntry
from bench.suite.load import check_name, load
from bench.suite.packaged import command_word, find_suite, packaged_suites
from bench.suite.pairs import PairEntry
from bench.suite.rows import Row, rows
from bench.suite.schema import Suite

__all__ = [
    "LONGER",
    "NONE",
    "TEACHER",
    "DataEntry",
    "PairEntry",
    "Row",
    "Suite",
    "check_name",
    "command_word",
    "find_suite",
    "load",
    "packaged_suites",
    "rows",
]
