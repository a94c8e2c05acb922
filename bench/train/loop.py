"""Trains a cohort from start to end: its epochs, evaluations, checkpoints and records."""

import itertools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from safetensors.torch import save

from bench.data.batches import TrainingData
from bench.data.images import Split
from bench.spec import DEV, STUDENT, RunSpec, column
from bench.store import Failure, Store, weights_file
from bench.tasks import Task, task_of
from bench.tasks.objectives import Objective
from bench.train.answers import keep_answers
from bench.train.captured import CapturedSteps
from bench.train.epoch import train_epoch
from bench.train.evaluation import evaluated
from bench.train.lane import Clock, Lane, failure_of
from bench.train.learner import MAIN, Teacher
from bench.train.outputs import MAX_EMBEDDED, keep_outputs
from bench.train.precision import set_products
from bench.train.process_group import Group
from bench.train.resume import resume
from bench.types import Batch
from methods._settings import kept_settings

CHECKPOINT_S = 30.0  # seconds of work at risk at most, unless one epoch takes longer
LOGIT_BYTES = 4  # of a float32
MAX_LOGIT_BYTES = 2**30  # bytes of logits that are kept from the last evaluation; where there are more, it is repeated


class Observer:
    """Receives the progress of a cohort; this base class ignores it."""

    def pending(self, runs: Sequence[RunSpec], cohorts: int) -> None:
        """These runs are open, in that number of cohorts, before the next cohort starts."""

    def cohort(self, lanes: Sequence[Lane]) -> None:
        """A cohort of these lanes starts or continues."""

    def step(self, lanes: Sequence[Lane], step: int, steps: int) -> None:
        """A step was trained, counted from 1, of `steps` in the epoch."""

    def epoch(self, lanes: Sequence[Lane], clock: Clock, seconds: float, steps: int) -> None:
        """An epoch has ended for these lanes; their last rows hold its numbers."""


@dataclass
class Cohort:
    """Lanes that see the same batches.

    Attributes:
        teachers: by run id.
        test: the split for evaluation; dev images where the test images stay closed.
        seed: of order and augmentation.
        record: returns the content of a lane's record, without its metrics.
        keep_checkpoints: whether the checkpoints of finished runs are kept.
        accept_changed: whether lanes continue from checkpoints that other code of their methods has left.
        at_risk_s: maximum seconds of work at risk, also within an epoch.
        group: the processes that train the lanes together.
        dev: the dev images that are evaluated beside the test images, if there are any.
        saved: when the last checkpoint was written.
        captured: trains the lanes on a GPU, unless several processes do.
    """

    lanes: list[Lane]
    teachers: Mapping[str, Teacher]
    train: TrainingData
    test: Split
    seed: int
    record: Callable[[Lane], dict[str, Any]]
    keep_checkpoints: bool
    at_risk_s: float
    group: Group
    dev: Split | None = None
    accept_changed: bool = False
    saved: float = field(default_factory=time.monotonic)
    captured: CapturedSteps | None = field(init=False)

    def __post_init__(self) -> None:
        on_gpu = bool(self.lanes) and self.lanes[0].device.type == "cuda"
        self.captured = CapturedSteps(self.teachers, self.lanes) if on_gpu and self.group.size == 1 else None

    def train_epoch(self, lanes: Sequence[Lane], batches: Iterable[Batch]) -> Iterable[int]:
        """Train lanes on an epoch's batches and yield each step's number; see `bench.train.epoch.train_epoch`."""
        if self.captured is not None:
            return self.captured.train_epoch(lanes, batches)
        return train_epoch(self.teachers, lanes, batches)


def fit(cohort: Cohort, store: Store, observer: Observer) -> None:
    """Train every lane to its end; write a record or a failure of each to the store.

    An epoch runs the lanes whose clock is at it: a lane that was killed later than the others waits for them.
    """
    set_products(cohort.lanes[0].schedule.precision)
    for lane in cohort.lanes:
        with lane.isolated():
            resume(lane, store, cohort.accept_changed)
        _leave(cohort, lane, store)
    observer.cohort(cohort.lanes)
    while running := [lane for lane in cohort.lanes if not lane.done and lane.failure is None]:
        clock, start = min((lane.clock, lane.trained) for lane in running)
        lanes = [lane for lane in running if (lane.clock, lane.trained) == (clock, start)]
        steps = lanes[0].steps  # equal in a cohort
        ahead = [lane.trained for lane in running if lane.clock == clock and lane.trained > start]
        stop = min(ahead, default=steps)  # where lanes that are further in the epoch join
        _train(cohort, lanes, stop, steps, store, observer)
        if stop == steps:
            seconds = _end_epoch(cohort, lanes, clock, store)
            observer.epoch(lanes, clock, seconds, steps)
            if checkpoint_due(time.monotonic() - cohort.saved, seconds, cohort.at_risk_s):
                _save(cohort, running, store)
        for lane in running:
            _leave(cohort, lane, store)


