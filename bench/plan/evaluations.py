"""Plans the runs that evaluate trained networks: one cell per evaluation and stage. Imports no torch."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from bench.plan.data import resolved
from bench.plan.model import Cell, Sources
from bench.schedule import NO_INITIAL_STAGE
from bench.spec import HeadSpec, RunSpec
from bench.suite import NONE
from bench.suite.evaluations import EvaluationEntry
from bench.suite.schema import Suite
from bench.tasks import EVALUATIONS, task_of
from bench.types import RequestError

DEV_FRACTION = 0.2  # of the training images, on which a solver's penalty is chosen, unless the suite says how many
MAX_VALUES = 9000  # values of a stage that a linear probe reads


def evaluated(suite: Suite, cell: Cell, path: Path, sources: Sources) -> Iterator[Cell]:
    """Yield the cells that evaluate the networks trained by the runs of a cell: one per evaluation and stage."""
    taken: set[str] = set()
    for index, evaluation in enumerate(suite.evaluations):
        key = f"evaluations[{index}]"
        choice = evaluation.data
        if view := cell.runs[0].data.view:  # that the network was trained with; it has its own normalisation
            choice = choice.model_copy(update={"view": view, "mean": None, "std": None})
        task = EVALUATIONS[evaluation.kind]
        if task.is_solved and choice.dev_per_class is None and choice.dev_fraction is None:
            choice = choice.model_copy(update={"dev_fraction": DEV_FRACTION})
        if problems := choice.problems():
            raise RequestError(f"{path}: {key}.data: {'; '.join(problems)}")
        data = resolved(choice, path, f"{key}.data", sources)
        for stage in evaluation.stages or (None,):
            name = _name(suite, evaluation, stage)
            recorded = task.columns(has_dev=data.has_dev)
            metrics = {f"{name}_{metric}" if name else metric: metric for metric in recorded}
            if twice := sorted(taken & metrics.keys()):
                raise RequestError(f"{path}: {key}: {twice[0]} twice: give each evaluation its own 'name'")
            taken |= metrics.keys()
            most_values = None if stage is None else evaluation.most_values or MAX_VALUES
            schedule = evaluation.training.model_copy(update=NO_INITIAL_STAGE)
            if cell.method == NONE and evaluation.none_lr is not None:
                schedule = schedule.model_copy(update={"lr": evaluation.none_lr})
            runs = [
                RunSpec(
                    task=evaluation.kind,
                    student=run.student,
                    data=data,
                    schedule=None if task.is_solved else schedule,
                    seed=run.seed,
                    order_seed=run.order_seed,
                    head=HeadSpec(classes=run.data.classes, stage=stage, most_values=most_values),
                    source=run.id if task_of(run).learns(run) else None,
                )
                for run in cell.runs
            ]
            yield replace(cell, runs=tuple(runs), metrics=metrics, evaluation=name)


def _name(suite: Suite, evaluation: EvaluationEntry, stage: int | None) -> str:
    """Return the prefix of the metrics of an evaluation in the tables; "" if there is only one evaluation."""
    several_data = len({one.data.name for one in suite.evaluations}) > 1
    words = [evaluation.name or ""]
    if not evaluation.name and len(suite.evaluations) > 1:
        task = EVALUATIONS[evaluation.kind]
        words = [evaluation.data.name if several_data else "", task.prefix(several_data, evaluation.stages)]
    if stage is not None:
        words.append(f"stage{stage}")
    return "_".join(filter(None, words))
