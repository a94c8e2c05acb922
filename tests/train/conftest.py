import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
import yaml

from bench.data.arrays import Arrays
from bench.data.packaged import PACKAGED
from bench.launch.launcher import Launcher, Settings
from bench.plan import Plan, build
from bench.store import Store
from bench.suite import load
from methods import catalog
from tests.few import few_digits

ALL: list[str | dict] = ["kd", "fitnet", "at", "sp", "cc", "vid", "rkd", "pkt", "ab", "ft", "fsp", "nst"]
ALL.append({"method": "crd", "n_negatives": 64})
CPU = torch.device("cpu")


class Silent:
    """An observer that only counts the epochs that each run trained."""

    def __init__(self) -> None:
        self.epochs: dict[str, int] = {}
        self.cohorts: list[list[str]] = []

    def cohort(self, lanes) -> None:
        self.cohorts.append([lane.spec.id for lane in lanes])

    def step(self, lanes, step, steps) -> None:
        pass

    def epoch(self, lanes, clock, seconds, steps) -> None:
        for lane in lanes:
            self.epochs[lane.spec.id] = self.epochs.get(lane.spec.id, 0) + 1


class Bench:
    """A suite file in a folder of its own, and the ways to run it."""

    def __init__(self, folder: Path, document: dict, plugins: Sequence[Path] = (), name: str = "tiny") -> None:
        self.folder, self.path, self.plugins = folder, folder / f"{name}.yaml", plugins
        self.path.write_text(yaml.safe_dump(document))
        self.methods = catalog(plugins)

    def plan(self) -> Plan:
        return build(load(self.path, self.methods), self.path, self.methods)

    def run(
        self,
        results: str = "results",
        only: Sequence[str] | None = None,
        device: torch.device = CPU,
        observer: Silent | None = None,
        data: Callable[[], Arrays] = few_digits,
        teachers: Store | None = None,
    ) -> tuple[Plan, Store, Silent]:
        """Train all runs of the plan, or those with the given labels and what they need.

        Args:
            results: the store's folder, below the suite's.
            only: labels of rows.
            device: where to train.
            observer: is told of the epochs.
            data: what reads the digits.
            teachers: a store that has the teachers already: they are copied.
        """
        plan, store, observer = self.plan(), Store(self.folder / results), observer or Silent()
        if teachers is not None:
            for name in {name for run in plan.runs.values() for name in run.teachers}:
                shutil.copytree(teachers.folder(name), store.folder(name))
        cells = [cell for cell in plan.cells if only is None or cell.label in only]
        wanted = plan.with_needs(run for cell in cells for run in cell.runs)
        settings = Settings(
            device,
            self.folder / "data",
            plan.suite.threads,
            workers=0,
            checkpoint_minutes=plan.suite.slurm.checkpoint_minutes,
        )
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(PACKAGED, "digits", data)
            Launcher(plan, store, self.methods, settings).run(wanted, observer, lambda: None)
        return plan, store, observer


def document(**changes: object) -> dict:
    """Return a suite that trains within seconds: 5 images a class, 2 epochs."""
    return {
        "title": "tiny",
        "data": {"name": "digits", "resize": 32, "train_per_class": 5},
        "pairs": [{"teacher": "resnet14", "student": "resnet8"}],
        "methods": ["kd"],
        "threads": 1,  # two would wait for each other where a test runs two processes
        "training": {"epochs": 2, "batch_size": 16, "milestones": [1], "initial_epochs": 1, "evaluate_every": 2},
    } | changes


def cell(plan: Plan, label: str):
    return next(cell for cell in plan.cells if cell.label == label)


def weights(store: Store, run_id: str) -> bytes:
    return (store.folder(run_id) / "student.safetensors").read_bytes()


def rows(store: Store, run_id: str) -> list[dict]:
    """Return a run's epochs without their times, which differ from run to run."""
    return [{key: value for key, value in row.items() if key != "wall_s"} for row in store.epochs(run_id)]
