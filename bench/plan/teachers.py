"""Plans the teachers of a pair: each is trained by a run, or its given weights are evaluated. Imports no torch."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from bench.data import IMAGEFOLDER
from bench.data.folders import list_divided
from bench.plan.model import Checkpoint, Sources
from bench.reading import open_regular
from bench.schedule import NO_INITIAL_STAGE, Schedule
from bench.spec import DataSpec, NetworkSpec, RunSpec
from bench.suite.pairs import PairEntry, TeacherChoice
from bench.suite.schema import Suite
from bench.suite.seeds import MAX_SEEDS
from bench.tasks import TASKS
from bench.types import RequestError


@dataclass(frozen=True)
class PairTeachers:
    """The teachers of a pair for one seed."""

    runs: tuple[RunSpec, ...]  # one per teacher
    checkpoints: list[tuple[str, Checkpoint]]  # each with the id of the run that evaluates it
    tested: RunSpec  # the run shown in the teacher row: that of the only teacher, or of all teachers as an ensemble


def undistilled(
    suite: Suite, network: NetworkSpec, seed: int, data: DataSpec, schedule: Schedule, order_seed: int | None = None
) -> RunSpec:
    """Return the run that trains a network on labels alone; `order_seed` is `seed` if not given."""
    schedule = suite.schedule_of(network.network, schedule).model_copy(update=NO_INITIAL_STAGE)
    return RunSpec(student=network, data=data, schedule=schedule, seed=seed, order_seed=order_seed)


def pair_teachers(
    suite: Suite, pair: PairEntry, seed: int, data: DataSpec, path: Path, where: str, sources: Sources
) -> PairTeachers:
    """Return the teachers of a pair; `seed` is that of the first; equal ones that are trained here differ in it.

    `where` is the position of the teachers in the suite file, for messages.
    """
    step = 1 if suite.teacher_seeds == "fixed" and not suite.crosses_teachers else MAX_SEEDS
    runs: list[RunSpec] = []
    checkpoints: list[tuple[str, Checkpoint]] = []
    for index, teacher in enumerate(pair.members):
        equal_before = pair.members[:index].count(teacher)
        run, checkpoint = _teacher(suite, teacher, seed + equal_before * step, data, path, where, sources)
        runs.append(run)
        if checkpoint is not None:
            checkpoints.append((run.id, checkpoint))
    tested = runs[0]
    if len(runs) > 1:
        ensemble = NetworkSpec(network=pair.teacher_name)
        tested = RunSpec(student=ensemble, data=tested.data, seed=seed, teachers=tuple(run.id for run in runs))
    return PairTeachers(tuple(runs), checkpoints, tested)


def _teacher(
    suite: Suite, teacher: TeacherChoice, seed: int, data: DataSpec, path: Path, where: str, sources: Sources
) -> tuple[RunSpec, Checkpoint | None]:
    """Return the run that trains a teacher and None, or the run that evaluates its weights and their file."""
    task = TASKS[suite.task]
    if teacher.checkpoint is None and teacher.weights is None:
        return undistilled(suite, teacher.spec, seed, data, suite.teacher_schedule).but(task=task.teacher_task), None
    name = task.teacher_task if teacher.is_tested or task.evaluates_given_teachers else task.name
    given = RunSpec(task=name, student=teacher.spec, data=data, schedule=None, seed=0, checkpoint=teacher.weights)
    if teacher.checkpoint is None:
        return given, Checkpoint(None, teacher.accuracy, where)
    file = path.parent / os.path.expanduser(teacher.checkpoint)  # does not raise if `~user` is unknown

    def look() -> str:
        try:
            with open_regular(file) as opened:
                return hashlib.file_digest(opened, "sha256").hexdigest()
        except RequestError as error:
            raise RequestError(f"{where}.checkpoint: {error}") from None
        except OSError as error:
            raise RequestError(
                f"{where}.checkpoint: {file}: {error.strerror}. Put the file there, or leave 'checkpoint' out: "
                "the teacher is then trained"
            ) from None

    digest = sources.take(f"checkpoint {teacher.checkpoint}", look)
    if teacher.classes is not None and data.path is not None and data.path.exists():
        _check_classes(path.parent / os.path.expanduser(teacher.classes), data, f"{where}.classes")
    elif teacher.classes is not None and data.name != IMAGEFOLDER:
        raise RequestError(
            f"{where}.classes: the names of the classes of {data.name} are not known here, only those of an "
            f"{IMAGEFOLDER}. Leave 'classes' out, and give 'accuracy', which a wrong order does not reach"
        )
    renamed = {old: new for old, new in (teacher.rename or {}).items() if old != new} or None
    given = given.but(checkpoint=digest, checkpoint_key=teacher.key, checkpoint_rename=renamed)
    return given, Checkpoint(file, teacher.accuracy, where)


def _check_classes(file: Path, data: DataSpec, where: str) -> None:
    """Raise a `RequestError` unless a file names the classes of an image folder in their order."""
    assert data.path is not None  # the caller has asked
    try:
        with open_regular(file) as opened:
            named = opened.read().decode().split("\n")
    except RequestError as error:
        raise RequestError(f"{where}: {error}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"{where}: {file}: cannot be read: {error}. Name a text file, one class a line") from None
    named = [line.strip() for line in named if line.strip()]
    folders = list(list_divided(data.path, data.test_fraction)["train"])
    if len(named) != len(folders):
        raise RequestError(f"{where}: {file} names {len(named)} classes, but {data.path} has {len(folders)}")
    for number, (one, other) in enumerate(zip(named, folders, strict=True)):
        if one != other:
            raise RequestError(
                f"{where}: output {number} is {one!r} in {file}, but {other!r} in {data.path}, whose folders are "
                "sorted as text. Reorder the weights and the bias of the classifier, or rename the folders"
            )
