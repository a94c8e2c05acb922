"""Builds the plan of a suite: every cell and every run that the cells need. Imports no torch.

The plan is a graph: a run lists the runs it needs, such as its teachers, and starts when all of them are done.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.data import views_of
from bench.plan.code import used_code
from bench.plan.controls import longer, with_initial_stage
from bench.plan.data import resolved
from bench.plan.duration import training_images
from bench.plan.evaluations import evaluated
from bench.plan.model import Cell, Checkpoint, Plan, Sources
from bench.plan.published_teachers import with_published_teachers
from bench.plan.students import cell_of, distilled, terms_of
from bench.plan.teachers import PairTeachers, pair_teachers, undistilled
from bench.plan.tuning import tuned
from bench.spec import DataSpec, RunSpec
from bench.store import Store
from bench.store.files import read_text
from bench.suite import LONGER, NONE, TEACHER, PairEntry, Row, Suite, rows
from bench.tasks import TASKS, task_of
from bench.types import RequestError
from methods import Method


def build_plan(
    suite: Suite,
    path: Path,
    methods: Mapping[str, Method],
    remembered: Mapping[str, Any] | None = None,
    changes: Sequence[str] = (),
    store: Store | None = None,
) -> Plan:
    """Return the plan of a suite; `changes` are those from the command line, for captions.

    A suite with `tuning` chooses settings by what its `store` has of the trials; without a store, all trials are open.
    `remembered` holds the `sources` of an earlier plan, which are used for files that no longer exist.

    Raises:
        RequestError: an image folder or a checkpoint is missing, or the data of teacher and student do not match.
    """
    sources = Sources(remembered or {})
    suite = with_published_teachers(suite, path, sources)
    data = resolved(suite.data, path, "data", sources)
    teacher_data = resolved(suite.teacher_data, path, "teacher_data", sources) if suite.teacher_data else data
    _check_views(suite, path, data, teacher_data)
    cells: list[Cell] = []
    runs: dict[str, RunSpec] = {}
    checkpoints: dict[str, Checkpoint] = {}
    problems: list[str] = []
    for index, pair in enumerate(suite.pairs):
        where = f"{path}: pairs[{index}].teacher"
        try:
            teachers = {
                seed: pair_teachers(suite, pair, seed, teacher_data, path, where, sources)
                for seed in suite.teacher_seed_list
            }
        except RequestError as error:
            problems.append(str(error))
            continue
        for of_seed in teachers.values():
            runs |= {run.id: run for run in of_seed.runs if run.id not in runs}
            problems += _add_checkpoints(of_seed.checkpoints, checkpoints)
        shown = trained = list(_pair_cells(suite, pair, data, teacher_data, teachers, methods))
        if suite.evaluations:
            shown = [evaluation for cell in trained for evaluation in evaluated(suite, cell, path, sources)]
        learning = [run for cell in trained for run in cell.runs if task_of(run).learns(run)]
        for run in (*learning, *(run for cell in shown for run in cell.runs)):
            runs.setdefault(run.id, run)
        cells += shown
    if problems:
        raise RequestError("\n".join(problems))
    code = used_code(runs.values(), methods)
    plan = Plan(
        suite=suite,
        name=path.stem,
        file=path,
        cells=tuple(cells),
        runs=runs,
        checkpoints=checkpoints,
        sources=sources.current,
        changes=tuple(changes),
        code=code,
        text=suite.text or read_text(path) or "",
        absolute=path.resolve(),
    )
    return tuned(plan, methods, sources, store)


def continued(plan: Plan, methods: Mapping[str, Method], store: Store) -> Plan | None:
    """Return the plan after results have ended a rung or chosen settings; None if they have done neither."""
    if not plan.awaited:
        return None
    again = build_plan(plan.suite, plan.absolute, methods, plan.sources, plan.changes, store)
    if again.runs.keys() == plan.runs.keys() and again.awaited == plan.awaited:
        return None
    return replace(again, file=plan.file, subfolder=plan.subfolder, text=plan.text)


def _check_views(suite: Suite, path: Path, data: DataSpec, teacher_data: DataSpec) -> None:
    """Raise a `RequestError` if teachers cannot see the images on which students learn from them."""
    views = views_of(data.name)
    if TASKS[suite.task].same_view:
        if teacher_data.size != data.size:
            raise RequestError(
                f"{path}: teacher_data: images of {teacher_data.size} pixels, but data has {data.size}: "
                "teacher and student see the same image. Set the same resize for both"
            )
    elif teacher_data.view not in (None, *views):
        raise RequestError(
            f"{path}: teacher_data: teachers see {teacher_data.view}, but images of {data.name}, which students "
            f"learn from, do not have it. Known: {', '.join(views) or 'no view'}"
        )


def _add_checkpoints(added: Sequence[tuple[str, Checkpoint]], checkpoints: dict[str, Checkpoint]) -> Iterator[str]:
    """Add the checkpoints of a pair; yield an error for each whose accuracy another pair states differently."""
    for run_id, checkpoint in added:
        known = checkpoints.setdefault(run_id, checkpoint)
        if known.accuracy is None:
            checkpoints[run_id] = checkpoint
        elif checkpoint.accuracy not in (None, known.accuracy):
            yield f"{checkpoint.where}.accuracy: {checkpoint.accuracy}, but {known.where} says {known.accuracy}"


def _pair_cells(
    suite: Suite,
    pair: PairEntry,
    data: DataSpec,
    teacher_data: DataSpec,
    teachers: Mapping[int, PairTeachers],
    methods: Mapping[str, Method],
) -> Iterator[Cell]:
    """Yield the cells of a pair: teacher, undistilled student, its control, then one cell per row and network."""
    task = TASKS[suite.task]
    labelled = [
        undistilled(suite, pair.student.spec, seed, data, suite.training, order) for seed, order in suite.student_seeds
    ]
    plain = [task.student(run, teacher_data) for run in labelled]
    tested = {one.tested.id: one.tested for one in teachers.values()}
    yield cell_of(pair, Row(TEACHER, TEACHER, standard=TEACHER), tuple(tested.values()))
    yield cell_of(pair, Row(NONE, NONE, standard=NONE), tuple(plain))
    first_teacher = pair.members[0].spec
    teacher_lr = suite.lr_by_network.get(first_teacher.network, suite.training.lr)
    of_pair = rows(suite, methods, pair.name)
    has_initial_stage = any(methods[name].has_initial_stage for row in of_pair for name, _ in row.terms)
    if suite.controls and task.has_controls and has_initial_stage:
        yield from _control(suite, pair, plain)
    is_paired = suite.teacher_seeds == "paired"  # else, each student learns from each of the teachers in turn
    for row in of_pair:
        terms = terms_of(row, len(pair.members), methods)
        taught = [
            distilled(run, row, terms, teacher.runs, suite.training, methods)
            for run in plain
            for teacher in ([teachers[run.seed]] if is_paired else teachers.values())
        ]
        taught_by_task = tuple(task.distilled(run, first_teacher, teacher_lr) for run in taught)
        for network in task.networks:
            yield cell_of(pair, row, taught_by_task, network)


def _control(suite: Suite, pair: PairEntry, plain: Sequence[RunSpec]) -> Iterator[Cell]:
    """Yield the cell of the undistilled student that trains as many more epochs as an initial stage has, if any."""
    if suite.training.initial_steps is not None and training_images(plain[0].data) is None:
        raise RequestError(
            "training.initial_steps: images of a folder are not counted when a suite is planned, so no control can "
            "train as long. State initial_epochs, or controls: false"
        )
    runs = tuple(longer(with_initial_stage(run, suite.training)) for run in plain)
    if extra := runs[0].training.epochs - plain[0].training.epochs:
        yield replace(cell_of(pair, Row(f"{LONGER}{extra} epoch{'s' * (extra > 1)}", NONE), runs), is_control=True)
