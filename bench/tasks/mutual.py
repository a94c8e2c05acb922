"""Mutual learning: the two networks of a pair train together, each the other's teacher.

Paper: Zhang, Xiang, Hospedales and Lu, Deep Mutual Learning, CVPR 2018. There the networks step in turn, and the second
sees new predictions of the first; here both step from the outputs of the same weights.
"""

from typing import ClassVar

from bench.spec import PEER, STUDENT, NetworkSpec, RunSpec
from bench.tasks.base import Task


class Mutual(Task):
    name = "mutual"
    networks = (STUDENT, PEER)
    shares_batches_with = "compression"
    keeps_outputs = True
    rejected_keys: ClassVar = {"teacher_data": "in mutual learning both networks see the same data: leave it out"}
    caption = (
        "Both networks of a pair train together, each the other's teacher, except in the rows teacher and none; "
        "rows that end in (teacher) are the teacher's."
    )

    def distilled(self, run: RunSpec, teacher: NetworkSpec, teacher_lr: float) -> RunSpec:
        """Return the run in which the teacher trains together with the student, instead of before it."""
        peer_lr = None if teacher_lr == run.training.lr else teacher_lr
        return run.but(task=self.name, student=run.student.alone, teachers=(), peer=teacher, peer_lr=peer_lr)
