"""The launcher of one process: claims the runs of a plan cohort by cohort and trains them."""

import logging
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from functools import partial

import torch
from rich.console import Console

from bench.launch.assemble import assemble
from bench.launch.inputs import Inputs
from bench.launch.jobs import cores
from bench.launch.preparation import (
    check_gpus,
    choose_device,
    most_processes,
    needs_data,
    record_without_training,
    unserved,
)
from bench.launch.progress import Display, Progress
from bench.launch.provenance import device_name
from bench.launch.trackers import tracked
from bench.launch.untrained import Checkpoints, read_checkpoints, record_untrained
from bench.launch.work import Work
from bench.plan import CohortPlan, cohorts
from bench.plan.duration import Paces, paces
from bench.plan.repeat import suite_files
from bench.plan.status import open_runs as still_open
from bench.spec import RunSpec
from bench.store import ClaimLostError, DiscardingStore, Failure, Store
from bench.text import plural
from bench.train.lane import failure_of
from bench.train.loop import Observer, fit
from bench.train.precision import set_products
from bench.train.process_group import Group, process_group
from bench.train.processes import ProcessLostError
from bench.types import RequestError

logger = logging.getLogger(__name__)

CLAIMING = "claiming"  # the store's lock for taking a cohort


def launch(work: Work, retried: Collection[str] = ()) -> None:
    """Train the open and the retried runs of a work and show the progress."""
    display = display_of(work)
    with display.shown():
        progress = Progress(work.plan.titles, display.update if display.console.is_terminal else None)
        Launcher(work).run(tracked(work, progress), retried)


def display_of(work: Work) -> Display:
    """Return the display of the processes that do a work."""
    console = Console(stderr=True, force_terminal=None if work.live else False)
    known = Paces()
    if console.is_terminal:  # elsewhere, nothing shows the time that is left of the suite
        known = paces(work.plan, Store(work.results), device_name(choose_device(work.device)))
    return Display(work.plan.runs, console, known)


def announce(wanted: Sequence[RunSpec], open_runs: Sequence[RunSpec], on: Sequence[str], threads: int) -> None:
    """Log how many jobs train and where, and each open run that trains a network that other runs need.

    Args:
        wanted: all runs of the work.
        open_runs: those of them that are open.
        on: the device of each job.
        threads: the CPU threads of each.
    """
    jobs = plural(len(on), "job")
    if on[0] == "cpu":
        each = " each" if len(on) > 1 else ""
        logger.info("%s with %s%s, on %s", jobs, plural(threads, "thread"), each, plural(cores(), "core"))
    else:
        logger.info("%s, on %s", jobs, ", ".join(dict.fromkeys(on)))
    awaited = {needed for run in wanted for needed in run.needs}
    for run in open_runs:
        if run.id in awaited and run.trains:
            logger.info("%s: has no checkpoint, so it is trained here (seed %d)", run.student.network, run.seed)


