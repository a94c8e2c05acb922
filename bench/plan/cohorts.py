"""Which runs train together: those that see the same batches and learn from the same teachers. Imports no torch."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from bench.spec import RunSpec, canonical
from bench.tasks import task_of


@dataclass(frozen=True)
class Cohort:
    """Runs with the same data, schedule, seed, and teachers or network to be evaluated: they train in lockstep."""

    runs: tuple[RunSpec, ...]

    @property
    def needs(self) -> set[str]:
        """Return the ids of the runs that must be done first."""
        return {needed for run in self.runs for needed in run.needs}


def portions(runs: Sequence[RunSpec], max_lanes: int | None = None) -> list[Cohort]:
    """Return all the work that some runs are: the cohorts, after each run that is only evaluated, alone."""
    return [Cohort((run,)) for run in runs if not run.trains] + cohorts(runs, max_lanes)


def cohorts(runs: Sequence[RunSpec], max_lanes: int | None = None) -> list[Cohort]:
    """Return the runs that train, grouped into cohorts, in the order of their first runs.

    A run without a teacher that is nobody's teacher joins the first cohort that sees the same batches, so that a
    suite's undistilled students need no pass over the data of their own. A teacher never joins those that wait for it.
    More than `max_lanes` runs are split into as few cohorts as possible, of about the same size.
    """
    trained = [run for run in runs if run.trains]
    awaited = {needed for run in trained for needed in run.needs}
    guests: list[RunSpec] = []
    groups: dict[tuple[str, tuple[str, ...]], list[RunSpec]] = {}
    for run in trained:
        if not run.needs and run.id not in awaited:
            guests.append(run)
        else:
            groups.setdefault((_batches(run), run.needs), []).append(run)
    for run in guests:
        batches = _batches(run)
        same_batches = [group for group in groups if group[0] == batches]
        group = same_batches[0] if same_batches else (batches, ())
        groups.setdefault(group, []).append(run)
    order = {run.id: position for position, run in enumerate(trained)}
    grouped = []
    for members in groups.values():
        members.sort(key=lambda run: order[run.id])
        parts = math.ceil(len(members) / max_lanes) if max_lanes else 1
        bounds = [len(members) * part // parts for part in range(parts + 1)]
        grouped += [Cohort(tuple(members[start:end])) for start, end in itertools.pairwise(bounds)]
    return sorted(grouped, key=lambda cohort: order[cohort.runs[0].id])


def _batches(run: RunSpec) -> str:
    """Return what decides which batches a run sees, and when: task, seed, data and schedule, learning rate apart."""
    common = run.training.model_copy(update={"lr": 1.0, "initial_epochs": 0})
    return f"{task_of(run).batches} {run.seed} {canonical(common)} {run.data.key}"
