"""A lane: one run of a cohort, with its learners, its position in training and its epochs' rows."""

import io
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import nn

from bench.models.base import Network
from bench.models.own import FILES
from bench.schedule import Schedule
from bench.spec import STUDENT, RunSpec, column, seed_from
from bench.store import Failure
from bench.text import printable
from bench.train.evaluation import Evaluated
from bench.train.features import detached
from bench.train.learner import INITIAL, MAIN, Learner, Term
from bench.train.memory import is_out_of_memory
from bench.train.meter import Meter
from bench.train.process_group import ALONE, Group, LaneLostError
from bench.train.processes import ProcessLostError
from bench.types import Batch, Features
from methods._errors import described, ends_process, place
from methods._settings import kept_settings, seed_generators
from methods.base import REGISTERED

MAX_DETAILS = 20_000  # characters
MORE_MEMORY = "lower training: batch_size, or set max_lanes: N so that fewer runs train together"


class SharedDataError(RuntimeError):
    """A lane has changed what all lanes of its cohort read: the others' numbers would no longer be theirs."""


class Clock(NamedTuple):
    """The stage and the epoch (from 1) that a lane trains next."""

    stage: int
    epoch: int


@dataclass
class Lane:
    """One run of a cohort, whose lanes share schedule and objective.

    Attributes:
        spec: the run's specification.
        learners: by the name of the network: the student and, in mutual learning, its peer.
        learner: the student's.
        student: its network.
        terms: its terms.
        schedule: its schedule.
        device: where it trains.
        networks: those that are evaluated and stored, by name: see `Learner.evaluated`.
        clock: the epoch that comes next, or that has begun.
        trained: number of steps trained in that epoch; lanes at equal clock and steps see the same batch next.
        seconds: duration of these steps.
        rows: one mapping per epoch, as in `epochs.jsonl`.
        failure: why the lane left the cohort, or None.
        group: the processes that train it together.
        made_from: the hashes of the weights and the methods' code that it is trained with, as its record names them.
        has_plugin: whether a method or a network of it is not the project's own.
        has_users_network: whether a network of it is from a user's file.
        answers: what was kept of the networks' evaluation on the test images after the last epoch, by name; empty
            until then, and where nothing was kept.
        epoch_steps: the number of steps of a whole epoch.
    """

    spec: RunSpec
    learners: Mapping[str, Learner]
    learner: Learner = field(init=False)
    student: Network = field(init=False)
    terms: Sequence[Term] = field(init=False)
    schedule: Schedule = field(init=False)
    device: torch.device = field(init=False)
    networks: dict[str, Network] = field(init=False)
    clock: Clock = field(init=False)
    trained: int = 0
    seconds: float = 0.0
    rows: list[dict[str, Any]] = field(default_factory=list)
    failure: Failure | None = None
    group: Group = ALONE
    made_from: dict[str, Any] = field(default_factory=dict)
    has_plugin: bool = False
    has_users_network: bool = False
    answers: dict[str, Evaluated] = field(default_factory=dict)
    epoch_steps: int = 1

    def __post_init__(self) -> None:
        self.learner = self.learners[STUDENT]
        self.student, self.terms, self.schedule = self.learner.network, self.learner.terms, self.learner.schedule
        self.networks = {name: learner.evaluated for name, learner in self.learners.items()}
        self.device = self.learner.device
        self.clock = Clock(INITIAL if self.learner.has_initial_stage else MAIN, 1)

    def join(self, group: Group) -> None:
        """Train together with other processes from now on."""
        self.group = group
        for term in (term for learner in self.learners.values() for term in learner.terms):
            term.distiller.gather = group.all_gather

    @property
    def modules(self) -> list[nn.Module]:
        """Return the networks that train, their averages, and the distillers."""
        learners = self.learners.values()
        distillers = [term.distiller for learner in learners for term in learner.terms]
        averages = [learner.evaluated for learner in learners if learner.evaluated is not learner.network]
        return [*(learner.network for learner in learners), *averages, *distillers]

    @property
    def teachers(self) -> set[str]:
        """Return the run ids of the teachers whose features the current stage reads."""
        return set().union(*(learner.teachers for learner in self.learners.values())) - self.learners.keys()

    @property
    def reads_second_view(self) -> bool:
        """Return whether the current stage reads a second view of each image."""
        return any(learner.reads_second_view for learner in self.learners.values())

    @property
    def done(self) -> bool:
        """Return whether every epoch has been trained."""
        return self.clock.stage == MAIN and self.clock.epoch > self.schedule.epochs

    @property
    def initial_epochs(self) -> int:
        """Return the number of epochs of the initial stage."""
        return self.schedule.initial_epochs_of(self.epoch_steps)

    @property
    def steps(self) -> int:
        """Return the number of steps of the current epoch: the last one of an initial stage may not be whole."""
        if self.clock.stage == INITIAL and self.schedule.initial_steps is not None:
            return min(self.epoch_steps, self.schedule.initial_steps - (self.clock.epoch - 1) * self.epoch_steps)
        return self.epoch_steps

    @property
    def epochs_left(self) -> int:
        """Return the number of epochs that remain in both stages."""
        initial = self.initial_epochs if self.clock.stage == INITIAL else 0
        return initial + self.schedule.epochs + 1 - self.clock.epoch

    @property
    def stage(self) -> str:
        """Return the name of the current stage: initial or main."""
        return "initial" if self.clock.stage == INITIAL else "main"

    def advance(self) -> None:
        """Move the clock to the next epoch."""
        self.trained, self.seconds = 0, 0.0
        stage, epoch = self.clock
        if stage == INITIAL and epoch == self.initial_epochs:
            # frozen modules read their norms' statistics, which so far differ between processes
            modules = [module for learner in self.learners.values() for module in learner.initial_modules]
            self.group.broadcast([buffer for module in modules for buffer in module.buffers()])
            self.clock = Clock(MAIN, 1)
            for learner in self.learners.values():
                learner.enter(MAIN)
        else:
            self.clock = Clock(stage, epoch + 1)

    def begin_epoch(self) -> None:
        """Prepare every network for an epoch; the meters start at zero unless the epoch was resumed."""
        for learner in self.learners.values():
            learner.begin_epoch(self.clock.epoch)
            if not self.trained:
                learner.reset_meter()

    def step(
        self,
        batch: Batch,
        teachers: Mapping[str, Features],
        number: int,
        mark: Callable[[str], object] = lambda phase: None,
    ) -> None:
        """Train on one batch: forward, loss, backward, optimizer, and the distillers' own state.

        Networks that teach each other use the same outputs, and no gradient flows to the teacher.

        Args:
            batch: this process's share of B samples.
            teachers: features by teacher run id.
            number: the step within the epoch, from 0; the methods' draws depend on it, not on previous steps.
            mark: called with the name of each phase when it ends, for measurements.
        """
        self.seed_draws(number)
        self.train_on(batch, teachers, mark)
        self.trained = number + 1
        mark("optimizer")

    def seed_draws(self, number: int) -> None:
        """Seed the generators for a step of the epoch, counted from 0; see `seed_generators`."""
        rank = [self.group.rank] if self.group.rank else []  # each process draws for its own samples
        seed_generators(seed_from("step", self.spec.ordered_by, *self.clock, number, *rank))

    def train_on(
        self, batch: Batch, teachers: Mapping[str, Features], mark: Callable[[str], object] = lambda phase: None
    ) -> None:
        """Do the part of a step that a GPU can repeat; the arguments are those of `step`."""
        learners = list(self.learners.values())
        own = {name: learner.features(batch) for name, learner in self.learners.items()}
        mark("student")
        if len(learners) > 1:
            teachers = {name: detached(features) for name, features in own.items() if features is not None}
        losses = [learner.losses(own[name], batch, teachers) for name, learner in self.learners.items()]
        mark("term")
        for learner, (loss, _) in zip(learners, losses, strict=True):
            learner.optimizer.zero_grad()
            loss.backward()
        mark("backward")
        for learner, (loss, parts) in zip(learners, losses, strict=True):
            learner.update([loss, *parts], len(batch.images), self.group)

    def read(self) -> dict[str, float]:
        """Return the means of the epoch so far, named as in its row."""
        return {
            column(network, name): value
            for network, learner in self.learners.items()
            for name, value in learner.meter.read().items()
        }

    def check_finite(self) -> None:
        """Mark the lane as diverged if a loss or a parameter is not finite."""
        if not all(learner.is_finite() for learner in self.learners.values()):
            self.failure = Failure("diverged", f"the loss is not finite {self.place}")

    @contextmanager
    def isolated(self) -> Iterator[None]:
        """Turn an exception in any of the processes into the lane's failure, so that the other lanes continue.

        Settings of the process that a plug-in changes are set back, and the lane fails.
        """
        try:
            with kept_settings(self.has_plugin):
                yield
        except LaneLostError as error:
            self.failure = error.failure
        except (ProcessLostError, SharedDataError):
            raise
        except BaseException as error:  # a method may even raise SystemExit
            where = self.place
            if self.group.size > 1:
                where += f", process {self.group.rank} of {self.group.size}"
            self.failure = self.group.agree_on_failure(failure_of(error, where))
        else:
            self.failure = self.group.agree_on_failure(self.failure)

    @property
    def place(self) -> str:
        """Return the current epoch in words."""
        if self.done:
            return "after the last epoch"
        return f"in {'initial ' if self.clock.stage == INITIAL else ''}epoch {self.clock.epoch}"

    # checkpoints: the student's state is at the top level, a peer's is under its name

    def checkpoint(self) -> bytes:
        """Return the state from which the run continues bit for bit."""
        state: dict[str, Any] = {"clock": list(self.clock), "rows": self.rows}
        state |= {"run": self.spec.id, "made_from": self.made_from}
        if self.trained:
            state["begun"] = {"trained": self.trained, "seconds": self.seconds}
        for name, learner in self.learners.items():
            own = state if name == STUDENT else state.setdefault(name, {})
            own |= learner.state()
            if self.trained:
                own["begun"] = own.get("begun", {}) | {"meter": learner.meter.state()}
        buffer = io.BytesIO()
        torch.save(state, buffer)
        return buffer.getvalue()

    def opened(self, checkpoint: bytes) -> dict[str, Any]:
        """Return the state in a checkpoint, on the CPU, for `restore`; raises an error of any kind if there is none."""
        state = torch.load(io.BytesIO(checkpoint), map_location="cpu", weights_only=True)
        if state.get("run", self.spec.id) != self.spec.id:
            raise ValueError(f"it is of run {state['run']}")
        return state

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from a checkpoint's state."""
        self.clock = Clock(*state["clock"])
        self.rows = state["rows"]
        if "begun" in state:
            self.trained, self.seconds = state["begun"]["trained"], state["begun"]["seconds"]
        for name, learner in self.learners.items():
            own = state if name == STUDENT else state[name]
            learner.load_state(own, self.clock.stage)
            if "begun" in own:
                learner.meter = Meter.restored(own["begun"]["meter"], self.device)


def failure_of(error: BaseException, where: str) -> Failure:
    """Return the failure that an exception means for a run; its details are the traceback.

    The reason has the file and line of the innermost frame in the file of a method or a user's network, if there is
    one. An exception that must end the process is raised again.
    """
    if ends_process(error):
        raise error
    reason = described(error)
    if is_out_of_memory(error):
        reason = f"{reason[:100]}: out of memory: {MORE_MEMORY}"
    files = [getattr(sys.modules.get(cls.__module__), "__file__", None) for cls in REGISTERED.values()]
    at = place(error, [*files, *FILES.values()])
    details = "".join(traceback.format_exception(error))
    if len(details) > MAX_DETAILS:
        details = f"{details[: MAX_DETAILS // 2]}\n[...]\n{details[-MAX_DETAILS // 2 :]}"
    details = "".join(f"{printable(line, one_line=True)}\n" for line in details.splitlines())
    return Failure("failed", f"{reason} ({', '.join(filter(None, [at, where]))})", details)