class Launcher:
    """Trains the open runs of a work; other processes may work on the same store.

    `retried`, here and elsewhere, has the ids of runs whose failures are forgotten.
    """

    def __init__(self, work: Work) -> None:
        self.work, self.plan, self.store = work, work.plan, Store(work.results)
        self.inputs = Inputs(work, self.store)
        self.checkpoints: Checkpoints = {}

    def run(self, observer: Observer, retried: Collection[str] = ()) -> None:
        """Train each run once; errors in the request are raised before anything is written.

        Raises:
            RequestError: data is missing, a checkpoint does not fit or reach its accuracy, the weights of a teacher
                that is done cannot be read, or there are fewer GPUs than a run has processes.
        """
        torch.set_num_threads(self.plan.suite.threads)
        set_products("fp32")  # each cohort sets its own precision
        wanted = self.work.wanted
        open_runs = still_open(wanted, self.plan, self.store, retried)
        check_gpus(self.inputs.device, most_processes(open_runs), torch.cuda.device_count())
        reasons = unserved(self.plan, open_runs, self.inputs.methods)
        open_runs = [run for run in open_runs if run.id not in reasons]
        for run in filter(needs_data, open_runs):
            self.inputs.data(run.data)
        for name in dict.fromkeys(needed for run in open_runs for needed in run.needs):
            if self.store.state(name) == "done" and not self.plan.runs[name].is_ensemble:
                self.inputs.network(self.plan.runs[name])
        self.checkpoints = read_checkpoints(self.inputs, wanted)
        record_without_training(self.plan, self.store, reasons, retried)
        if open_runs and not self.work.shares:  # else, the process that has made them says so
            announce(wanted, open_runs, [str(self.inputs.device)], self.plan.suite.threads)
        while self._next_cohort(open_runs, observer):
            self.work.write_tables(self.plan, self.store)

    def _next_cohort(self, wanted: Sequence[RunSpec], observer: Observer) -> bool:
        """Train one cohort that is ready, or wait for one; return False if no run is open."""
        pending = still_open(wanted, self.plan, self.store)
        in_cohorts = self._cohorts(pending)
        observer.pending(pending, len(in_cohorts))
        for run in pending:
            ready = not run.trains and self._is_ready(run.needs)
            if ready and record_untrained(self.inputs, run, self.checkpoints):
                return True
        for runs in self._ready(in_cohorts):
            if self._train_claimed(runs, observer):
                return True
        if pending:
            time.sleep(self.work.poll_s)  # other processes train the open runs
        return bool(pending)

    def _cohorts(self, runs: Sequence[RunSpec]) -> list[CohortPlan]:
        if not self.work.shares:
            return cohorts(runs, self.plan.suite.max_lanes)
        by_id = {run.id: run for run in runs}
        shares = [tuple(by_id[run_id] for run_id in share if run_id in by_id) for share in self.work.shares]
        return [CohortPlan(share) for share in shares if share]

    def _ready(self, in_cohorts: Sequence[CohortPlan]) -> Iterator[Sequence[RunSpec]]:
        """Yield the cohorts that can start, and then, of those that wait for a teacher, the runs without one."""
        waiting = []
        for cohort in in_cohorts:
            if self._is_ready(cohort.needs):
                yield cohort.runs
            else:
                waiting.append(cohort)
        for cohort in waiting:
            if without := [run for run in cohort.runs if not run.needs]:
                yield without

    def _is_ready(self, needs: Collection[str]) -> bool:
        return all(self.store.state(need) == "done" for need in needs)

    def _train_claimed(self, runs: Sequence[RunSpec], observer: Observer) -> bool:
        """Train the runs that no other process has claimed; return False if there are none."""
        try:
            with self.store.locked(CLAIMING):  # two processes that come at the same time must not share a cohort
                claimed = [run for run in runs if self.store.claim(run.id)]
            # another process may have finished a run just before the claim
            left = still_open(claimed, self.plan, self.store)
            if left:
                self._train(left, observer)
            return bool(left)
        except ClaimLostError as error:  # another process continues that run; the others resume from checkpoints
            logger.warning("%s", error)
            return True
        finally:
            for run in runs:  # all of them: a signal may have arrived while one was claimed
                self.store.release(run.id)

    def _train(self, runs: Sequence[RunSpec], observer: Observer) -> None:
        for run in runs:
            self.store.begin(run, suite_files(self.plan, run))
        device = self.inputs.device
        member = partial(_take_part, replace(self.work, runs=tuple(run.id for run in runs), device=str(device)))
        try:
            with process_group(most_processes(runs), member, device) as group:
                _fit(runs, self.inputs, group, observer)
        except (RequestError, ClaimLostError, KeyboardInterrupt):
            raise  # no run is at fault, but the store, the data or an interruption
        except BaseException as error:  # of what all lanes share: a teacher, which may exit, the device, a process
            failure = failure_of(error, "in what its cohort shares")
            if isinstance(error, ProcessLostError):
                failure = Failure("failed", str(error), error.details)
            for run in runs:
                if self.store.state(run.id) == "running":
                    self.store.fail(run.id, failure)
                    logger.warning("failed: %s (run %s)", failure.reason, run.id)


def _fit(runs: Sequence[RunSpec], inputs: Inputs, group: Group, observer: Observer) -> None:
    cohort = assemble(runs, inputs, group)
    if cohort.lanes:
        fit(cohort, inputs.store, observer)


def _take_part(work: Work, group: Group) -> None:
    """Train the cohort of a work as a rank other than 0: the same steps, but without writing or showing anything.

    On GPUs, each process uses the GPU that is its rank after that of rank 0.
    """
    device = torch.device(work.device)
    if device.type == "cuda":
        device = torch.device("cuda", (device.index or 0) + group.rank)
    torch.set_num_threads(work.plan.suite.threads)
    inputs = Inputs(replace(work, device=str(device)), DiscardingStore(work.results))
    _fit(work.wanted, inputs, group, Observer())
