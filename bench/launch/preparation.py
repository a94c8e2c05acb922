"""What precedes training: the device, data and weights to download, and runs that need no training."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

import torch

from bench.data.images import fetch
from bench.models.hooked import published_weights
from bench.plan import Plan
from bench.plan.entry import entry
from bench.spec import RunSpec
from bench.store import Failure, Store
from bench.tasks import task_of
from bench.train.build import inapplicable
from bench.types import RequestError
from methods import Method

PUBLISHED = "weights"  # subfolder of the data folder: weights that torchvision publishes


def choose_device(name: str) -> torch.device:
    """Return the device of that name; "auto" is a GPU where there is one.

    Raises:
        RequestError: "cuda" without one.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise RequestError("--device cuda: torch sees no CUDA device here. Use --device cpu, or auto")
    return torch.device(name)


def most_processes(runs: Iterable[RunSpec]) -> int:
    """Return the largest number of processes that any of some runs is trained by."""
    return max((run.training.processes or 1 for run in runs if run.trains), default=1)


def needs_data(run: RunSpec) -> bool:
    """Return whether a run reads its data: given weights that are not evaluated read none."""
    return run.trains or task_of(run).objective is not None


def fetch_data(runs: Sequence[RunSpec], folder: Path) -> None:
    """Download the data sets and weights that runs need and the folder lacks, once for all processes that train them.

    Raises:
        RequestError: they cannot be downloaded.
    """
    named = {run.data.key: run.data for run in runs if run.data.path is None and needs_data(run)}
    for data in named.values():
        fetch(data, folder)
    for run in runs:
        if run.has_published_weights:
            published_file(run, folder)


def published_file(run: RunSpec, folder: Path) -> Path:
    """Return the file of a run's published weights, which is downloaded if the data folder lacks it."""
    assert run.checkpoint is not None  # it has such weights
    return published_weights(run.student.network.removeprefix("torchvision."), run.checkpoint, folder / PUBLISHED)


def unserved(plan: Plan, runs: Iterable[RunSpec], methods: Mapping[str, Method]) -> dict[str, str]:
    """Return the reason for each run, by id, whose method cannot serve its pair.

    Raises:
        RequestError: a network or a parameter does not fit.
    """
    answers: dict[str, str | None] = {}

    def answer(run: RunSpec) -> str | None:
        of_all_seeds = run.but(seed=0).id  # the answer does not depend on the seed
        if of_all_seeds not in answers:
            needed = {name: plan.runs[name] for name in run.needs}
            answers[of_all_seeds] = inapplicable(run, needed, methods)
        return answers[of_all_seeds]

    reasons = {run.id: answer(plan.trained(run)) or answer(run) for run in runs}
    return {run_id: reason for run_id, reason in reasons.items() if reason}


def record_without_training(
    plan: Plan, store: Store, reasons: Mapping[str, str], retried: Collection[str] = ()
) -> None:
    """Forget the failures of retried runs, and record the reasons of runs that cannot be served, all by run id."""
    for run_id in retried:
        store.forget_failure(run_id)
    for run_id, reason in reasons.items():
        store.begin(plan.runs[run_id], entry(plan, plan.runs[run_id]))
        store.fail(run_id, Failure("inapplicable", reason))
