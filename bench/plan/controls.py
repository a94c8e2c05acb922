"""Plans the control of rows with an initial stage: the undistilled student with as many more epochs. No torch."""

from bench.plan.duration import initial_epochs
from bench.schedule import NO_INITIAL_STAGE, Schedule
from bench.spec import RunSpec


def initial_stage(schedule: Schedule) -> dict[str, int | None]:
    """Return a schedule's values that say how long an initial stage is."""
    return {key: getattr(schedule, key) for key in NO_INITIAL_STAGE}


def with_initial_stage(run: RunSpec, schedule: Schedule) -> RunSpec:
    """Return an undistilled run with the initial stage of a schedule, which `longer` turns into epochs."""
    return run.but(schedule=run.training.model_copy(update=initial_stage(schedule)))


def longer(run: RunSpec) -> RunSpec:
    """Return an undistilled run that trains for as many more epochs as its initial stage has.

    An initial stage has a constant learning rate. The further epochs therefore come first, at the initial rate, and
    every milestone moves by the same number. Steps are rounded up to whole epochs. A run with terms, or without an
    initial stage, stays as it is.
    """
    schedule = run.training
    extra = initial_epochs(run)
    if run.terms or not extra:
        return run
    changes = {
        "epochs": schedule.epochs + extra,
        "milestones": tuple(milestone + extra for milestone in schedule.milestones),
        **NO_INITIAL_STAGE,
    }
    return run.but(schedule=schedule.model_copy(update=changes))
