"""Plans the runs that evaluate trained networks: one cell per evaluation and stage. Imports no torch."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from bench.plan.data import resolved
from bench.plan.model import Cell, Sources
from bench.spec import NO_INITIAL_STAGE, HeadSpec, RunSpec
from bench.suite.schema import EvaluationEntry, Suite
from bench.tasks import EVALUATIONS, task_of
from bench.types import RequestError

MAX_VALUES = 9000  # values of a stage that a linear probe reads


def evaluated(suite: Suite, cell: Cell, path: Path, sources: Sources) -> Iterator[Cell]:
    """Yield the cells that evaluate the networks trained by the runs of a cell: one per evaluation and stage."""
    taken: set[str] = set()
    for index, evaluation in enumerate(suite.evaluations):
        key = f"evaluations[{index}]"
        choice = evaluation.data
        if view := cell.runs[0].data.view:  # that the network was trained with; it has its own normalisation
            choice = choice.model_copy(update={"view": view, "mean": None, "std": None})
        if problems := choice.problems():
            raise RequestError(f"{path}: {key}.data: {'; '.join(problems)}")
        data = resolved(choice, path, f"{key}.data", sources)
        for stage in evaluation.stages or (None,):
            name = _name(suite, evaluation, stage)
            recorded = EVALUATIONS[evaluation.kind].columns()
            metrics = {f"{name}_{metric}" if name else metric: metric for metric in recorded}
            if twice := sorted(taken & metrics.keys()):
                raise RequestError(f"{path}: {key}: {twice[0]} twice: give each evaluation its own 'name'")
            taken |= metrics.keys()
            most_values = None if stage is None else evaluation.most_values or MAX_VALUES
            runs = [
                RunSpec(
                    task=evaluation.kind,
                    student=run.student,
                    data=data,
                    schedule=evaluation.training.model_copy(update=NO_INITIAL_STAGE),
                    seed=run.seed,
                    head=HeadSpec(classes=run.data.classes, stage=stage, most_values=most_values),
                    source=run.id if task_of(run).learns(run) else None,
                )
                for run in cell.runs
            ]
            yield replace(cell, runs=tuple(runs), metrics=metrics, evaluation=name.rstrip("_"))


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
