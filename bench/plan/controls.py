"""Plans the control of rows with an initial stage: the undistilled student with as many more epochs. No torch."""

from bench.spec import RunSpec, Schedule


def with_initial_stage(run: RunSpec, schedule: Schedule) -> RunSpec:
    """Return an undistilled run with the initial stage of a schedule, which `longer` turns into epochs."""
    return run.but(schedule=run.training.model_copy(update={"initial_epochs": schedule.initial_epochs}))


def longer(run: RunSpec) -> RunSpec:
    """Return an undistilled run that trains for as many more epochs as its initial stage has.

    An initial stage has a constant learning rate. The further epochs therefore come first, at the initial rate, and
    every milestone comes so many epochs later. A run with terms, or without an initial stage, stays as it is.
    """
    schedule = run.training
    extra = schedule.initial_epochs
    if run.terms or not extra:
        return run
    changes = {
        "epochs": schedule.epochs + extra,
        "milestones": tuple(milestone + extra for milestone in schedule.milestones),
        "initial_epochs": 0,
    }
    return run.but(schedule=schedule.model_copy(update=changes))
