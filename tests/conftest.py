import os
from pathlib import Path

import pytest

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as the command line does, before torch is imported

OWN_GOLDENS = Path(__file__).parent / "golden"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--golden", type=Path, default=OWN_GOLDENS, help="folder of losses*, models*, trajectories*.json")


@pytest.fixture(scope="session", autouse=True)
def _few_points() -> None:
    """Let t-SNE place few points: it takes longer than a small suite's training, and each suite's end draws it."""
    from bench.figures import tsne

    tsne.MOST_POINTS = 40
