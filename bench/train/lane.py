"""A lane: one run inside a cohort, with its student, terms, optimizer, clock and rows."""

import io
import math
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bench.models.base import Network
from bench.spec import STUDENT, RunSpec, Schedule, seed_from
from bench.store import Failure
from bench.tasks import task_of
from bench.train.group import ALONE, Group, LaneLostError
from bench.train.precision import arithmetic, as_float32
from bench.train.processes import ProcessLostError
from bench.types import Batch, Features, InitialStage, Shapes
from methods.base import Distiller

INITIAL, MAIN = 0, 1  # stages, in the order in which they run


def ignore(phase: str) -> None:
    """Take note of nothing: nobody measures."""


class Clock(NamedTuple):
    """Where a lane stands: the stage and the epoch (from 1) that it trains next."""

    stage: int
    epoch: int


@dataclass(frozen=True)
class Teacher:
    """A trained network in eval mode, its parameters frozen."""

    network: Network
    shapes: Shapes


@dataclass(frozen=True)
class Term:
    """One distiller's share of the loss.

    Attributes:
        name: the method's.
        weight: factor in the total loss.
        distiller: the method with its adapters.
        teacher: the run id of the teacher it listens to.
    """

    name: str
    weight: float
    distiller: Distiller
    teacher: str


class Meter:
    """Sums over an epoch's samples, kept on the device; reading them is the epoch's one synchronisation."""

    def __init__(self, names: Sequence[str], device: torch.device) -> None:
        self.names = names
        self.samples = 0
        self.sums = torch.zeros(len(names), dtype=torch.float64, device=device)

    def add(self, means: Tensor, samples: int) -> None:
        """Add a batch's means, float64 in the order of the names."""
        self.sums += means * samples
        self.samples += samples

    def read(self) -> dict[str, float]:
        """Return the means over all samples."""
        means = self.sums / max(self.samples, 1)
        return dict(zip(self.names, means.tolist(), strict=True))


