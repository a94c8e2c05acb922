"""Plans a suite: its cells, their runs, and the cohorts in which these train. Imports no torch."""

from bench.plan.build import build_plan, continued
from bench.plan.cohorts import CohortPlan, cohorts, shares, widest, work_units
from bench.plan.model import Cell, Plan
from bench.plan.status import OPEN, run_status, statuses

__all__ = [
    "OPEN",
    "Cell",
    "CohortPlan",
    "Plan",
    "build_plan",
    "cohorts",
    "continued",
    "run_status",
    "shares",
    "statuses",
    "widest",
    "work_units",
]
