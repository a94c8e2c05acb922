"""Prepares training, once per command: chooses the device, downloads data and weights, checks what is given."""

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

import torch

from bench.data.images import check_present, fetch
from bench.models.quick import without_content
from bench.models.timm_names import TIMM, check_classes
from bench.models.torchvision_network import known_weights, published_weights
from bench.models.weights import Reading, fitting_weights
from bench.plan import Plan, statuses
from bench.plan.repeat import suite_files
from bench.spec import RunSpec
from bench.store import Failure, Store
from bench.tasks import task_of
from bench.train.build import inapplicable
from bench.train.networks import build_network
from bench.types import RequestError
from methods import Method

logger = logging.getLogger(__name__)


def choose_device(name: str) -> torch.device:
    """Return the device of that name; "auto" is a GPU if there is one.

    Raises:
        RequestError: "cuda" is asked for, but there is none.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise RequestError("--device cuda: torch sees no CUDA device here. Use --device cpu, or auto")
    return torch.device(name)


def most_processes(runs: Iterable[RunSpec]) -> int:
    """Return the largest number of processes that train one of the runs."""
    return max((run.training.processes or 1 for run in runs if run.trains), default=1)


def check_gpus(device: torch.device, processes: int, gpus: int) -> None:
    """Raise a `RequestError` if a machine with that number of GPUs has too few for the processes of a run."""
    if device.type == "cuda" and (device.index or 0) + processes > gpus:
        raise RequestError(
            f"training: processes: {processes}: each process needs a GPU, and torch sees {gpus} here. Set fewer, "
            "which makes it a different run, or use --device cpu"
        )


def needs_data(run: RunSpec) -> bool:
    """Return whether a run reads its data; given weights that are not evaluated need none."""
    return run.trains or task_of(run).objective is not None


def fetch_data(runs: Sequence[RunSpec], folder: Path) -> None:
    """Download the data sets and weights that runs need and the folder does not have, once for all processes.

    Raises:
        RequestError: they cannot be downloaded.
    """
    for data in {run.data.key: run.data for run in runs if run.data.path is None and needs_data(run)}.values():
        fetch(data, folder)
    for run in runs:
        if run.has_published_weights:
            published_file(run, folder)


def check_inputs(plan: Plan, runs: Iterable[RunSpec], folder: Path) -> list[str]:
    """Check that runs will find their data, or can download it, and that given weights fit; nothing is downloaded.

    Returns:
        What will be downloaded, in words.

    Raises:
        RequestError: they will not; the message has a line for all that is missing or does not fit.
    """
    runs = list(runs)
    notes: list[str | None] = []
    problems: list[str] = []
    for data in {run.data.key: run.data for run in runs if needs_data(run)}.values():
        try:
            notes.append(check_present(data, folder))
        except RequestError as error:
            problems.append(f"{plan.file}: {error}")
    for run in runs:
        if run.checkpoint is None:
            continue
        given = plan.checkpoints[run.id]
        try:
            if given.path is None and run.student.network.startswith(TIMM):
                check_classes(run.student.network, run.checkpoint, run.data.classes)
            elif given.path is None:
                known_weights(run.student.network.removeprefix("torchvision."), run.checkpoint, run.data.classes)
            else:
                with without_content():
                    network = build_network(run.student, run.data)
                fitting_weights(network, given.path, reading=reading_of(run))
        except RequestError as error:
            problems.append(f"{given.where}: {error}")
    if problems:
        raise RequestError("\n".join(problems))
    return list(dict.fromkeys(note for note in notes if note))


def reading_of(run: RunSpec) -> Reading:
    """Return how the checkpoint of a run is read."""
    return Reading(run.checkpoint_key, run.checkpoint_rename or {})


def published_file(run: RunSpec, folder: Path) -> Path:
    """Return the file of a run's published weights, downloaded unless it is in the data folder."""
    assert run.checkpoint is not None  # it is the name of the weights
    if run.student.network.startswith(TIMM):
        from bench.models import timm_network  # an extra

        name, data = run.student.network.removeprefix(TIMM), run.data
        return timm_network.published_weights(
            name, run.checkpoint, data.classes, data.channels, data.size, folder / "weights"
        )
    return published_weights(run.student.network.removeprefix("torchvision."), run.checkpoint, folder / "weights")


def unserved(plan: Plan, runs: Iterable[RunSpec], methods: Mapping[str, Method]) -> dict[str, str]:
    """Return why methods cannot be applied to their pairs, by the ids of the runs concerned.

    Raises:
        RequestError: a network or a parameter does not fit.
    """
    reasons: dict[str, str | None] = {}

    def reason_of(run: RunSpec) -> str | None:
        of_all_seeds = run.but(seed=0).id  # the reason does not depend on the seed
        if of_all_seeds not in reasons:
            try:
                reasons[of_all_seeds] = inapplicable(run, {name: plan.runs[name] for name in run.needs}, methods)
            except RequestError as error:
                pair, row = plan.titles[run.id]
                raise RequestError(f"{plan.file}: pairs: {pair}, row {row}: {error}") from None
        return reasons[of_all_seeds]

    return {run.id: reason for run in runs if (reason := reason_of(plan.trained(run)) or reason_of(run))}


def record_without_training(
    plan: Plan, store: Store, reasons: Mapping[str, str], retried: Collection[str] = ()
) -> None:
    """Forget the failures and stale results of retried runs, and record why runs are inapplicable, by run id."""
    again = [run for run in reversed(plan.runs.values()) if run.id in retried]  # if killed, those left are still stale
    with store.locked():  # another process may have done so, and trained some of them
        for run in again:
            store.forget_failure(run.id)
        for run_id, (status, reason) in statuses(again, plan, store).items():
            if status == "stale":
                logger.info("run %s is trained again: %s", run_id, reason)
                store.put_aside(run_id)
    for run_id, reason in reasons.items():
        store.begin(plan.runs[run_id], suite_files(plan, plan.runs[run_id]))
        store.fail(run_id, Failure("inapplicable", reason))
