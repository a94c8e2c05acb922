"""Trains on several devices of this machine: one process per device; claims in the store divide the cohorts."""

import logging
from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import partial

import torch

from bench.launch.launcher import launch
from bench.launch.preparation import choose_device, fetch_data, most_processes, record_without_training
from bench.launch.work import Work
from bench.plan.status import open_runs
from bench.store import Store
from bench.text import log_to_stderr
from bench.train.processes import children, ended
from bench.types import RequestError

logger = logging.getLogger(__name__)


def devices(name: str) -> list[str]:
    """Return the devices that a value of `--device` selects; `cuda` selects every GPU."""
    device = choose_device(name)
    count = torch.cuda.device_count() if device.type == "cuda" else 1
    return [device.type] if count == 1 else [f"cuda:{number}" for number in range(count)]


def train(work: Work, on: Sequence[str], retried: Collection[str] = ()) -> None:
    """Do the work on the given devices; if a process dies, the others train its runs.

    If runs are trained by several processes each, every launching process gets that many consecutive devices. The
    failures of runs whose ids are in `retried` are forgotten.

    Raises:
        RequestError: a process reported an error in the request, and runs are open.
    """
    plan, store = work.plan, Store(work.results)
    most = most_processes(work.wanted)
    on = [on[first] for first in range(0, len(on) - most + 1, most)] or on[:1]
    if len(on) == 1:
        launch(replace(work, device=on[0]), retried)
        return
    fetch_data(open_runs(work.wanted, plan, store, retried), work.data)
    record_without_training(plan, store, {}, retried)
    errors = []
    with children([partial(_launch_here, replace(work, device=device, live=False)) for device in on]) as processes:
        for process in ended(processes):
            failure = process.failure()
            if isinstance(failure, RequestError):
                errors.append(str(failure))
            elif failure is not None:
                device = on[processes.index(process)]
                logger.warning("the process on %s %s: the others go on\n%s", device, failure, failure.details)
    if errors and open_runs(work.wanted, plan, store):
        raise RequestError("\n".join(dict.fromkeys(errors)))


def _launch_here(work: Work) -> None:
    """Do the work in a process of its own, which prints its log as the first one does."""
    log_to_stderr()
    launch(work)
