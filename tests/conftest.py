import os
from pathlib import Path

import pytest

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as the command line does, before torch is imported

OWN_GOLDENS = Path(__file__).parent / "golden"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--golden", type=Path, default=OWN_GOLDENS, help="folder of losses*, models*, trajectories*.json")


# What these import, torch among it, is imported where they are used: most tests of a plan or a report need none of it.


@pytest.fixture
def few(monkeypatch):
    """Test networks on few digits and let t-SNE place few points: both take longer than a tiny suite's training."""
    from tests.few import use_few

    use_few(monkeypatch)


@pytest.fixture
def bench(tmp_path):
    """Return a way to make a suite: `bench(methods=["kd"], seeds=2)`."""
    from tests.train.conftest import Bench, document

    return lambda plugins=(), **changes: Bench(tmp_path, document(**changes), plugins)


@pytest.fixture
def cohort(bench):
    """Return a way to make a cohort at its start: its lanes by method, training data, teachers and test split."""
    from bench.data import images
    from bench.data.batches import TrainingData
    from bench.train.build import build_lane, build_network, network_shapes
    from bench.train.lane import Teacher
    from tests.train.conftest import ALL, CPU, cell, torch

    def make(device: torch.device = CPU, **changes: object):
        suite = bench(**{"methods": ALL, **changes})
        plan = suite.plan()
        run = cell(plan, "teacher").runs[0]
        network = build_network(run.student, run.data).to(device).to(memory_format=torch.channels_last)
        teachers = {run.id: Teacher(network.eval().requires_grad_(False), network_shapes(run.student, run.data))}
        train, test = images.load(run.data, suite.folder, device, workers=0)
        data = TrainingData(run.data, train, device, run.data)
        runs = {one.label.split()[0]: one.runs[0] for one in plan.cells}
        lanes = {label: build_lane(spec, teachers, data.info, suite.methods, device) for label, spec in runs.items()}
        return lanes, data, teachers, test

    return make
