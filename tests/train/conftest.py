import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import yaml

from bench.data import images
from bench.data.batches import TrainingData
from bench.launch.launcher import Launcher
from bench.launch.work import Work
from bench.plan import Plan, build_plan
from bench.store import Store
from bench.suite import load
from bench.train.build import build_lane
from bench.train.learner import Teacher
from bench.train.loop import Observer
from bench.train.networks import build_network, network_shapes
from methods import catalog
from tests.few import short_or_whole, use_few_digits

ALL: list[str | dict] = ["kd", "fitnet", "at", "sp", "cc", "vid", "rkd", "pkt", "ab", "ft", "fsp", "nst"]
ALL.append({"method": "crd", "n_negatives": 64})


CPU = torch.device("cpu")
OFTEN = {"slurm": {"checkpoint_minutes": 1e-9}}  # a checkpoint after every step and every epoch
FIFTY = {"name": "digits", "resize": 32, "train_per_class": 5}  # images


class Silent(Observer):
    """An observer that only counts the epochs that each run trained."""

    def __init__(self) -> None:
        self.epochs: dict[str, int] = {}
        self.cohorts: list[list[str]] = []

    def cohort(self, lanes) -> None:
        self.cohorts.append([lane.spec.id for lane in lanes])

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
        return build_plan(load(self.path, self.methods), self.path, self.methods)

    def store(self) -> Store:
        return Store(self.folder / "results")

    def work(self, results: str = "results", only: Sequence[str] | None = None, **settings: object) -> Work:
        """Return all runs of the plan, or those with the given labels and what they need, as work for the CPU."""
        plan = self.plan()
        cells = [cell for cell in plan.cells if only is None or cell.label in only]
        wanted = plan.with_needs(run for cell in cells for run in cell.runs)
        return Work(
            plan,
            runs=tuple(run.id for run in wanted),
            results=self.folder / results,
            data=self.folder / "data",
            plugins=tuple(self.plugins),
            **{"device": "cpu", **settings},
        )

    def run(
        self,
        results: str = "results",
        only: Sequence[str] | None = None,
        observer: Silent | None = None,
        few: bool = True,
        teachers: Store | None = None,
        **settings: object,
    ) -> tuple[Plan, Store, Silent]:
        """Train that work.

        Args:
            results: the store's folder, below the suite's.
            only: labels of rows.
            observer: is told of the epochs.
            few: whether to evaluate on few digits.
            teachers: a store that has the teachers already: they are copied.
            settings: others of the work.
        """
        work, observer = self.work(results, only, **settings), observer or Silent()
        if teachers is not None:
            for name in {name for run in work.plan.runs.values() for name in run.teachers}:
                shutil.copytree(teachers.folder(name), work.results / "runs" / name)
        with pytest.MonkeyPatch.context() as patch:
            if few:
                use_few_digits(patch)
            Launcher(work).run(observer)
        return work.plan, Store(work.results), observer


def document(**changes: object) -> dict:
    """Return a suite that trains within seconds: a few images a class, 2 epochs."""
    return {
        "title": "tiny",
        "data": {"name": "digits", "resize": short_or_whole(16, 32), "train_per_class": short_or_whole(2, 5)},
        "pairs": [{"teacher": "resnet14", "student": "resnet8"}],
        "methods": ["kd"],
        "controls": False,
        "workers": 0,
        "threads": 1,  # two would wait for each other where a test runs two processes
        "training": {"epochs": 2, "batch_size": 16, "milestones": [1], "initial_epochs": 1, "evaluate_every": 2},
    } | changes


@pytest.fixture
def bench(tmp_path):
    """Return a way to make a suite: `bench(methods=["kd"], seeds=2)`."""
    return lambda plugins=(), **changes: Bench(tmp_path, document(**changes), plugins)


@pytest.fixture
def cohort(bench):
    """Return a way to make a cohort at its start: its lanes by method, training data, teachers and test split."""

    def make(device: torch.device = CPU, **changes: object):
        suite = bench(**{"methods": ALL, **changes})
        plan = suite.plan()
        run = cell(plan, "teacher").runs[0]
        network = build_network(run.student, run.data).to(device).to(memory_format=torch.channels_last)
        teachers = {run.id: Teacher(network.eval().requires_grad_(False), network_shapes(run.student, run.data))}
        train, test = images.load_data(run.data, suite.folder, device, workers=0)
        data = TrainingData(run.data, train, device, run.data, recipe=plan.suite.training)
        runs = {one.label.split()[0]: one.runs[0] for one in plan.cells}
        lanes = {label: build_lane(spec, teachers, data.info, suite.methods, device) for label, spec in runs.items()}
        return lanes, data, teachers, test

    return make


@pytest.fixture
def cohort_of_50(cohort):
    """Return a way to make a cohort that trains on 50 images, also in the short form."""
    return lambda device=CPU, **changes: cohort(device, data=FIFTY, **changes)


def cell(plan: Plan, label: str):
    return next(cell for cell in plan.cells if cell.label == label)


def weights(store: Store, run_id: str) -> bytes:
    return (store.folder(run_id) / "student.safetensors").read_bytes()


def rows(store: Store, run_id: str) -> list[dict]:
    """Return a run's epochs without their times, which differ from run to run."""
    return [{key: value for key, value in row.items() if key != "wall_s"} for row in store.epochs(run_id)]
