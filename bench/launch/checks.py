"""The check of `--dry-run`: each kind of run is tried for one step, and the answers are remembered."""

import hashlib
import json
import multiprocessing
import random
import signal
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from itertools import chain
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch

from bench.launch.jobs import cores, free_bytes, jobs_for
from bench.launch.provenance import device_name
from bench.plan import Plan
from bench.plan.code import code_of_run
from bench.program import code_hash
from bench.remembered import cache_file, keep, recall
from bench.spec import RunSpec, canonical_document
from bench.train.build import inapplicable
from bench.train.lane import MORE_MEMORY, failure_of
from bench.train.processes import Child, children
from bench.train.rehearsal import Rehearsal
from bench.types import Features, RequestError
from methods import Method
from methods._settings import set_back, settings

if TYPE_CHECKING:
    from multiprocessing.sharedctypes import Synchronized

LARGEST = 512 * 512  # pixels of the images of runs that are tried: larger ones take too long, and too much memory
UNUSED = ("seed", "order_seed", "source", "checkpoint", "checkpoint_key", "checkpoint_rename")  # in a step
LENGTHS = ("epochs", "milestones", "initial_epochs", "initial_steps")  # of a schedule: not used either
OF_IMAGES = {"classes", "channels", "size", "view", "mean", "std"}  # what a step uses of a data set
TRIAL_BYTES = 2.1e9  # that a process takes at most: 2.0 GB with FT's adapter for ResNet50
FEWER = "Maybe memory ran out: name fewer pairs with --pairs, or fewer rows with --only"
PACKAGES = ("torch", "torchvision", "timm")  # whose code is part of a step


class Answer(NamedTuple):
    """What is known of a kind of run."""

    status: Literal["trains", "inapplicable", "fails", "untried"]
    reason: str = ""


