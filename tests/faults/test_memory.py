"""What a long run holds does not grow, and a lane that asks for too much ends alone."""

import os
from pathlib import Path

import pytest

from tests.faults.conftest import TINY
from tests.train.conftest import OFTEN, Bench, Silent, cell, document, rows, weights

MAX_GROWTH_MB = 30
GREEDY = """
import torch
from torch import Tensor

from bench.types import Batch, Features
from methods.base import Distiller, register


@register("greedy", weight=1.0)
class Greedy(Distiller):
    def loss(self, student: Features, teacher: Features, batch: Batch) -> Tensor:
        return student.logits.sum() * torch.zeros(2**50).sum()
"""


class Watching(Silent):
    """Measures memory and open files after every epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.resident_mb: list[float] = []
        self.files: list[int] = []

    def epoch(self, lanes, clock, seconds, steps):
        super().epoch(lanes, clock, seconds, steps)
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        self.resident_mb.append(pages * os.sysconf("SC_PAGE_SIZE") / 2**20)
        self.files.append(len(os.listdir("/proc/self/fd")))


@pytest.mark.parametrize("epochs", [40, pytest.param(500, marks=pytest.mark.slow)])
def test_memory_and_open_files_stay_flat(epochs, tmp_path):
    training = {"epochs": epochs, "batch_size": 16, "milestones": [2], "evaluate_every": 10, "initial_epochs": 0}
    data = TINY["data"] | {"resize": 32}  # a step's tensors are then large enough to be seen if they are kept
    suite = Bench(tmp_path, document(**TINY | OFTEN | {"data": data, "training": training}))
    observer = Watching()
    suite.run(only=["none"], observer=observer)
    settled = epochs // 4
    grown_mb = max(observer.resident_mb[settled:]) - observer.resident_mb[settled]
    assert grown_mb < MAX_GROWTH_MB
    assert max(observer.files[settled:]) <= observer.files[settled] + 2
    print(f"{epochs} epochs: {grown_mb:.1f} MB more, {observer.files[-1] - observer.files[settled]} files")  # noqa: T201


def test_a_lane_that_runs_out_of_memory_fails_alone_and_the_others_end_as_without_it(tmp_path):
    plugin = tmp_path / "greedy.py"
    plugin.write_text(GREEDY)
    suite = Bench(tmp_path, document(**TINY | {"methods": ["kd", {"method": "greedy", "label": "greedy"}]}), [plugin])
    plan, store, _ = suite.run()
    _, alone, _ = suite.run("alone", only=["none", "KD"])
    failure = store.failure(cell(plan, "greedy").runs[0].id)
    assert failure is not None
    assert failure.status == "failed"
    assert "memory" in failure.reason
    for label in ("none", "KD"):
        run_id = cell(plan, label).runs[0].id
        assert weights(store, run_id) == weights(alone, run_id)
        assert rows(store, run_id) == rows(alone, run_id)
