from pathlib import Path

import pytest

OWN_GOLDENS = Path(__file__).parent / "golden"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--golden", type=Path, default=OWN_GOLDENS, help="folder of losses*, models*, trajectories*.json")
