import os
from pathlib import Path

import pytest

from tests.few import use_few

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as the command line does, before torch is imported
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests run side by side; what trains a suite sets its own number

OWN_GOLDENS = Path(__file__).parent / "golden"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--golden", type=Path, default=OWN_GOLDENS, help="folder of losses*, models*, trajectories*.json")


@pytest.fixture
def few(monkeypatch):
    """Evaluate on few digits and draw few points and files: all three take longer than a tiny suite's training."""
    use_few(monkeypatch)
