"""Plans the students of a pair: a run for each row and seed, and the row's cell. Imports no torch."""

from collections.abc import Mapping, Sequence

from bench.plan.controls import initial_stage
from bench.plan.model import Cell
from bench.plan.reuse import reusing
from bench.schedule import NO_INITIAL_STAGE, Schedule
from bench.spec import STUDENT, RunSpec, TermSpec
from bench.suite import PairEntry, Row
from bench.suite.schema import PEERS
from bench.tasks import task_of
from methods import Method


def terms_of(row: Row, teachers: int, methods: Mapping[str, Method]) -> tuple[TermSpec, ...]:
    """Return the terms of a row, which are the same for all seeds, in a pair with that number of teachers."""
    terms = []
    for name, given in row.terms:
        method = methods[name]
        weight, warmup = (given.get(key, method.default(key)) for key in ("weight", "warmup"))
        settings = {
            key: parameter.adapter.validate_python(given.get(key, parameter.default))
            for key, parameter in method.parameters.items()
        }
        for key in method.added:  # runs from before the parameter was added keep their ids
            if settings[key] == method.parameters[key].default:
                del settings[key]
        weight = weight * (teachers if row.combine == "one" else 1)
        term = TermSpec(method=name, version=method.version, weight=weight, warmup=warmup or None, parameters=settings)
        terms.append(term)
    return tuple(terms)


def distilled(
    plain: RunSpec,
    row: Row,
    terms: tuple[TermSpec, ...],
    teachers: Sequence[RunSpec],
    training: Schedule,
    methods: Mapping[str, Method],
) -> RunSpec:
    """Return an undistilled run with the terms of a row, and the initial stage of `training` if they have one."""
    used = teachers[:1] if row.combine == "one" else teachers
    task_weight = methods[row.terms[0][0]].task_weight if row.task_weight is None else row.task_weight
    if task_of(plain).objective is None:
        task_weight = plain.task_weight  # there are no labels
    has_initial_stage = any(methods[name].has_initial_stage for name, _ in row.terms)
    run = plain.but(
        schedule=plain.training.model_copy(update=initial_stage(training) if has_initial_stage else NO_INITIAL_STAGE),
        terms=terms,
        task_weight=task_weight,
        teachers=tuple(run.id for run in used),
        combine="sum" if row.combine == "one" or len(used) == 1 else row.combine,  # with one, all are the same run
    )
    return reusing(run, used[0].student, methods)


def cell_of(pair: PairEntry, row: Row, runs: tuple[RunSpec, ...], network: str = STUDENT) -> Cell:
    """Return the cell of a row; a network that trains together with the student has its own label."""
    task = task_of(runs[0])
    is_peer, has_dev = network != STUDENT, runs[0].data.has_dev
    return Cell(
        pair=pair.name,
        teacher=pair.teacher_name,
        student=pair.student.network,
        method=row.method,
        label=f"{row.label}{PEERS}" if is_peer else row.label,
        overrides="" if is_peer else row.overrides,
        standard="" if is_peer else row.standard,
        published="" if is_peer else row.published,
        runs=runs,
        metrics=dict(zip(task.columns(has_dev=has_dev), task.columns(network, has_dev), strict=True)),
        network=network,
        in_grid=row.in_grid,
        variant=row.variant,
    )
