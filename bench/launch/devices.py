"""Trains on all cores or GPUs of this machine: starts one process per job, and shows their progress together."""

import logging
import multiprocessing
import os
import signal
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import cycle, islice
from multiprocessing.connection import Connection, wait
from threading import Thread

import torch

from bench.launch.jobs import chosen_jobs
from bench.launch.launcher import Launcher, announce, display_of, launch
from bench.launch.preparation import choose_device, fetch_data, most_processes, record_without_training, unserved
from bench.launch.progress import REFRESH_S, Display, Progress, View
from bench.launch.trackers import tracked
from bench.launch.work import Work
from bench.plan import shares, widest
from bench.plan.status import open_runs
from bench.spec import RunSpec
from bench.store import Store
from bench.train.processes import Child, children, ended
from bench.types import RequestError
from methods import catalog
from methods._errors import interrupt

logger = logging.getLogger(__name__)

ENDING_S = 10.0  # that interrupted jobs have to give back their runs


def devices(name: str) -> list[str]:
    """Return the devices that a value of `--device` selects; `cuda` selects every GPU."""
    device = choose_device(name)
    count = torch.cuda.device_count() if device.type == "cuda" else 1
    return [device.type] if count == 1 else [f"cuda:{number}" for number in range(count)]


def train(work: Work, jobs: int | None = None, retried: Collection[str] = ()) -> None:
    """Do the work with that many processes, by default as many as fit; if one dies, the others train its runs.

    Each process takes whole cohorts, and parts of them where there are too few. With one, this process trains. On GPUs,
    there is one for each by default; if runs are trained by several processes each, every job has that many GPUs.
    Failures of runs whose ids are in `retried` are forgotten.

    Raises:
        RequestError: a process reported an error in the request, and runs are open.
    """
    plan, store = work.plan, Store(work.results)
    left = open_runs(work.wanted, plan, store, retried)
    places = _places(devices(work.device), most_processes(left))
    number = _number(left, work, len(places)) if jobs is None else min(jobs, widest(left))
    on = list(islice(cycle(places), max(1, number)))
    if len(on) == 1:
        launch(replace(work, device=on[0]), retried)
        return
    reasons = unserved(plan, left, catalog(work.plugins))  # what is wrong is said before processes start
    left = [run for run in left if run.id not in reasons]
    fetch_data(left, work.data)
    record_without_training(plan, store, reasons, retried)
    announce(work.wanted, left, on, plan.suite.threads)
    parts = shares(left, len(on), plan.suite.max_lanes)
    work = replace(work, shares=tuple(tuple(run.id for run in part.runs) for part in parts))
    errors = _train_side_by_side(work, on)
    if errors and open_runs(work.wanted, plan, store):
        raise RequestError("\n".join(dict.fromkeys(errors)))


def _places(names: Sequence[str], processes: int) -> list[str]:
    """Return the device of each job; on GPUs, the first one of as many as a run has processes."""
    return [names[first] for first in range(0, len(names) - processes + 1, processes)] or [names[0]]


def _number(left: Sequence[RunSpec], work: Work, places: int) -> int:
    if choose_device(work.device).type == "cuda":
        return min(places, widest(left))
    return chosen_jobs(left, work.plan.suite.threads, work.plan.suite.max_lanes)


def _train_side_by_side(work: Work, on: Sequence[str]) -> list[str]:
    """Do the work with one process for each of the devices; return what they say is wrong with the request."""
    errors = []
    display = display_of(work)
    pipes = [multiprocessing.Pipe(duplex=False) for _ in on]
    targets = [
        partial(_do, replace(work, device=device, live=display.console.is_terminal), ours)
        for device, (_, ours) in zip(on, pipes, strict=True)
    ]
    # a terminal sends Ctrl-C to all processes; here, this one alone decides how the others end
    with display.shown(), children(targets, ignored=[signal.SIGINT]) as processes:
        for _, ours in pipes:
            ours.close()  # only the child's end remains, so its death closes the pipe
        sources = {theirs: number for number, (theirs, _) in enumerate(pipes)}
        try:
            for number in _show_until_ended(sources, display):
                process = processes[number]
                process.process.join()
                failure = process.failure()
                if isinstance(failure, RequestError):
                    errors.append(str(failure))
                elif failure is not None:
                    what = f"job {number + 1} of {len(on)}, on {on[number]}, {failure}"
                    logger.warning("%s: the others continue\n%s", what, failure.details)
        except KeyboardInterrupt:
            _end(processes, list(sources))
            raise
    return errors


def _show_until_ended(sources: Mapping[Connection, int], display: Display) -> Iterator[int]:
    """Show what processes send, views and log records; yield the number of each process when it has ended."""
    left, drawn = dict(sources), time.monotonic()
    while left:
        for source in wait(list(left), REFRESH_S):
            assert isinstance(source, Connection)
            try:
                message = source.recv()
            except (EOFError, OSError):  # a process that is killed may leave half a message
                source.close()
                number = left.pop(source)
                display.drop(number)
                yield number
                continue
            if isinstance(message, View):
                display.take(message, left[source])
            else:
                _log(message)
        if time.monotonic() - drawn > REFRESH_S:  # not for each view: there may be many processes
            display.redraw()
            drawn = time.monotonic()


def _log(record: logging.LogRecord) -> None:
    """Handle a log record of another process as if it were of this one."""
    own = logging.getLogger(record.name)
    if own.isEnabledFor(record.levelno):
        own.handle(record)


def _end(processes: Sequence[Child], sources: Sequence[Connection]) -> None:
    """Let processes give back their runs and wait until they have ended."""
    # a process that waits for room in its pipe could not end; a message may have been read in part
    Thread(target=_discard, args=[sources], daemon=True).start()
    for one in processes:
        one.process.terminate()
    for _ in ended(processes, ENDING_S):
        pass


def _discard(sources: Sequence[Connection]) -> None:
    """Read what processes send until they have ended."""
    left = {source.fileno() for source in sources if not source.closed}
    while left:
        for source in wait(list(left)):
            assert isinstance(source, int)
            if not os.read(source, 2**16):
                left.discard(source)


class _ToParent(logging.Handler):
    """Sends log records to the process that has started this one."""

    def __init__(self, parent: Connection) -> None:
        super().__init__()
        self.parent = parent

    def emit(self, record: logging.LogRecord) -> None:
        """Send a record as text, since not every argument of a message can be pickled."""
        kept = {key: getattr(record, key) for key in ("name", "levelno", "levelname")}
        self.parent.send(logging.makeLogRecord({**kept, "msg": self.format(record)}))


def _do(work: Work, parent: Connection) -> None:
    """Do the work in a child process, which sends its log and its views to its parent."""
    signal.signal(signal.SIGTERM, interrupt)
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[_ToParent(parent)])
    Launcher(work).run(tracked(work, Progress(work.plan.titles, parent.send if work.live else None)))
