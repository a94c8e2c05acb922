"""How many processes train a suite side by side on this machine: its jobs."""

import math
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

import joblib
import psutil
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from bench.data import DATASETS
from bench.data.images import MAX_RESIDENT_BYTES
from bench.launch.preparation import most_processes
from bench.models.quick import without_content
from bench.plan import cohorts, widest
from bench.plan.duration import training_images
from bench.spec import DataSpec, NetworkSpec, RunSpec
from bench.train.networks import build_network, network_shapes, refused
from bench.types import RequestError

PROCESS_BYTES = 800e6  # of its own, of a process that trains small networks: 0.7 GB with torch 2.14, rounded up
TRAINED = 4  # copies of a weight: itself, its gradient and momentum, and one more where it is saved
CGROUP = Path("/sys/fs/cgroup")  # of a container, its own


def cores() -> int:
    """Return the number of cores that this process may use: of its affinity mask and of a container's quota."""
    return joblib.cpu_count()


def free_bytes() -> float:
    """Return how much memory this process and others that it starts may take: of the machine, and of a container."""
    free = float(psutil.virtual_memory().available)
    with suppress(OSError, ValueError):  # there is no limit, or its text is "max"
        limit = int((CGROUP / "memory.max").read_text())
        free = min(free, limit - int((CGROUP / "memory.current").read_text()))
    return free


def jobs_for(cores: int, threads: int, free_bytes: float, job_bytes: float, lanes: int) -> int:
    """Return the number of jobs on a CPU, at least one.

    Args:
        cores: those that may be used.
        threads: that a job uses; its numbers depend on them, so they are never fewer than the suite says.
        free_bytes: memory that may be used.
        job_bytes: memory that a job takes.
        lanes: runs that can train at the same time; no job is without one.
    """
    return max(1, min(cores // threads, int(free_bytes // job_bytes), lanes))


def chosen_jobs(runs: Sequence[RunSpec], threads: int, max_lanes: int | None) -> int:
    """Return the number of jobs that train open runs on this machine's CPU.

    Args:
        runs: the open runs.
        threads: the suite's threads of a process.
        max_lanes: the suite's limit of a cohort.
    """
    lanes, each = widest(runs), threads * most_processes(runs)
    if min(lanes, cores() // each) < 2:  # what a job takes need not be computed
        return 1
    return jobs_for(cores(), each, free_bytes(), job_bytes(runs, max_lanes), lanes)


def job_bytes(runs: Sequence[RunSpec], max_lanes: int | None = None) -> float:
    """Return about how many bytes a job takes that trains the largest of the runs' cohorts.

    These are its process, the images of a data set that is known by name, the weights of all lanes, and what the
    forward pass of one lane at a time keeps for its backward pass. Images in folders are not counted.
    """
    return PROCESS_BYTES + max(_cohort_bytes(cohort.runs) for cohort in cohorts(runs, max_lanes))


def _cohort_bytes(runs: Sequence[RunSpec]) -> int:
    sizes = [_network_bytes(run.student, run.data, run.training.batch_size) for run in runs]
    weights = sum(of_network for of_network, _ in sizes)
    kept = max(of_pass for _, of_pass in sizes)
    return _image_bytes(runs[0].data) + weights + kept


def _image_bytes(data: DataSpec) -> int:
    if (named := DATASETS.get(data.name)) is None:
        return 0
    splits = (training_images(data) or 0, named.test)
    return sum(min(number * data.channels * math.prod(data.size), MAX_RESIDENT_BYTES) for number in splits)


@cache
def _network_bytes(spec: NetworkSpec, data: DataSpec, batch_size: int) -> tuple[int, int]:
    """Return the bytes of a network's weights in training, and of what a batch's forward pass keeps.

    Nothing is computed: the tensors have shapes and no content. A network that does not fit has none; its run says so.
    """
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor  # several may share their memory
        return tensor

    weights = 0
    with suppress(RequestError), refused(spec.network, "cannot be measured"):
        network_shapes(spec, data)
        with without_content(), saved_tensors_hooks(keep, lambda tensor: tensor):
            network = build_network(spec, data)
            network.features(torch.empty(batch_size, data.channels, *data.size))
        weights = sum(parameter.nbytes for parameter in network.parameters())
    return TRAINED * weights, sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
