"""Times a suite with one job and with two. The jobs' processes import this module."""

import logging
import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from bench.launch.devices import train
from bench.launch.work import Work
from bench.plan import build_plan
from bench.suite import load
from methods import catalog

SUITE = Path(__file__).parent / "jobs.yaml"
METHODS = catalog()
TWO = "two jobs of one thread"
SETTINGS = {"one job of one thread": (1, 1), TWO: (2, 1), "one job of two threads": (1, 2)}  # jobs and threads

logger = logging.getLogger(__name__)


def seconds(repeats: int) -> dict[str, list[float]]:
    """Return the seconds that the students of the suite take, taken in turn, by setting.

    The teacher is trained before. The start of the jobs' processes counts, and tables and figures do not.
    """
    spent: dict[str, list[float]] = {name: [] for name in SETTINGS}
    logging.getLogger("bench").setLevel(logging.WARNING)  # the lines of all epochs would hide the results
    with tempfile.TemporaryDirectory() as folder:
        work = _work(Path(folder) / "teacher", threads=1)
        awaited = {needed for run in work.wanted for needed in run.needs}
        train(replace(work, runs=tuple(awaited)), jobs=1)
        for repeat in range(repeats):
            for name, (jobs, threads) in SETTINGS.items():
                results = Path(folder) / f"{jobs}-{threads}-{repeat}"
                shutil.copytree(work.results, results)
                started = time.perf_counter()
                train(_work(results, threads), jobs)
                spent[name].append(time.perf_counter() - started)
            logger.info("jobs: %d of %d repeats", repeat + 1, repeats)
    logging.getLogger("bench").setLevel(logging.NOTSET)
    return spent


def _work(results: Path, threads: int) -> Work:
    plan = build_plan(load(SUITE, METHODS, [f"threads={threads}"]), SUITE, METHODS)
    return Work(plan, tuple(plan.runs), results, results / "data", device="cpu", live=False, poll_s=0.5)
