"""The training loop: one teacher forward pass per batch serves all lanes of a cohort; checkpoints and records."""

import itertools
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bench.data.batches import TrainingData, batch_sizes
from bench.data.images import Split
from bench.data.views import ViewTransform
from bench.models.base import Network
from bench.spec import DEV, NETWORK, STUDENT, DataSpec, RunSpec, column
from bench.store import CHECKPOINT, OUTPUTS, Store, weights_file
from bench.tasks import Task, task_of
from bench.tasks.objectives import CLASSIFICATION, Objective
from bench.train.answers import keep_answers, predictions
from bench.train.captured import CapturedSteps
from bench.train.epoch import train_epoch
from bench.train.lane import Clock, Lane
from bench.train.learner import MAIN, Teacher
from bench.train.memory import in_batches_that_fit, is_out_of_memory
from bench.train.outputs import kept_outputs
from bench.train.precision import Precision, set_products
from bench.train.process_group import Group
from bench.types import Batch, RequestError

logger = logging.getLogger(__name__)

CHECKPOINT_S = 30.0  # seconds of work at risk at most, unless one epoch takes longer
EVALUATION_BATCH = {"cpu": 64, "cuda": 512}  # images; the fastest on each; a CPU takes no more than a training step

LOGIT_BYTES = 4  # of a float32
MOST_KEPT = 2**30  # bytes of logits that are kept from the last evaluation; where there are more, it is repeated


class Observer:
    """Receives the progress of a cohort; this base class ignores it."""

    def pending(self, runs: Sequence[RunSpec], cohorts: int) -> None:
        """These runs are open, in so many cohorts, before the next cohort starts."""

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
            _resume(lane, store, cohort.accept_changed)
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


def evaluate(
    networks: Sequence[Network],
    split: Split,
    data: DataSpec,
    device: torch.device,
    precision: Precision = "fp32",
    objective: Objective = CLASSIFICATION,
    batch_size: int = EVALUATION_BATCH["cpu"],
) -> list[dict[str, float]]:
    """Return each network's metrics in percent; the arguments are those of `evaluated`."""
    return [one.metrics for one in evaluated(networks, split, data, device, precision, objective, batch_size)]


class Evaluated(NamedTuple):
    """A network's metrics in percent, and its logits (n, K) float32 on the CPU, if they are kept."""

    metrics: dict[str, float]
    logits: Tensor | None


@torch.no_grad()
def evaluated(
    networks: Sequence[Network],
    split: Split,
    data: DataSpec,
    device: torch.device,
    precision: Precision = "fp32",
    objective: Objective = CLASSIFICATION,
    batch_size: int = EVALUATION_BATCH["cpu"],
    keeps_logits: bool = False,
) -> list[Evaluated]:
    """Evaluate networks, which are put into eval mode; each batch is loaded once for all.

    Args:
        networks: on `device`.
        split: the test images.
        data: what the networks were trained on; its normalisation is applied.
        device: of networks and batches.
        precision: of the forward passes; a run is evaluated as it was trained.
        objective: computes the metrics.
        batch_size: of training: without gradients, so many images take less memory. A GPU, which says when its memory
            is full, begins with more. Where memory does not suffice, the batches get smaller.
        keeps_logits: whether the logits are returned, too.
    """
    for network in networks:
        network.eval()
    assert split.targets is not None  # what is evaluated has labels
    all_targets = split.targets.to(device)
    viewer = ViewTransform(data, device)

    def attempt(batch_size: int) -> list[Evaluated]:
        scores = [objective.score(data.classes, device) for _ in networks]
        kept: list[list[Tensor]] = [[] for _ in networks]
        targets = all_targets.split(batch_sizes(len(split), batch_size))
        answered = predictions(networks, split, viewer, device, precision, batch_size)
        for logits, labels in zip(answered, targets, strict=True):
            for score, own, parts in zip(scores, logits, kept, strict=True):
                score.update(own, labels)
                if keeps_logits:
                    parts.append(own.float().cpu())
        metrics = [{name: value.item() for name, value in score.compute().items()} for score in scores]
        return [
            Evaluated(numbers, torch.cat(parts) if parts else None)
            for numbers, parts in zip(metrics, kept, strict=True)
        ]

    return in_batches_that_fit(attempt, evaluation_batch(device, batch_size))


def evaluation_batch(device: torch.device, batch_size: int) -> int:
    """Return how many images are evaluated at a time on a device, for that batch size of training."""
    most = EVALUATION_BATCH[device.type]
    return min(most, batch_size) if device.type == "cpu" else most


