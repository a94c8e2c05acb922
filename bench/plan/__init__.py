"""From a suite to its cells, their runs, and the cohorts in which they train. Imports no torch."""

from bench.plan.build import build
from bench.plan.cohorts import Cohort, cohorts, portions
from bench.plan.model import Cell, Checkpoint, Plan
from bench.plan.status import OPEN, is_open, run_status

__all__ = ["OPEN", "Cell", "Checkpoint", "Cohort", "Plan", "build", "cohorts", "is_open", "portions", "run_status"]