class Checks:
    """Checks the runs of a plan. Runs that differ only in seeds, lengths or given weights are of one kind."""

    def __init__(
        self, plan: Plan, runs: Sequence[RunSpec], methods: Mapping[str, Method], device: torch.device
    ) -> None:
        """Sort runs, and those that they evaluate, by kind; `run` tries them on the device."""
        self.plan, self.runs, self.methods, self.device = plan, runs, methods, device
        self._where = device_name(device)
        self._kind_of = {one.id: self._kind(one) for run in runs for one in (plan.trained(run), run)}
        self._kinds = {kind: plan.runs[run_id] for run_id, kind in reversed(self._kind_of.items())}
        self._file, self._program = cache_file("checked.json"), _program()
        known = recall(self._file)
        is_current = isinstance(known, dict) and known.get("program") == self._program
        self._remembered: dict[str, Answer] = {k: Answer(*v) for k, v in known["answers"].items()} if is_current else {}
        self._answers = {kind: self._remembered[kind] for kind in self._kinds if kind in self._remembered}
        self._rehearsal: Rehearsal | None = None  # the last one; its networks take memory
        self._students: dict[tuple[object, ...], Features] = {}

    def __len__(self) -> int:
        """Return the number of kinds that are still to be tried."""
        return len(self._kinds) - len(self._answers)

    def run(self, processes: int | None = None) -> Iterator[None]:
        """Try all kinds; yield after each one. What does not fail is remembered in the user's cache folder.

        At the end, the process's settings and generators are as they were before.

        Args:
            processes: that try kinds side by side; by default, on a CPU, one for each core with enough memory.

        Raises:
            RequestError: one of these processes has died.
        """
        groups = defaultdict(list)  # kinds of the same teachers and data
        for kind, run in reversed(self._kinds.items()):
            if kind not in self._answers:
                groups[run.teachers, run.data.key].append(kind)
        in_order = sorted(groups.values(), key=len, reverse=True)  # so that all processes end at about the same time
        processes = processes or self._processes(len(groups))
        with _settings_set_back(self.device):
            # a forked process cannot use its parent's threads, and a step of few images waits for a busy core
            torch.set_num_threads(1 if processes > 1 else min(self.plan.suite.threads, cores()))
            tried = self._side_by_side(in_order, processes) if processes > 1 else map(self._tried, chain(*in_order))
            try:
                for kind, answer in tried:
                    self._answers[kind] = answer
                    yield
            finally:
                lasting = {k: one for k, one in self._answers.items() if one.status in ("trains", "inapplicable")}
                keep(self._file, {"program": self._program, "answers": self._remembered | lasting})

    def _processes(self, groups: int) -> int:
        # a GPU cannot be used after a fork, which is unsafe on macOS, and Windows has none
        if self.device.type != "cpu" or sys.platform != "linux":
            return 1
        return jobs_for(cores(), 1, free_bytes(), TRIAL_BYTES, groups)

    def _side_by_side(self, groups: Sequence[Sequence[str]], processes: int) -> Iterator[tuple[str, Answer]]:
        """Yield kinds and their answers, which do not depend on the number of processes."""
        begun = multiprocessing.get_context("fork").Value("i", 0)  # the number of groups
        pipes = [multiprocessing.Pipe(duplex=False) for _ in range(processes)]
        targets = [partial(self._try_groups, groups, begun, sender) for _, sender in pipes]
        # forked, since a new process would import for about as long as it tries
        with children(targets, ignored=[signal.SIGINT], start="fork") as started:
            running: dict[object, Child] = {child.process.sentinel: child for child in started}
            while running:
                sentinels = [child.process.sentinel for child in running.values()]
                for ready in wait([*sentinels, *(answers for answers, _ in pipes)]):
                    if isinstance(ready, Connection):
                        yield ready.recv()
                        continue
                    child = running.pop(ready)
                    child.process.join()
                    if (failure := child.failure()) is not None:
                        advice = f". {FEWER}" if child.process.exitcode == -signal.SIGKILL else ""
                        raise RequestError(f"a process of the dry run {failure}{advice}")
            for answers, _ in pipes:
                while answers.poll():
                    yield answers.recv()
        if len(self):  # a plug-in may end its process with status 0
            raise RequestError("a process of the dry run has ended before it had tried all its rows")

    def _try_groups(self, groups: Sequence[Sequence[str]], begun: "Synchronized[int]", sender: Connection) -> None:
        """Try groups that no other process has begun, and send each kind with its answer."""
        while True:
            with begun.get_lock():
                number = begun.value
                begun.value += 1
            if number >= len(groups):
                return
            for kind in groups[number]:
                sender.send(self._tried(kind))

    def _tried(self, kind: str) -> tuple[str, Answer]:
        run = self._kinds[kind]
        if self._rehearsal is None or not self._rehearsal.serves(run):
            teachers = {name: self.plan.runs[name] for name in run.teachers}
            self._rehearsal = Rehearsal(run.data, teachers, self.device, self._students)
        return kind, self._answer(run, self._rehearsal)

    def _answer(self, run: RunSpec, rehearsal: Rehearsal) -> Answer:
        try:
            if reason := inapplicable(run, {name: self.plan.runs[name] for name in run.needs}, self.methods):
                return Answer("inapplicable", reason)
        except RequestError as error:
            return Answer("fails", " ".join(str(error).split()))
        except BaseException as error:  # of a user's network
            return Answer("fails", failure_of(error, "while it was built").reason)
        if not run.trains:
            return Answer("trains")
        height, width = run.data.size
        if height * width > LARGEST:
            return Answer("untried", f"images of {height}x{width} pixels take too long")
        fault = rehearsal.fault(run, self.methods)
        if fault is None:
            return Answer("trains")
        return Answer("untried" if MORE_MEMORY in fault else "fails", fault)

    @property
    def reasons(self) -> dict[str, str]:
        """Return why methods cannot be applied to their pairs, by the ids of the runs concerned."""
        by_run = {}
        for run in reversed(self.runs):
            for one in (run, self.plan.trained(run)):
                answer = self._answers[self._kind_of[one.id]]
                if answer.status == "inapplicable":
                    by_run[run.id] = answer.reason
        return dict(reversed(by_run.items()))

    @property
    def problems(self) -> list[str]:
        """Return what would fail: a line for each pair and reason, with the rows concerned."""
        return [f"{self.plan.file}: pairs: {line}" for line in self._lines("fails")]

    @property
    def untried(self) -> list[str]:
        """Return what was not tried, and why: a line for each pair and reason, with the rows concerned."""
        return [f"not tried: {line}" for line in self._lines("untried")]

    def _lines(self, status: str) -> list[str]:
        titles = self.plan.titles
        rows: dict[tuple[str, str], dict[str, None]] = defaultdict(dict)  # by pair and reason
        for run_id, kind in self._kind_of.items():
            answer = self._answers[kind]
            if answer.status == status:
                pair, row = titles[run_id]
                rows[pair, answer.reason][row] = None
        return [f"{pair}, row {', '.join(names)}: {reason}" for (pair, reason), names in rows.items()]

    def _kind(self, run: RunSpec) -> str:
        """Return the identity of all that a step depends on: specification, networks, images and code."""
        teachers = [self.plan.runs[name] for name in run.teachers]
        document = {key: value for key, value in canonical_document(run).items() if key not in UNUSED}
        document |= {"data": _seen(run), "teachers": [[one.student.model_dump(), _seen(one)] for one in teachers]}
        if run.trains:
            schedule = {key: value for key, value in document["schedule"].items() if key not in LENGTHS}
            document["schedule"] = [schedule, run.training.has_initial_stage]
        used = [code_of_run(one, self.plan.code) for one in (run, *teachers)]
        code = {name: one.sha256 for of_run in used for name, one in of_run.items()}
        return _hash(json.dumps([document, code, self._where], sort_keys=True).encode())


@contextmanager
def _settings_set_back(device: torch.device) -> Iterator[None]:
    """Set back at the end of the block what steps change: settings, and the generators of torch, Python and numpy."""
    before, python, numpy = settings(), random.getstate(), np.random.get_state()
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            set_back(before)
            random.setstate(python)
            np.random.set_state(numpy)


def _seen(run: RunSpec) -> dict[str, Any]:
    """Return what a step uses of a run's data set."""
    return run.data.model_dump(mode="json", include=OF_IMAGES)


def _program() -> str:
    """Return a hash of the code that all runs share: this program's and that of libraries."""
    return _hash(code_hash("*.py").encode(), *(_version(name).encode() for name in PACKAGES))


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # an extra
        return ""


def _hash(*parts: bytes) -> str:
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:32]
