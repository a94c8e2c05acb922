import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.few import WHOLE, use_few
from tests.forks import set_up_server

if TYPE_CHECKING:
    from tests.train.conftest import Bench

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as the command line does, before torch is imported
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests run side by side; what trains a suite sets its own number
os.environ.setdefault("LOKY_MAX_CPU_COUNT", "1")  # one job, whatever the machine, unless a test names a number

OWN_GOLDENS = Path(__file__).parent / "golden"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--golden", type=Path, default=OWN_GOLDENS, help="folder of losses*, later*, models*, trajectories*.json"
    )
    parser.addoption("--whole", action="store_true", help="take no shortcut: see tests/few.py")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--whole"):
        os.environ[WHOLE] = "1"
    set_up_server()


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path_factory):
    """Keep what tests remember out of the user's cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> "Bench":
    """Return a tiny suite of KD that was trained once for all tests; none writes into its folder."""
    from tests.train.conftest import Bench, document

    suite = Bench(tmp_path_factory.mktemp("tiny"), document())
    suite.run()
    return suite


@pytest.fixture
def forgets_networks(monkeypatch):
    """Forget at the end which networks of users' files a test has registered."""
    from bench.models import own

    monkeypatch.setattr(own, "FILES", {})
    monkeypatch.setattr(own, "FACTORIES", {})


@pytest.fixture
def few(monkeypatch):
    """Evaluate on few digits and draw few points and files: all three take longer than a tiny suite's training."""
    use_few(monkeypatch)


@pytest.fixture
def cli(monkeypatch, capsys) -> Callable[..., tuple[int, str, str]]:
    """Return a function that gives the command line's exit status, standard output and standard error."""

    from bench.cli import main

    def answer(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["run_suite.py", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        written = capsys.readouterr()
        return int(end.value.code or 0), written.out, written.err

    return answer