@dataclass
class Lane:
    """One run inside a cohort.

    Attributes:
        spec: what the run is.
        student: the network that trains.
        terms: the methods' terms.
        schedule: the specification's.
        clock: the epoch that comes next, or that has begun.
        trained: steps of that epoch that are behind it.
        seconds: what they took.
        rows: one mapping an epoch, as `epochs.jsonl` holds them.
        failure: why the lane left, or None.
        group: the processes that train it together.
    """

    spec: RunSpec
    student: Network
    terms: tuple[Term, ...]
    schedule: Schedule
    clock: Clock = field(default_factory=lambda: Clock(MAIN, 1))
    trained: int = 0
    seconds: float = 0.0
    rows: list[dict[str, Any]] = field(default_factory=list)
    failure: Failure | None = None
    group: Group = ALONE

    def __post_init__(self) -> None:
        self.device = next(self.student.parameters()).device
        self.initial: list[tuple[Term, InitialStage]] = []
        for term in self.terms:
            stage = term.distiller.initial_stage()
            if stage is not None:
                self.initial.append((term, stage))
        if self.initial and self.schedule.initial_epochs:
            self.clock = Clock(INITIAL, 1)
        self.objective = task_of(self.spec).objective
        self.needs_preactivations = any(term.distiller.needs_preactivations for term in self.terms)
        self._enter_stage()

    def join(self, group: Group) -> None:
        """Train together with other processes from now on."""
        self.group = group
        for term in self.terms:
            term.distiller.gather = group.all_gather

    # the clock

    @property
    def done(self) -> bool:
        """Return whether every epoch has been trained."""
        return self.clock.stage == MAIN and self.clock.epoch > self.schedule.epochs

    @property
    def position(self) -> tuple[Clock, int]:
        """Return the clock and the steps behind it: lanes at equal positions see the same batch next."""
        return self.clock, self.trained

    @property
    def networks(self) -> dict[str, Network]:
        """Return the networks that train, which are evaluated and kept, by name."""
        return {STUDENT: self.student}

    @property
    def epochs_left(self) -> int:
        """Return how many epochs of both stages are to come."""
        left = self.schedule.epochs + 1 - self.clock.epoch
        if self.clock.stage == INITIAL:
            left += self.schedule.initial_epochs
        return left

    @property
    def teachers(self) -> set[str]:
        """Return the teachers whose features the lane's present stage reads."""
        terms = [term for term, _ in self.initial] if self.clock.stage == INITIAL else self.terms
        return {term.teacher for term in terms}

    def advance(self) -> None:
        """Move the clock one epoch on."""
        self.trained = 0
        self.seconds = 0.0
        stage, epoch = self.clock
        if stage == INITIAL and epoch == self.schedule.initial_epochs:
            # what is frozen now reads its norms' statistics, of which each process has had its own
            self.group.broadcast([buffer for module in self._initial_modules for buffer in module.buffers()])
            self.clock = Clock(MAIN, 1)
            self._enter_stage()
        else:
            self.clock = Clock(stage, epoch + 1)

    def _enter_stage(self) -> None:
        """Start the stage's optimizer afresh; the main stage freezes what the initial one trained."""
        lr = self.schedule.lr
        groups: list[dict[str, Any]] = []
        if self.clock.stage == INITIAL:
            for _, stage in self.initial:
                if stage.modules:
                    own = [p for module in stage.modules for p in module.parameters()]
                    groups.append({"params": own, "lr": stage.lr or lr})
            if self.trains_student:
                trunk = [p for module in self.student.trunk() for p in module.parameters()]
                groups.append({"params": trunk, "lr": lr})
        else:
            for module in self._initial_modules:
                module.requires_grad_(False)
            modules: list[nn.Module] = [self.student, *(term.distiller for term in self.terms)]
            trained = [p for module in modules for p in module.parameters() if p.requires_grad]
            groups.append({"params": trained, "lr": lr})
        momentum, weight_decay = self.schedule.momentum, self.schedule.weight_decay
        self.optimizer = torch.optim.SGD(groups, momentum=momentum, weight_decay=weight_decay)

    @property
    def _initial_modules(self) -> list[nn.Module]:
        return [module for _, stage in self.initial for module in stage.modules]

    @property
    def stage(self) -> str:
        """Return the present stage's name: initial or main."""
        return "initial" if self.clock.stage == INITIAL else "main"

    @property
    def trains_student(self) -> bool:
        """Return whether the student takes part in the present stage."""
        return self.clock.stage == MAIN or any(stage.trains_student for _, stage in self.initial)

    # an epoch

    def begin_epoch(self) -> None:
        """Set every module's mode, the learning rate, and the meter to zero, unless the epoch had begun before."""
        initial = self.clock.stage == INITIAL
        self.student.train(not initial)
        for term in self.terms:
            term.distiller.train(not initial)
        for module in self._initial_modules:
            module.train(initial)
        if initial and self.trains_student:
            for module in self.student.trunk():
                module.train()
        if not initial:
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate(self.schedule, self.clock.epoch)
        if not self.trained:
            self.meter = Meter(self._measured(), self.device)

    def _measured(self) -> list[str]:
        """Return the names of what the present stage measures, in the order in which `step` gives it."""
        names = ["loss"]
        if self.clock.stage == INITIAL:
            return names
        if self.objective is not None:
            names += ["ce", f"train_{self.objective.hit}"]
        for i, term in enumerate(self.terms):
            title = f"term{i}_{term.name}"
            names.append(title)
            names += [f"{title}_{what}" for what in term.distiller.observes]
        return names

    def step(
        self, batch: Batch, teachers: Mapping[str, Features], number: int, mark: Callable[[str], object] = ignore
    ) -> None:
        """Train on one batch: forward, loss, backward, optimizer, and the distillers' own state.

        Args:
            batch: of B samples: of several processes, this one's share.
            teachers: features by teacher run id.
            number: the step within the epoch, from 0; the methods' draws depend on it, not on what ran before.
            mark: is told the name of each phase that has ended, by who measures them.
        """
        self._seed(number)
        features = self._student_features(batch)
        mark("student")
        loss, parts = self._losses(features, batch, teachers)
        mark("term")
        self._backward(loss)
        mark("backward")
        self._update([loss, *parts], len(batch.images))
        self.trained = number + 1
        mark("optimizer")

    def _seed(self, number: int) -> None:
        """Let what is drawn in a step depend on that step alone, and on the process: each draws for other samples."""
        place = [*self.clock, number]
        if self.group.rank:
            place.append(self.group.rank)
        torch.manual_seed(seed_from("step", self.spec.seed, *place))

    def _update(self, values: Sequence[Tensor], samples: int) -> None:
        """Take the step that all processes' gradients ask for, and add a batch's means to the meter."""
        means = torch.stack([value.detach().double() for value in values])
        trained = [p for group in self.optimizer.param_groups for p in group["params"]]
        gradients = [p.grad for p in trained if p.grad is not None]
        samples = self.group.all_reduce_mean([*gradients, means], samples)
        self.optimizer.step()
        if self.clock.stage == MAIN:
            for term in self.terms:
                term.distiller.after_step(self.group.all_gather)
        self.meter.add(means, samples)

    def _student_features(self, batch: Batch) -> Features | None:
        """Return the student's features, or None in an initial stage that leaves it alone."""
        if not self.trains_student:
            return None
        with arithmetic(self.schedule.precision, self.device):
            return self.student.features(batch.images, self.needs_preactivations)

    def _losses(
        self, features: Features | None, batch: Batch, teachers: Mapping[str, Features]
    ) -> tuple[Tensor, list[Tensor]]:
        """Return the total loss and the meter's other values."""
        if self.clock.stage == INITIAL:
            losses = [self._value(term, stage.loss, features, teachers, batch) for term, stage in self.initial]
            return torch.stack(losses).sum(), []
        assert features is not None  # the main stage trains the student
        logits = as_float32(features, maps=False).logits
        total = torch.zeros_like(logits[0, 0])
        values: list[Tensor] = []
        if self.objective is not None:
            assert batch.targets is not None  # the task has labels
            ce = self.objective.loss(logits, batch.targets)
            total = self.spec.task_weight * ce
            values += [ce, self.objective.hits(logits, batch.targets)]
        for term in self.terms:
            value = self._value(term, term.distiller.loss, features, teachers, batch)
            if value is None:
                values.append(torch.zeros_like(total))
            else:
                total = total + term.weight * value
                values.append(value)
            values += term.distiller.observed()
        if not total.requires_grad:
            raise ValueError("there are no labels to learn from, and no term has a loss in the main stage")
        return total, values

    def _backward(self, loss: Tensor) -> None:
        """Give every parameter its gradient."""
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()

    def read(self) -> dict[str, float]:
        """Return the means of the epoch so far, as its row holds them."""
        return self.meter.read()

    def _value(
        self,
        term: Term,
        loss: Callable[[Any, Features, Batch], Any],
        student: Features | None,
        teachers: Mapping[str, Features],
        batch: Batch,
    ) -> Any:  # noqa: ANN401
        """Return what one of a term's losses gives for features as its method sees them, in its arithmetic."""
        mixed = term.distiller.autocast
        own = None if student is None else as_float32(student, maps=not mixed)
        with arithmetic(self.schedule.precision, self.device, enabled=mixed):
            return loss(own, as_float32(teachers[term.teacher], maps=not mixed), batch)

    @contextmanager
    def isolated(self) -> Iterator[None]:
        """Turn an exception inside, in any of the processes, into the lane's failure, so that the other lanes go on."""
        try:
            yield
        except LaneLostError as error:
            self.failure = error.failure
        except ProcessLostError:
            raise
        except Exception as error:
            where = self._where()
            if self.group.size > 1:
                where += f", process {self.group.rank} of {self.group.size}"
            self.failure = self.group.agree_on_failure(failure_of(error, where))
        else:
            self.failure = self.group.agree_on_failure(self.failure)

    def check_finite(self) -> None:
        """Let the lane leave as diverged if its loss or a parameter is not finite."""
        loss = self.meter.read()["loss"]
        finite_weights = torch.stack([p.detach().isfinite().all() for p in self.student.parameters()]).all()
        if not math.isfinite(loss) or not finite_weights:
            self.failure = Failure("diverged", f"the loss is not finite {self._where()}")

    def _where(self) -> str:
        if self.clock.stage == INITIAL:
            return f"in initial epoch {self.clock.epoch}"
        return f"in epoch {self.clock.epoch}"

    # checkpoints

    def checkpoint(self) -> bytes:
        """Return all that the run needs to go on bitwise from its clock."""
        buffer = io.BytesIO()
        torch.save(self._state(), buffer)
        return buffer.getvalue()

    def restore(self, checkpoint: bytes) -> None:
        """Go back to a checkpoint."""
        self._load(torch.load(io.BytesIO(checkpoint), map_location=self.device, weights_only=True))

    def _state(self) -> dict[str, Any]:
        state = {
            "student": self.student.state_dict(),
            "distillers": [term.distiller.state_dict() for term in self.terms],
            "optimizer": self.optimizer.state_dict(),
            "clock": list(self.clock),
            "rows": self.rows,
        }
        if self.trained:
            meter = {"names": list(self.meter.names), "samples": self.meter.samples, "sums": self.meter.sums}
            state["begun"] = {"trained": self.trained, "seconds": self.seconds, "meter": meter}
        return state

    def _load(self, state: Mapping[str, Any]) -> None:
        self.student.load_state_dict(state["student"])
        for term, saved in zip(self.terms, state["distillers"], strict=True):
            term.distiller.load_state_dict(saved)
        self.clock = Clock(*state["clock"])
        self._enter_stage()
        self.optimizer.load_state_dict(state["optimizer"])
        self.rows = state["rows"]
        if begun := state.get("begun"):
            self.trained = begun["trained"]
            self.seconds = begun["seconds"]
            meter = begun["meter"]
            self.meter = Meter(meter["names"], self.device)
            self.meter.sums = meter["sums"]
            self.meter.samples = meter["samples"]


def learning_rate(schedule: Schedule, epoch: int) -> float:
    """Return the main stage's rate in an epoch (from 1): the first lower rate is epoch milestone + 1's."""
    passed = sum(epoch > milestone for milestone in schedule.milestones)
    return schedule.lr * schedule.lr_decay**passed


def failure_of(error: Exception, where: str) -> Failure:
    """Return an exception as a run's failure: one line of reason, the traceback as details."""
    reason = f"{type(error).__name__}: {error}".splitlines()[0]
    return Failure("failed", f"{reason} ({where})", "".join(traceback.format_exception(error)))