def _train(cohort: Cohort, lanes: Sequence[Lane], stop: int, steps: int, store: Store, observer: Observer) -> None:
    """Train lanes from their current step to `stop` in the same epoch, and save them at intervals."""
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
    places = [(lane, name) for lane in sound for name in lane.networks]
    networks = [lane.networks[name] for lane, name in places]
    data = cohort.train
    is_last = clock.epoch == schedule.epochs and bool(task_of(lanes[0].spec).answered)
    size = LOGIT_BYTES * len(cohort.test) * data.spec.classes * len(networks)

    def measured(split: Split, keeps_logits: bool) -> list[dict[str, float]]:
        found = evaluated(
            networks,
            split,
            data.spec,
            data.device,
            schedule.precision,
            objective,
            schedule.batch_size,
            keeps_logits,
        )
        for (lane, name), one in zip(places, found, strict=True):
            if one.logits is not None:
                lane.logits[name] = one.logits
        return [one.metrics for one in found]

    for split, prefix in ((cohort.test, ""), (cohort.dev, DEV)):
        if split is None:
            continue
        keeps_logits = split is cohort.test and is_last and size <= MOST_KEPT
        metrics = cohort.group.run_on_rank0(partial(measured, split, keeps_logits))
        for (lane, name), values in zip(places, metrics, strict=True):
            lane.rows[-1] |= {column(name, f"{prefix}{metric}"): value for metric, value in values.items()}


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
    from safetensors.torch import save

    run_id = lane.spec.id
    checkpoint = b""
    if lane.failure is None and lane.done and cohort.keep_checkpoints:
        with lane.isolated():
            checkpoint = lane.checkpoint()  # the last one may be epochs old
    if lane.failure is not None:
        store.fail(run_id, lane.failure)
        return
    if not lane.done:
        return
    if checkpoint:
        store.write_checkpoint(run_id, checkpoint)
    for network, trained in lane.networks.items():
        state = trained.state_dict()
        weights = {name: value.contiguous().clone() for name, value in state.items()}  # safetensors: none is tied
        store.write(run_id, weights_file(network), save(weights))
    task = task_of(lane.spec)
    numbers = summary(lane.rows, task, lane.spec.data.has_dev) | {"lanes": len(cohort.lanes)}
    data, schedule = cohort.train, lane.schedule
    if task.keeps_outputs and cohort.group.rank == 0:
        outputs, left_out = kept_outputs(
            lane.networks[STUDENT],
            cohort.test,
            data.spec,
            data.device,
            schedule.batch_size,
            schedule.precision,
            lane.logits.get(STUDENT),
        )
        numbers |= left_out
        if outputs is not None:
            store.write(run_id, OUTPUTS, outputs)
    if task.answered and cohort.group.rank == 0:
        size = evaluation_batch(data.device, schedule.batch_size)
        numbers |= keep_answers(
            store, lane.spec, lane.networks, cohort.test, data.device, size, schedule.precision, lane.logits
        )
        lane.logits = {}
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


def _resume(lane: Lane, store: Store, accept_changed: bool) -> None:
    """Continue from the run's checkpoint, if it has one, and make its epochs file agree with it.

    A checkpoint that is damaged, or was trained from other weights or code, is set aside: the run starts anew.

    Raises:
        Exception: it cannot be read, or not with this memory, and stays where it is; or its state does not fit.
    """
    run_id = lane.spec.id
    try:
        content = store.checkpoint(run_id)
        state = None if content is None else lane.opened(content)
    except Exception as error:  # torch raises many kinds for a damaged file
        if _says_nothing_of_the_file(error):
            raise
        reason = " ".join(str(error).split())[:200]
        _start_anew(lane, store, f"{CHECKPOINT} is damaged ({reason})", ".broken")
        state = None
    if state is not None and (change := _changed(lane, state.get("made_from") or {}, accept_changed)):
        _start_anew(lane, store, change, ".stale")
        state = None
    if state is not None:
        try:
            lane.restore(state)
        except Exception as error:  # it is from other code
            if _says_nothing_of_the_file(error):
                raise
            aside = store.set_aside(run_id, CHECKPOINT, ".broken")
            reason = " ".join(str(error).split())[:200]
            raise ValueError(
                f"{CHECKPOINT} cannot be restored ({reason}) and is now {aside}; "
                "--retry-failed trains the run from its start"
            ) from error
    store.write_epochs(run_id, lane.rows)


def _says_nothing_of_the_file(error: Exception) -> bool:
    """Return whether a checkpoint may be sound although an exception was raised when it was read."""
    return isinstance(error, OSError | RequestError) or is_out_of_memory(error)


def _start_anew(lane: Lane, store: Store, reason: str, suffix: str) -> None:
    aside = store.set_aside(lane.spec.id, CHECKPOINT, suffix)
    if lane.group.rank == 0:
        logger.warning("run %s: %s: its checkpoint is now %s, and it starts anew", lane.spec.id, reason, aside)


def _changed(lane: Lane, before: Mapping[str, Any], accept_changed: bool) -> str | None:
    """Return what has changed since a checkpoint was written; None if nothing has, or it is accepted and recorded."""
    for run_id, digest in before.get("teachers_sha256", {}).items():
        if lane.made_from.get("teachers_sha256", {}).get(run_id, digest) != digest:
            return f"the weights of its teacher, run {run_id}, have changed since it began"
    if before.get("source_sha256") != lane.made_from.get("source_sha256", before.get("source_sha256")):
        return f"the weights of run {lane.spec.trained_by}, which it evaluates, have changed since it began"
    code = before.get("methods_sha256", {})
    changed = [name for name, digest in lane.made_from.get("methods_sha256", {}).items() if code.get(name) != digest]
    accepted = list(before.get("accepted", ()))
    if changed and code:
        if not accept_changed:
            what = changed[0] if changed[0].startswith(NETWORK) else f"{changed[0]}.py"
            return f"{what} has changed since it began (--accept-changed: no number moved)"
        accepted.append({"date": datetime.now(UTC).date().isoformat(), "methods_sha256": code})
    if accepted:
        lane.made_from["accepted"] = accepted
    return None
