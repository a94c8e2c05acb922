"""Slow: a method for these tests, handed in by `--plugin`. It takes its time."""

import os
import time

from torch import Tensor

from bench.types import Batch, Features
from methods.base import Distiller, register

STEP_S = float(os.environ.get("SLOW_STEP_S", "0"))


@register("slow", weight=1.0)
class Slow(Distiller):
    def loss(self, student: Features, teacher: Features, batch: Batch) -> Tensor:
        """Return a term that is zero, after a while."""
        time.sleep(STEP_S)
        return 0 * student.logits.sum()
