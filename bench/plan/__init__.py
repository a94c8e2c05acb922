"""From a suite to its cells, their runs, and the cohorts in which they train. Imports no torch."""

from bench.plan.build import Cell, Cohort, Plan, build, cohorts, portions
from bench.plan.status import OPEN, is_open, run_status

__all__ = [
    "OPEN",
    "Cell",
    "Cohort",
    "Plan",
    "build",
    "cohorts",
    "is_open",
    "portions",
    "run_status",
]