def checkpoint_due(unsaved_s: float, epoch_s: float, at_risk_s: float) -> bool:
    """Return whether to save at the end of an epoch, so that no more than the maximum or one epoch is ever at risk.

    There are `unsaved_s` seconds of work since the last checkpoint; the next epoch may take as long as the last one.
    The maximum is `at_risk_s`, that of the suite, and `CHECKPOINT_S` where that is less.
    """
    return unsaved_s + epoch_s > min(CHECKPOINT_S, at_risk_s)


def _train(cohort: Cohort, lanes: Sequence[Lane], stop: int, steps: int, store: Store, observer: Observer) -> None:
    """Train lanes from their current step to `stop` in the same epoch and save them at intervals."""
    start, batch_size = lanes[0].trained, lanes[0].schedule.batch_size  # equal in a cohort
    second = any(lane.reads_second_view for lane in lanes)
    epoch = cohort.train.epoch(cohort.seed, *lanes[0].clock, batch_size, start, second)
    batches = itertools.islice(epoch, stop - start)
    began = time.monotonic()
    for step in cohort.train_epoch(lanes, batches):
        observer.step(lanes, step + 1, steps)
        now = time.monotonic()
        if step + 1 < stop and now - cohort.saved > cohort.at_risk_s:
            _add_seconds(lanes, now - began)
            began = now
            _save(cohort, lanes, store)
    _add_seconds(lanes, time.monotonic() - began)


def _add_seconds(lanes: Sequence[Lane], seconds: float) -> None:
    for lane in lanes:
        lane.seconds += seconds


def _save(cohort: Cohort, lanes: Sequence[Lane], store: Store) -> None:
    """Write the checkpoint of every lane that continues."""
    for lane in lanes:
        if not lane.done and lane.failure is None:
            checkpoint = b""
            # several processes do not save at the same time, so they could not agree on a failure
            with lane.isolated() if cohort.group.size == 1 else nullcontext():
                checkpoint = lane.checkpoint()
            if checkpoint:
                store.write_checkpoint(lane.spec.id, checkpoint)
    cohort.saved = time.monotonic()


def _evaluate_if_due(cohort: Cohort, lanes: Sequence[Lane], clock: Clock) -> None:
    """Check each lane's numbers, add its row, and evaluate its networks if the schedule asks for it."""
    for lane in lanes:
        if lane.failure is None:
            lane.check_finite()
            lane.rows.append({"stage": lane.stage, "epoch": clock.epoch, **lane.read()})
    sound = [lane for lane in lanes if lane.failure is None]
    schedule = lanes[0].schedule
    due = clock.epoch % schedule.evaluate_every == 0 or clock.epoch == schedule.epochs
    objective = lanes[0].learner.objective  # equal in a cohort, as is the schedule
    if objective is None or clock.stage != MAIN or not due or not sound:
        return
    is_last = clock.epoch == schedule.epochs and bool(task_of(lanes[0].spec).answered)
    size = LOGIT_BYTES * len(cohort.test) * cohort.train.spec.classes * sum(len(lane.networks) for lane in sound)
    keeps_logits = is_last and size <= MAX_LOGIT_BYTES
    if known := [lane for lane in sound if not lane.has_users_network]:
        _evaluate(cohort, known, objective, keeps_logits)
    for lane in sound:
        if lane.has_users_network:  # apart, so that it fails alone
            _evaluate(cohort, [lane], objective, keeps_logits)


def _evaluate(cohort: Cohort, lanes: Sequence[Lane], objective: Objective, keeps_logits: bool) -> None:
    """Add to each lane's row the metrics of its networks on the test and the dev images, which they see together.

    A lane whose logits are not finite has diverged. An exception of a user's network, which is evaluated alone, is its
    lane's failure.
    """
    places = [(lane, name) for lane in lanes for name in lane.networks]
    networks = [lane.networks[name] for lane, name in places]
    data, schedule = cohort.train, lanes[0].schedule
    is_users = lanes[0].has_users_network

    def measured(split: Split, keeps_logits: bool) -> list[dict[str, float] | None] | Failure:
        try:
            with kept_settings(is_users):
                if is_users:
                    lanes[0].seed_draws(0)  # its network may draw in eval mode too
                evaluations = evaluated(
                    networks,
                    split,
                    data.spec,
                    data.device,
                    schedule.precision,
                    objective,
                    schedule.batch_size,
                    keeps_logits,
                    MAX_EMBEDDED if keeps_logits and task_of(lanes[0].spec).keeps_outputs else 0,
                )
        except BaseException as error:
            if not is_users:
                raise
            return failure_of(error, lanes[0].place)
        for (lane, name), one in zip(places, evaluations, strict=True):
            if keeps_logits:
                lane.answers[name] = one
        return [one.metrics if one.is_finite else None for one in evaluations]

    for split, prefix in ((cohort.test, ""), (cohort.dev, DEV)):
        if split is None:
            continue
        metrics = cohort.group.run_on_rank0(partial(measured, split, keeps_logits and split is cohort.test))
        if isinstance(metrics, Failure):
            lanes[0].failure = metrics
            return
        for (lane, name), values in zip(places, metrics, strict=True):
            if values is None:
                lane.failure = lane.failure or _not_finite(lane, name, prefix)
                continue
            lane.rows[-1] |= {column(name, f"{prefix}{metric}"): value for metric, value in values.items()}


