"""The tasks: one object per task, one file per object, looked up by name. Importing this package imports no torch."""

from bench.spec import RunSpec
from bench.tasks.base import Evaluation, Task
from bench.tasks.compression import Compression
from bench.tasks.cross_modal import CrossModal
from bench.tasks.finetune import FineTune
from bench.tasks.mutual import Mutual
from bench.tasks.objectives import Metric
from bench.tasks.probe import Probe
from bench.tasks.segmentation import Segmentation

TASKS: dict[str, Task] = {
    task.name: task for task in (Compression(), CrossModal(), Mutual(), Probe(), FineTune(), Segmentation())
}
EVALUATIONS: dict[str, Evaluation] = {name: task for name, task in TASKS.items() if isinstance(task, Evaluation)}


def task_of(run: RunSpec) -> Task:
    """Return the task of a run."""
    return TASKS[run.task]


__all__ = ["EVALUATIONS", "TASKS", "Evaluation", "Metric", "Task", "task_of"]
