"""Groups runs that see the same batches and have the same teachers into cohorts. Imports no torch."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from bench.schedule import NO_INITIAL_STAGE, OF_LANE
from bench.spec import RunSpec, canonical
from bench.tasks import task_of


@dataclass(frozen=True)
class CohortPlan:
    """Runs that train together: they have the same data, schedule, order, and teachers or evaluated network."""

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
    undistilled students need no separate pass over the data. A teacher never joins a cohort that waits for it. More
    than `max_lanes` runs are split into as few cohorts as possible, of about the same size.
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
        grouped += _split(members, math.ceil(len(members) / max_lanes) if max_lanes else 1)
    return sorted(grouped, key=lambda cohort: order[cohort.runs[0].id])


def shares(runs: Sequence[RunSpec], jobs: int, max_lanes: int | None = None) -> list[CohortPlan]:
    """Return the cohorts of runs that train, some of them split, so that each of `jobs` processes has work.

    Processes take whole cohorts while there is one for each; the last ones, which are fewer than the processes, are
    split. This is done for the cohorts that can start at once, for those that wait for these, and so on. Of a cohort
    that waits, only the runs with a teacher are split: those without one are a cohort of their own, which can start at
    once.
    """
    divided: list[CohortPlan] = []
    for turn, ready in enumerate(_turns(cohorts(runs, max_lanes), runs)):
        end = len(ready) - len(ready) % jobs
        divided += ready[:end]
        last = ready[end:]
        if turn > 0:
            guests = [tuple(run for run in one.runs if not run.needs) for one in last]
            divided += [CohortPlan(without) for without in guests if without]
            last = [CohortPlan(tuple(run for run in one.runs if run.needs)) for one in last]
        parts = [1] * len(last)
        for _ in range(jobs - len(last) if last else 0):
            largest = max(range(len(last)), key=lambda one: len(last[one].runs) / parts[one])
            parts[largest] += len(last[largest].runs) > parts[largest]
        divided += [share for one, number in zip(last, parts, strict=True) for share in _split(one.runs, number)]
    return divided


def widest(runs: Sequence[RunSpec]) -> int:
    """Return how many runs can train at the same time, at most: more processes would never have work."""
    return max(map(len, _turns(cohorts(runs, max_lanes=1), runs)))


def _turns(planned: Sequence[CohortPlan], runs: Sequence[RunSpec]) -> list[list[CohortPlan]]:
    """Return cohorts in turns: first those that need none of the runs, then those that need the first, and so on."""
    depths: dict[str, int] = {}
    by_id = {run.id: run for run in runs}

    def depth(run: RunSpec) -> int:
        if run.id not in depths:
            depths[run.id] = max((1 + depth(by_id[needed]) for needed in run.needs if needed in by_id), default=0)
        return depths[run.id]

    turns: dict[int, list[CohortPlan]] = {}
    for one in planned:
        turns.setdefault(max(map(depth, one.runs)), []).append(one)
    return [turns[turn] for turn in sorted(turns)] or [[]]


def _split(runs: Sequence[RunSpec], parts: int) -> list[CohortPlan]:
    """Return the runs as that number of cohorts of about the same size."""
    bounds = [len(runs) * part // parts for part in range(parts + 1)]
    return [CohortPlan(tuple(runs[start:end])) for start, end in itertools.pairwise(bounds)]


def _batches(run: RunSpec) -> str:
    """Return a text that is equal for runs that see the same batches: task, order, data and common schedule."""
    own: dict[str, object] = {"lr": 1.0, "weight_decay": 0.0, **dict.fromkeys(OF_LANE)}
    common = run.training.model_copy(update=own | NO_INITIAL_STAGE)
    task = task_of(run)
    return f"{task.shares_batches_with or task.name} {run.ordered_by} {canonical(common)} {run.data.key}"