def _not_finite(lane: Lane, name: str, prefix: str) -> Failure:
    """Return the failure of a lane one of whose networks has logits that are not finite on the images of a prefix."""
    network = lane.spec.network_names[list(lane.networks).index(name)]
    shown = f"{network} (the {name})" if len(lane.networks) > 1 else network
    images = lane.spec.data.images(prefix)
    return Failure("diverged", f"the logits of {shown} on the {images} are not finite {lane.place}")


def _end_epoch(cohort: Cohort, lanes: Sequence[Lane], clock: Clock, store: Store) -> float:
    """Evaluate the lanes, store the rows of the sound ones and advance them; return the epoch's seconds."""
    began = time.monotonic()
    _evaluate_if_due(cohort, lanes, clock)
    _add_seconds(lanes, time.monotonic() - began)
    seconds = lanes[0].seconds
    for lane in lanes:
        if lane.failure is None:
            lane.rows[-1]["wall_s"] = round(lane.seconds, 3)
            store.append_epoch(lane.spec.id, lane.rows[-1])
            with lane.isolated():
                lane.advance()
    return seconds


def _leave(cohort: Cohort, lane: Lane, store: Store) -> None:
    """Write a lane's failure, or its weights and record, if it has ended."""
    run_id = lane.spec.id
    checkpoint = b""
    weights: dict[str, bytes] = {}
    if lane.failure is None and lane.done:
        with lane.isolated():
            if cohort.keep_checkpoints:
                checkpoint = lane.checkpoint()  # the last one may be epochs old
            for network, trained in lane.networks.items():
                state = trained.state_dict()  # safetensors: no tensor is tied to another
                weights[network] = save({name: value.contiguous().clone() for name, value in state.items()})
    if lane.failure is not None:
        store.fail(run_id, lane.failure)
        return
    if not lane.done:
        return
    if checkpoint:
        store.write_checkpoint(run_id, checkpoint)
    for name, content in weights.items():
        store.write(run_id, weights_file(name), content)
    task = task_of(lane.spec)
    numbers = summary(lane.rows, task, lane.spec.data.has_dev) | {"lanes": len(cohort.lanes)}
    how = (cohort.test, cohort.train.device, lane.schedule.batch_size, lane.schedule.precision)
    if task.keeps_outputs and cohort.group.rank == 0:
        numbers |= keep_outputs(store, lane.spec, lane.networks[STUDENT], *how, lane.answers.get(STUDENT))
    if task.answered and cohort.group.rank == 0:
        logits = {name: one.logits for name, one in lane.answers.items() if one.logits is not None}
        numbers |= keep_answers(store, lane.spec, lane.networks, *how, logits)
        lane.answers = {}
    store.finish(run_id, cohort.record(lane) | numbers, cohort.keep_checkpoints)


def summary(rows: Sequence[Mapping[str, Any]], task: Task, has_dev: bool = False) -> dict[str, Any]:
    """Return a finished run's numbers: the last epoch's metrics, which are its result, and the best epoch's.

    The best epoch of each network is the one with the best primary metric of the task; `rows` has at least one epoch.
    """
    best: dict[str, Any] = {}
    evaluated: list[Mapping[str, Any]] = []
    for network in task.networks:
        names = task.columns(network, has_dev)
        evaluated = [row for row in rows if names and names[0] in row]
        if evaluated:
            row = max(evaluated, key=lambda one: one[names[0]])
            best[column(network, "epoch")] = row["epoch"]
            best |= {name: row[name] for name in names}
    return {
        "metrics": {name: rows[-1][name] for network in task.networks for name in task.columns(network, has_dev)},
        "best": best or None,
        "epochs": sum(row["stage"] == "main" for row in rows),
        "evaluated_epochs": len(evaluated),
        "wall_s": round(sum(row["wall_s"] for row in rows), 3),
    }
