"""The tasks by name; one file per task. Imports no torch."""

from bench.spec import RunSpec
from bench.tasks.base import Evaluation, Task
from bench.tasks.compression import Compression
from bench.tasks.cross_modal import CrossModal
from bench.tasks.finetune import FineTune
from bench.tasks.logistic import Logistic
from bench.tasks.mutual import Mutual
from bench.tasks.objectives import Metric
from bench.tasks.probe import LinearProbe
from bench.tasks.segmentation import Segmentation
from bench.types import RequestError, suggest

STUDENT_TASKS: dict[str, Task] = {task.name: task for task in (Compression(), CrossModal(), Mutual())}
EVALUATIONS: dict[str, Evaluation] = {
    task.name: task for task in (LinearProbe(), Logistic(), FineTune(), Segmentation())
}
TASKS: dict[str, Task] = STUDENT_TASKS | EVALUATIONS


def task_of(run: RunSpec) -> Task:
    """Return the task of a run."""
    if run.task not in TASKS:  # the run was specified by another version
        raise RequestError(f"run {run.id}: unknown task {run.task!r}. {suggest(run.task, TASKS)}")
    return TASKS[run.task]


__all__ = ["EVALUATIONS", "STUDENT_TASKS", "TASKS", "Evaluation", "Metric", "Task", "task_of"]
