"""Slow: a method for these tests, handed in by `--plugin`. It takes its time, and its cohort saves every epoch."""

import time

from torch import Tensor

import bench.train
from bench.types import Batch, DataInfo, Features, Shapes
from methods.base import Distiller, register

bench.train.CHECKPOINT_S = 0.0


@register("slow", weight=1.0)
class Slow(Distiller):
    def __init__(self, student: Shapes, teacher: Shapes, data: DataInfo, *, step_s: float = 0.1) -> None:
        super().__init__(student, teacher, data)
        self.step_s = step_s

    def loss(self, student: Features, teacher: Features, batch: Batch) -> Tensor:
        """Return a term that is zero, after a while."""
        time.sleep(self.step_s)
        return 0 * student.logits.sum()
