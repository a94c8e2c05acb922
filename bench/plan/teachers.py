"""The runs that give a pair its teachers: trained here, or evaluated from a file of weights. Imports no torch."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from bench.plan.model import Checkpoint, Sources
from bench.spec import DataSpec, NetworkSpec, RunSpec, Schedule
from bench.suite import MAX_SEEDS, PairEntry, Suite, TeacherChoice
from bench.tasks import TASKS
from bench.types import RequestError


@dataclass(frozen=True)
class PairTeachers:
    """The teachers of a pair for one seed.

    Attributes:
        runs: one per teacher.
        checkpoints: by the id of the run that evaluates them.
        tested: the run whose accuracy is the pair's teacher row: the teacher's own, or that of all together.
    """

    runs: tuple[RunSpec, ...]
    checkpoints: dict[str, Checkpoint]
    tested: RunSpec


def undistilled(suite: Suite, network: NetworkSpec, seed: int, data: DataSpec, schedule: Schedule) -> RunSpec:
    """Return the run that trains a network on labels alone."""
    lr = suite.lr_by_network.get(network.network, schedule.lr)
    schedule = schedule.model_copy(update={"lr": lr, "initial_epochs": 0})
    return RunSpec(student=network, data=data, schedule=schedule, seed=seed)


def teacher_seeds(suite: Suite) -> tuple[int, ...]:
    """Return the seeds of the suite's teachers."""
    return (0,) if suite.teacher_seeds == "fixed" else suite.seed_list


def pair_teachers(
    suite: Suite, pair: PairEntry, seed: int, data: DataSpec, path: Path, where: str, sources: Sources
) -> PairTeachers:
    """Return a pair's teachers for a seed; of equal ones that are trained here, each has its own seed.

    Args:
        suite: the suite.
        pair: one of its pairs.
        seed: of the first teacher.
        data: what teachers are trained and evaluated on.
        path: the suite file, from which the paths of checkpoints count.
        where: the place that names the teacher, for messages.
        sources: what is remembered of checkpoints that are gone.

    Raises:
        RequestError: a checkpoint cannot be read.
    """
    step = 1 if suite.teacher_seeds == "fixed" else MAX_SEEDS
    runs: list[RunSpec] = []
    checkpoints: dict[str, Checkpoint] = {}
    for place, teacher in enumerate(pair.members):
        copy = pair.members[:place].count(teacher)
        run, checkpoint = _teacher(suite, teacher, seed + copy * step, data, path, where, sources)
        runs.append(run)
        if checkpoint is not None:
            checkpoints[run.id] = checkpoint
    tested = runs[0]
    if len(runs) > 1:
        together = NetworkSpec(network=pair.teacher_name)
        tested = RunSpec(student=together, data=tested.data, seed=seed, teachers=tuple(run.id for run in runs))
    return PairTeachers(tuple(runs), checkpoints, tested)


def _teacher(
    suite: Suite, teacher: TeacherChoice, seed: int, data: DataSpec, path: Path, where: str, sources: Sources
) -> tuple[RunSpec, Checkpoint | None]:
    """Return the run that trains a teacher, or that evaluates its weights and the file of these."""
    if teacher.checkpoint is None and teacher.weights is None:
        return undistilled(suite, teacher.spec, seed, data, suite.teacher_schedule), None
    task = TASKS[suite.task]
    evaluated = teacher.is_tested or task.evaluates_given_teachers
    name = RunSpec.model_fields["task"].default if evaluated else task.name
    given = RunSpec(task=name, student=teacher.spec, data=data, schedule=None, seed=0, checkpoint=teacher.weights)
    if teacher.checkpoint is None:
        return given, Checkpoint(None, teacher.accuracy, where)
    file = path.parent / os.path.expanduser(teacher.checkpoint)  # leaves an unknown user's home as it is written

    def look() -> str:
        try:
            return hashlib.sha256(file.read_bytes()).hexdigest()
        except OSError as error:
            raise RequestError(
                f"{where}.checkpoint: {file}: {error.strerror}. Put the file there, or leave 'checkpoint' out: "
                "the teacher is then trained"
            ) from None

    digest = sources.take(f"checkpoint {teacher.checkpoint}", look)
    return given.but(checkpoint=digest), Checkpoint(file, teacher.accuracy, where)
