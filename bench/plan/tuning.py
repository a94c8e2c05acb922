"""Adds the tuned rows to a plan: trials, the choice of settings by their results, and final runs. Imports no torch.

A choice is a function of the trials' results alone: the best metric on the dev images after the last epoch, the mean
over seeds; among equal ones, the first trial. A trial without a result, for example because it diverged, is the worst.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from statistics import mean

from bench.plan.controls import longer, with_initial_stage
from bench.plan.data import resolved
from bench.plan.model import Cell, Choice, Plan, Sources, Trial
from bench.plan.space import own_settings, points, settings_at, space_of, with_settings
from bench.plan.status import OPEN, Statuses, statuses
from bench.plan.students import distilled, terms_of
from bench.plan.teachers import pair_teachers, undistilled
from bench.schedule import Scalar, Schedule
from bench.spec import RunSpec
from bench.store import Store, number_in
from bench.suite import TEACHER, Row, rows
from bench.suite.tuning import TUNED
from bench.tasks import task_of
from methods import Method

SEED = 2**32  # of the first trial and its teacher; seeds of a suite are smaller


def tuned(plan: Plan, methods: Mapping[str, Method], sources: Sources, store: Store | None) -> Plan:
    """Return a plan with the tuned row after each row of its students; without `tuning` in its suite, the same plan."""
    suite = plan.suite
    if suite.tuning is None:
        return plan
    choice = suite.data.model_copy(update=suite.tuning.dev)
    data = resolved(choice, plan.file, "data", sources)
    assert data.held_out is not None  # the suite says how many
    held_out = data.held_out.model_copy(update={"opens_test": False})
    data = teacher_data = data.model_copy(update={"held_out": held_out})
    if suite.teacher_data is not None:
        of_subset = {"of_per_class": data.train_per_class, "of_fraction": data.train_fraction}
        if data.train_per_class is None and data.train_fraction is None:
            of_subset["of_fraction"] = 1.0
        teacher_data = resolved(suite.teacher_data, plan.file, "teacher_data", sources)
        teacher_data = teacher_data.model_copy(update={"held_out": held_out.model_copy(update=of_subset)})
    plan = replace(plan, runs=dict(plan.runs), checkpoints=dict(plan.checkpoints), sources=sources.current)
    cells: list[Cell] = []
    for index, pair in enumerate(suite.pairs):
        where = f"{plan.file}: pairs[{index}].teacher"
        teachers = pair_teachers(suite, pair, SEED, teacher_data, plan.file, where, sources)
        plan.runs.update({run.id: run for run in teachers.runs if run.id not in plan.runs})
        # the accuracy that the suite states is that on the test images
        plan.checkpoints.update({name: replace(given, accuracy=None) for name, given in teachers.checkpoints})
        seeds = range(SEED, SEED + suite.tuning.seeds)
        plain = [undistilled(suite, pair.student.spec, seed, data, suite.training) for seed in seeds]
        by_label = {row.label: row for row in rows(suite, methods, pair.name)}
        for cell in (cell for cell in plan.cells if cell.pair == pair.name):
            cells.append(cell)
            if cell.method == TEACHER:
                continue
            row = by_label.get(cell.label)  # None for the undistilled student and its control
            own = plain
            if row is not None:
                terms = terms_of(row, len(teachers.runs), methods)
                own = [distilled(run, row, terms, teachers.runs, suite.training, methods) for run in plain]
            elif cell.is_control:
                own = [with_initial_stage(run, suite.training) for run in plain]
            cells.append(_tuned_cell(plan, cell, own, row, methods, store))
    return replace(plan, cells=tuple(cells))


def shown(value: Scalar) -> str:
    """Return a searched value as text."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def _tuned_cell(
    plan: Plan,
    cell: Cell,
    own: Sequence[RunSpec],
    row: Row | None,
    methods: Mapping[str, Method],
    store: Store | None,
) -> Cell:
    """Return the cell of a row with searched settings and add its runs to the plan."""
    choice = _choice(plan, own, row, methods, store)
    settings = choice.best.settings if choice.best else {}
    runs = tuple(with_settings(run, settings, methods) for run in cell.runs)
    if not choice.awaits:
        for run in runs:
            plan.runs.setdefault(run.id, run)
    return replace(
        cell,
        label=f"{cell.label}{TUNED}",
        overrides=", ".join(f"{name}={shown(value)}" for name, value in settings.items()),
        standard="",
        published="",  # published numbers are those of other settings
        runs=runs,
        choice=choice,
    )


