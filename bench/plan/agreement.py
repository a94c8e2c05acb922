"""Chooses the teacher that a student's agreement and KL divergence are measured against. Imports no torch."""

from collections.abc import Mapping, Sequence

from bench.plan.model import Cell, Plan
from bench.spec import RunSpec
from bench.suite import TEACHER
from bench.tasks import TASKS, task_of


def teachers_of(plan: Plan) -> dict[str, Sequence[RunSpec]]:
    """Return the runs of the row `teacher` of each pair whose teacher does not train with the student."""
    if TASKS[plan.suite.task].trains_teachers:
        return {}
    return {cell.pair: cell.runs for cell in plan.cells if cell.method == TEACHER and not cell.evaluation}


def teacher_of(run: RunSpec, cell: Cell, teachers: Mapping[str, Sequence[RunSpec]]) -> RunSpec | None:
    """Return the run with whose answers those of a cell's run are compared: its pair's teacher, or None.

    If the pair has several, one per seed or crossed with the seeds, it is the run's own one; undistilled students take
    them in turn.
    """
    of_pair = teachers.get(cell.pair, ())
    if cell.method == TEACHER or not of_pair or task_of(run).is_evaluation:
        return None
    for teacher in of_pair:
        if run.teachers and run.teachers in ((teacher.id,), teacher.teachers):
            return teacher
    return of_pair[cell.runs.index(run) % len(of_pair)]


def compared_with(plan: Plan) -> dict[str, list[str]]:
    """Return the ids of the runs with whose answers those of each run are compared: its pairs' teachers."""
    teachers = teachers_of(plan)
    ids_of: dict[str, dict[str, None]] = {}
    for cell in plan.cells:
        for run in cell.runs:
            if (teacher := teacher_of(run, cell, teachers)) is not None:
                ids_of.setdefault(run.id, {})[teacher.id] = None
    return {run_id: list(ids) for run_id, ids in ids_of.items()}
