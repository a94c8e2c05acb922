"""Several devices of this machine: a process each, and the store's claims share the cohorts out among them."""

import logging
import multiprocessing
from collections.abc import Collection, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess

import torch

from bench.launch.launcher import choose_device, fetch_data, most_processes, settle
from bench.launch.work import Work
from bench.plan.status import is_open
from bench.store import Store
from bench.types import RequestError

logger = logging.getLogger(__name__)


def devices(name: str) -> list[str]:
    """Return the devices that `--device` means: every GPU where it means one."""
    device = choose_device(name)
    count = torch.cuda.device_count() if device.type == "cuda" else 1
    return [device.type] if count == 1 else [f"cuda:{number}" for number in range(count)]


def train(work: Work, on: Sequence[str], retried: Collection[str] = ()) -> None:
    """Do the work on some devices; a process that dies leaves its runs to the others.

    Where runs have several processes, each takes as many of the devices as the most have, from its own on.

    Args:
        work: what to do.
        on: the devices' names.
        retried: ids of runs whose failure is forgotten.

    Raises:
        RequestError: what a process says that could not go on, if runs are left.
    """
    plan, store = work.plan, Store(work.results)
    wanted = [plan.runs[run_id] for run_id in work.runs]
    most = most_processes(wanted)
    on = [on[first] for first in range(0, len(on) - most + 1, most)] or on[:1]
    if len(on) == 1:
        replace(work, device=on[0])(retried)
        return
    fetch_data([run for run in wanted if is_open(run, plan, store, retried)], work.data)
    settle(plan, store, {}, retried)
    spawn = multiprocessing.get_context("spawn")  # a GPU cannot be used after a fork
    processes: list[tuple[str, SpawnProcess, Connection]] = []
    errors = []
    try:
        for device in on:
            ours, theirs = spawn.Pipe(duplex=False)
            process = spawn.Process(target=_train, args=(replace(work, device=device, live=False), theirs))
            process.start()
            theirs.close()  # so that the other end sees when the process has closed it
            processes.append((device, process, ours))
        left = list(processes)
        while left:
            ended = wait([process.sentinel for _, process, _ in left])
            for device, process, ours in [one for one in left if one[1].sentinel in ended]:
                left.remove((device, process, ours))
                process.join()
                try:
                    errors.append(ours.recv())
                except EOFError:  # nothing was said
                    if process.exitcode:
                        logger.warning("the process on %s has died (%d): the others go on", device, process.exitcode)
    finally:
        for _, process, _ in processes:
            process.terminate()
            process.join()
    if errors and any(is_open(run, plan, store) for run in wanted):
        raise RequestError("\n".join(dict.fromkeys(errors)))


def _train(work: Work, error_to: Connection) -> None:
    try:
        work()
    except RequestError as error:
        error_to.send(str(error))
    except KeyboardInterrupt:  # which the command that started it says
        pass