def _choice(
    plan: Plan, own: Sequence[RunSpec], row: Row | None, methods: Mapping[str, Method], store: Store | None
) -> Choice:
    """Return a row's search as far as the store has its results; each rung begins when the one before has ended."""
    tuning = plan.suite.tuning
    assert tuning is not None  # the caller has asked
    space = space_of(own[0], row, methods, tuning.space)
    settings: dict[int, Mapping[str, Scalar]] = {0: own_settings(own[0], space, methods)}
    settings |= {number: settings_at(space, point) for number, point in enumerate(points(tuning.trials - 1), start=1)}
    left, trials = list(settings), []
    rungs = tuning.rung_trials or {own[0].training.epochs: tuning.trials}
    for begun, (epochs, count) in enumerate(rungs.items(), start=1):
        # the row's own settings continue with the best, so that the choice never has a lower dev metric than they
        numbers = dict.fromkeys([*left[:count], 0])
        rung = list(_trials(plan, own, {number: settings[number] for number in numbers}, epochs, methods, store))
        trials += rung
        if any(trial.is_open for trial in rung):
            ended = sum(not trial.is_open for trial in trials)
            known = len(trials) + sum(list(rungs.values())[begun:])
            later = tuple(_later(own, len(rung), list(rungs.items())[begun:]))
            return Choice(space, tuple(trials), f"tuning {ended}/{known}", None, later)
        # trials without a result are last; among equal ones, the first comes first
        rung.sort(key=lambda trial: (trial.value is None, -(trial.value or 0.0), trial.number))
        left = [trial.number for trial in rung]
    best = rung[0] if rung[0].value is not None else None
    return Choice(space, tuple(trials), "", best)


def _later(own: Sequence[RunSpec], trials: int, rungs: Sequence[tuple[int, int]]) -> Iterator[RunSpec]:
    """Yield as many runs as may train in later rungs, given the trials of the rung before, with the row's settings."""
    for epochs, count in rungs:
        trials = min(count + 1, trials)  # the row's own settings may not be among the best
        yield from (_lasting(run, epochs) for run in own for _ in range(trials))


def _trials(
    plan: Plan,
    own: Sequence[RunSpec],
    settings: Mapping[int, Mapping[str, Scalar]],
    epochs: int,
    methods: Mapping[str, Method],
    store: Store | None,
) -> Iterator[Trial]:
    """Yield the trials of a rung with what the store has of them, and add their runs to the plan."""
    lasting = [longer(_lasting(run, epochs)) for run in own]
    runs = {number: tuple(with_settings(run, one, methods) for run in lasting) for number, one in settings.items()}
    everything = [run for of_trial in runs.values() for run in of_trial]
    for run in everything:
        plan.runs.setdefault(run.id, run)
    status_of: Statuses = {} if store is None else statuses(everything, plan, store)
    for number, of_trial in runs.items():
        states = [status_of.get(run.id, ("waiting", ""))[0] for run in of_trial]
        if any(state in (*OPEN, "stale") for state in states):
            yield Trial(number, settings[number], of_trial, "waiting")
        elif any(state != "done" for state in states):
            ended = next(state for state in states if state != "done")
            yield Trial(number, settings[number], of_trial, ended)
        else:
            assert store is not None  # it has the records
            yield Trial(number, settings[number], of_trial, "done", mean(_result(run, store) for run in of_trial))


def _result(run: RunSpec, store: Store) -> float:
    """Return the primary metric of a finished trial after its last epoch, in percent."""
    record = store.record(run.id)
    assert record is not None  # its status is done
    return number_in(record, task_of(run).metrics[0].name, store.folder(run.id)) or 0.0


def _lasting(run: RunSpec, epochs: int) -> RunSpec:
    """Return a run whose whole schedule is scaled to a number of epochs, and that is evaluated after the last one."""
    whole = run.training
    if epochs == whole.epochs:
        return run.but(schedule=whole.model_copy(update={"evaluate_every": epochs}))

    def scaled(count: int | None) -> int:
        return max(1, round(count * epochs / whole.epochs)) if count else 0

    milestones = tuple(dict.fromkeys(scaled(milestone) for milestone in whole.milestones))
    changes = {"epochs": epochs, "milestones": milestones, "initial_epochs": scaled(whole.initial_epochs)}
    changes |= {"initial_steps": scaled(whole.initial_steps) or None}
    changes |= {"warmup_epochs": scaled(whole.warmup_epochs) or None}
    schedule: Schedule = whole.model_copy(update=changes | {"evaluate_every": epochs})
    terms = tuple(term.model_copy(update={"warmup": scaled(term.warmup) or None}) for term in run.terms)
    return run.but(schedule=schedule, terms=terms)
