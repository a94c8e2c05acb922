"""Measures how long the command line takes for a suite of 10,000 finished runs."""

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from bench.plan import Plan, build
from bench.store import Store, write_whole
from bench.suite import load
from methods import catalog

ROOT = Path(__file__).parent.parent
PAIRS = [("resnet110", student) for student in ("resnet8", "resnet14", "resnet20", "resnet32", "resnet44")]
LISTED = ", ".join(f"{{teacher: {teacher}, student: {student}}}" for teacher, student in PAIRS)
SEEDS = 143  # with five pairs, thirteen methods and none: 10,010 runs and a teacher
TABLE = f"""title: Ten thousand runs
data: cifar100
pairs: [{LISTED}]
methods: [kd, fitnet, at, sp, cc, vid, rkd, pkt, ab, ft, fsp, nst, crd]
seeds: {SEEDS}
"""


def measured(repeats: int) -> dict[str, float]:
    """Return the median seconds of `--help`, `status`, `report` and a run with nothing to do, each a whole process."""
    with tempfile.TemporaryDirectory() as folder:
        path, results = Path(folder) / "ten_thousand.yaml", Path(folder) / "results"
        path.write_text(TABLE, encoding="utf-8")
        methods = catalog()
        _finish(build(load(path, methods), path, methods), Store(results))
        of_the_suite = [str(path), "--results", str(results)]
        commands = {
            "--help": ["--help"],
            "status": ["status", *of_the_suite],
            "report": ["report", *of_the_suite],
            "a run with nothing to do": of_the_suite,
        }
        return {name: median(_seconds(arguments) for _ in range(repeats)) for name, arguments in commands.items()}


def _finish(plan: Plan, store: Store) -> None:
    """Write all runs of a plan to the store as finished."""
    metrics = {"top1": 70.0, "top5": 90.0}
    for run in plan.runs.values():
        store.begin(run)
        store.write_epochs(run.id, [{"stage": "main", "epoch": epoch, **metrics} for epoch in range(1, 241)])
        write_whole(store.folder(run.id) / "student.safetensors", b"")
        store.finish(run.id, {"metrics": metrics, "best": {"epoch": 240, **metrics}, "threads": 2})


def _seconds(arguments: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, str(ROOT / "run_suite.py"), *arguments], check=True, capture_output=True, cwd=ROOT)
    return time.perf_counter() - started
