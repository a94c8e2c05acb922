"""A tiny suite, what it gives undisturbed, and processes that run it and are disturbed."""

import random
import time
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest
import yaml

from bench.plan import Plan, build_plan
from bench.store import Store
from bench.suite import load
from methods import catalog
from tests.faults import child
from tests.forks import server
from tests.train.conftest import OFTEN, document, rows, weights

METHODS = catalog()
TINY = {
    "data": {"name": "digits", "resize": 16, "train_per_class": 3},
    "pairs": [{"teacher": "resnet8", "student": "resnet8"}],
    "methods": ["kd"],
    "training": {"epochs": 2, "batch_size": 50, "milestones": [1], "initial_epochs": 0},  # one step per epoch
}


class Disturbed:
    """A suite in a folder of its own, run by processes that may be disturbed."""

    def __init__(self, folder: Path, results: Path | None = None, **changes: object) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.path, self.results = folder, folder / "tiny.yaml", results or folder / "results"
        self.path.write_text(yaml.safe_dump(document(**TINY | OFTEN | changes)))
        self.log = folder / "log"
        self.store = Store(self.results)

    @property
    def plan(self) -> Plan:
        return build_plan(load(self.path, METHODS), self.path, METHODS)

    def start(self, fault: str = "", at: int = 0, target: Callable[..., None] = child.run, **more: object):
        """Start the suite in a process; `fault` and `at` are those of `child.run`."""
        words = [str(self.path), "--results", str(self.results), "--device", "cpu"]
        arguments = {"fault": fault, "at": at} if target is child.run else more
        process = server().Process(target=target, args=(words, self.log, self.results), kwargs=arguments)
        process.start()
        return process

    def ends(self, process: ForkServerProcess | None = None, seconds: float = 120.0) -> int:
        """Return the exit status of a process, or of a new one that nobody disturbs."""
        process = process or self.start()
        process.join(seconds)
        assert process.exitcode is not None, "it hangs"
        return process.exitcode

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def result(self) -> dict[str, object]:
        """Return all that a suite's user may rely on: weights, epochs, metrics and the table."""
        found: dict[str, object] = {"table": (self.results / "tiny" / "table.csv").read_bytes()}
        for run_id in self.plan.runs:
            record = self.store.record(run_id)
            found[run_id] = record and (record["metrics"], rows(self.store, run_id), weights(self.store, run_id))
        return found


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory) -> tuple[dict[str, object], float]:
    """Return the result of the suite when nobody disturbs it, and the seconds that it takes."""
    first = Disturbed(tmp_path_factory.mktemp("undisturbed") / "first")
    first.start().join()  # starts the fork server
    suite = Disturbed(first.folder.parent / "whole")
    began = time.monotonic()
    assert suite.ends() == 0, suite.said
    return suite.result(), time.monotonic() - began


@pytest.fixture
def chance() -> random.Random:
    """Return a source of moments, the same in every run of the tests."""
    return random.Random(0)


@pytest.fixture
def disturbed(tmp_path) -> Callable[..., Disturbed]:
    """Return a way to make a suite: `disturbed("name")`."""
    return lambda name="tiny", **changes: Disturbed(tmp_path / name, **changes)
