"""Groups runs that see the same batches and have the same teachers into cohorts. Imports no torch."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from bench.spec import NO_INITIAL_STAGE, RunSpec, canonical
from bench.tasks import task_of


@dataclass(frozen=True)
class CohortPlan:
    """Runs that train together: they have the same data, schedule, seed, and teachers or evaluated network."""

    runs: tuple[RunSpec, ...]

    @property
    def needs(self) -> set[str]:
        """Return the ids of the runs that must be done before the cohort starts."""
        return {needed for run in self.runs for needed in run.needs}


def work_units(runs: Sequence[RunSpec], max_lanes: int | None = None) -> list[CohortPlan]:
    """Return the cohorts of runs that train, preceded by one cohort per run that is only evaluated."""
    return [CohortPlan((run,)) for run in runs if not run.trains] + cohorts(runs, max_lanes)


def cohorts(runs: Sequence[RunSpec], max_lanes: int | None = None) -> list[CohortPlan]:
    """Return the runs that train, grouped into cohorts, in the order of their first runs.

    A run that has no teacher and is not a teacher joins the first cohort that sees the same batches, so that
    undistilled students need no separate pass over the data. A teacher never joins a cohort that waits for it.
    More than `max_lanes` runs are split into as few cohorts as possible, of about the same size.
    """
    trained = [run for run in runs if run.trains]
    awaited = {needed for run in trained for needed in run.needs}
    groups: dict[tuple[str, tuple[str, ...]], list[RunSpec]] = {}
    is_guest = {run.id: not run.needs and run.id not in awaited for run in trained}
    for run in sorted(trained, key=lambda run: is_guest[run.id]):  # stable: guests last, each kind in its order
        batches = _batches(run)
        own = (batches, run.needs)
        group = next((group for group in groups if group[0] == batches), own) if is_guest[run.id] else own
        groups.setdefault(group, []).append(run)
    order = {run.id: position for position, run in enumerate(trained)}
    grouped = []
    for members in groups.values():
        members.sort(key=lambda run: order[run.id])
        parts = math.ceil(len(members) / max_lanes) if max_lanes else 1
        bounds = [len(members) * part // parts for part in range(parts + 1)]
        grouped += [CohortPlan(tuple(members[start:end])) for start, end in itertools.pairwise(bounds)]
    return sorted(grouped, key=lambda cohort: order[cohort.runs[0].id])


def _batches(run: RunSpec) -> str:
    """Return a text that is equal for runs that see the same batches: task, seed, data, and schedule without rates."""
    common = run.training.model_copy(update={"lr": 1.0, "weight_decay": 0.0, **NO_INITIAL_STAGE})
    task = task_of(run)
    return f"{task.shares_batches_with or task.name} {run.seed} {canonical(common)} {run.data.key}"
