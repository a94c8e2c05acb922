"""Cross-modal transfer: a student of one modality learns from a teacher of another, without labels.

The student has its teacher's classes. Evaluations measure what it has learned; the row `none` has initial weights.
"""

from typing import ClassVar

from bench.spec import DataSpec, RunSpec
from bench.tasks.base import Task


class CrossModal(Task):
    name = "cross_modal"
    objective = None
    same_view = False
    evaluates_given_teachers = False  # their accuracy is not needed, and often there is no data to measure it
    required_keys: ClassVar = {
        "evaluations": "how its students are evaluated",
        "teacher_data": "what teachers are trained on, in their view",
    }
    caption = "Students learn from their teachers alone; none is a student with its initial weights."

    def student(self, run: RunSpec, teacher_data: DataSpec) -> RunSpec:
        """Return a run without labels, of a student with the teacher's classes."""
        data = run.data.model_copy(update={"classes": teacher_data.classes})
        return run.but(task=self.name, data=data, task_weight=0.0)

    def learns(self, run: RunSpec) -> bool:
        """Return whether the run has a teacher to learn from or given weights; there are no labels."""
        return bool(run.terms) or run.checkpoint is not None
