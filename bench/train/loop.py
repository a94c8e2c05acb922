"""The training loop: one teacher forward pass per batch serves all lanes of a cohort; checkpoints and records."""

import itertools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from bench.data.batches import TrainingData, batch_sizes
from bench.data.images import Split
from bench.data.views import ViewTransform
from bench.models.base import Network
from bench.spec import DataSpec, column
from bench.store import CHECKPOINT, OUTPUTS, Store, weights_file
from bench.tasks import Task, task_of
from bench.tasks.objectives import CLASSIFICATION, Objective
from bench.train.isolation import lent
from bench.train.lane import Clock, Lane
from bench.train.learner import MAIN, Teacher
from bench.train.outputs import outputs
from bench.train.precision import Precision, arithmetic, set_products
from bench.train.process_group import Group
from bench.types import Batch, Features

CHECKPOINT_S = 30.0  # seconds of work at risk, unless one epoch takes longer
EVALUATION_BATCH = {"cpu": 64, "cuda": 512}  # images; the fastest on each


class Observer:
    """Receives the progress of a cohort; this base class ignores it."""

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
        test: the split for evaluation.
        seed: of order and augmentation.
        record: returns the content of a lane's record, without its metrics.
        keep_checkpoints: whether the checkpoints of finished runs are kept.
        within_epoch_s: maximum seconds of an epoch that are at risk.
        group: the processes that train the lanes together.
        saved: when the last checkpoint was written.
    """

    lanes: list[Lane]
    teachers: Mapping[str, Teacher]
    train: TrainingData
    test: Split
    seed: int
    record: Callable[[Lane], dict[str, Any]]
    keep_checkpoints: bool
    within_epoch_s: float
    group: Group
    saved: float = field(default_factory=time.monotonic)


def fit(cohort: Cohort, store: Store, observer: Observer) -> None:
    """Train every lane to its end; write a record or a failure of each to the store.

    An epoch runs the lanes whose clock is at it: a lane that was killed later than the others waits for them.
    """
    set_products(cohort.lanes[0].schedule.precision)
    for lane in cohort.lanes:
        with lane.isolated():
            _resume(lane, store)
        _leave(cohort, lane, store)
    observer.cohort(cohort.lanes)
    while running := [lane for lane in cohort.lanes if not lane.done and lane.failure is None]:
        clock, start = min((lane.clock, lane.trained) for lane in running)
        lanes = [lane for lane in running if (lane.clock, lane.trained) == (clock, start)]
        steps = len(batch_sizes(len(cohort.train.split), lanes[0].schedule.batch_size, cohort.group.size))
        ahead = [lane.trained for lane in running if lane.clock == clock and lane.trained > start]
        stop = min(ahead, default=steps)  # where lanes that are further in the epoch join
        _train(cohort, lanes, stop, steps, store, observer)
        if stop == steps:
            seconds = _end_epoch(cohort, lanes, clock, store)
            observer.epoch(lanes, clock, seconds, steps)
            if checkpoint_due(time.monotonic() - cohort.saved, seconds):
                _save(cohort, running, store)
        for lane in running:
            _leave(cohort, lane, store)


def checkpoint_due(unsaved_s: float, epoch_s: float) -> bool:
    """Return whether to save now, so that no more than `CHECKPOINT_S` or one epoch is ever at risk.

    There are `unsaved_s` seconds of work since the last checkpoint; the next epoch may take as long as the last one.
    """
    return unsaved_s + epoch_s > CHECKPOINT_S


def train_epoch(teachers: Mapping[str, Teacher], lanes: Sequence[Lane], batches: Iterable[Batch]) -> Iterable[int]:
    """Train every lane on an epoch's batches, with one forward pass of each teacher a batch; yield each step's number.

    Args:
        teachers: by run id, in eval mode.
        lanes: at equal positions; one that raises is left out from then on, the others go on unchanged.
        batches: on the lanes' device; those that follow the steps that the lanes have trained of the epoch.

    Raises:
        SharedDataError: one of the project's own methods writes into what all share.
    """
    for lane in lanes:
        with lane.isolated():
            lane.begin_epoch()
    for step, batch in enumerate(batches, start=lanes[0].trained):
        lanes = [lane for lane in lanes if lane.failure is None]
        features = teacher_features(teachers, lanes, batch.teacher_images)
        for lane in lanes:
            with lane.isolated(), lent(lane, lanes, teachers, batch, features) as (own_batch, own_features):
                lane.step(own_batch, own_features, step)
        yield step


def teacher_features(teachers: Mapping[str, Teacher], lanes: Sequence[Lane], images: Tensor) -> dict[str, Features]:
    """Return the features of the teachers that some lane reads in its current stage, by run id."""
    preactivations = any(lane.learner.needs_preactivations for lane in lanes)
    needed = sorted({name for lane in lanes for name in lane.teachers})
    if not needed:
        return {}
    # no_grad, not inference_mode: a distiller may save these tensors for its backward
    with torch.no_grad(), arithmetic(lanes[0].schedule.precision, images.device):
        return {name: teachers[name].network.features(images, preactivations) for name in needed}


@torch.no_grad()
def evaluate(
    networks: Sequence[Network],
    split: Split,
    data: DataSpec,
    device: torch.device,
    precision: Precision = "fp32",
    objective: Objective = CLASSIFICATION,
) -> list[dict[str, float]]:
    """Return each network's metrics in percent; each batch is loaded once for all networks, put into eval mode.

    Args:
        networks: on `device`.
        split: the test images.
        data: what the networks were trained on; its normalisation is applied.
        device: of networks and batches.
        precision: of the forward passes; a run is evaluated as it was trained.
        objective: computes the metrics.
    """
    for network in networks:
        network.eval()
    scores = [objective.score(data.classes, device) for _ in networks]
    sizes = batch_sizes(len(split), EVALUATION_BATCH[device.type])
    assert split.targets is not None  # what is evaluated has labels
    targets = split.targets.to(device).split(sizes)
    viewer = ViewTransform(data, device)
    for images, labels in zip(split.images.batches(torch.arange(len(split)).split(sizes)), targets, strict=True):
        view = viewer(images)
        for score, network in zip(scores, networks, strict=True):
            with arithmetic(precision, device):
                logits = network(view)
            score.update(logits, labels)
    return [{name: value.item() for name, value in score.compute().items()} for score in scores]


def _train(cohort: Cohort, lanes: Sequence[Lane], stop: int, steps: int, store: Store, observer: Observer) -> None:
    """Train lanes from their current step to `stop` in the same epoch, and save them at intervals."""
    start, batch_size = lanes[0].trained, lanes[0].schedule.batch_size  # equal in a cohort
    batches = itertools.islice(cohort.train.epoch(cohort.seed, *lanes[0].clock, batch_size, start), stop - start)
    began = time.monotonic()
    for step in train_epoch(cohort.teachers, lanes, batches):
        observer.step(lanes, step + 1, steps)
        now = time.monotonic()
        if step + 1 < stop and now - cohort.saved > cohort.within_epoch_s:
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
                store.write(lane.spec.id, CHECKPOINT, checkpoint)
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
    metrics = cohort.group.run_on_rank0(
        lambda: evaluate(networks, cohort.test, data.spec, data.device, schedule.precision, objective)
    )
    for (lane, name), values in zip(places, metrics, strict=True):
        lane.rows[-1] |= {column(name, metric): value for metric, value in values.items()}


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
    answers: dict[str, Tensor] = {}
    if lane.failure is None:
        if not lane.done:
            return
        if task_of(lane.spec).keeps_answers:
            with lane.isolated():  # one network's outputs may not fit into memory
                if cohort.group.rank == 0:
                    data = cohort.train
                    answers = outputs(lane.student, cohort.test, data.spec, data.device, lane.schedule.precision)
    if lane.failure is not None:
        if lane.done:
            store.write(run_id, CHECKPOINT, lane.checkpoint())  # a retry has nothing left to train
        store.fail(run_id, lane.failure)
        return
    if cohort.keep_checkpoints:
        store.write(run_id, CHECKPOINT, lane.checkpoint())  # the last one may be epochs old
    for network, trained in lane.networks.items():
        state = trained.state_dict()
        weights = {name: value.contiguous().clone() for name, value in state.items()}  # safetensors: none is tied
        store.write(run_id, weights_file(network), save(weights))
    if answers:
        store.write(run_id, OUTPUTS, save(answers))
    numbers = summary(lane.rows, task_of(lane.spec)) | {"lanes": len(cohort.lanes)}
    store.finish(run_id, cohort.record(lane) | numbers, cohort.keep_checkpoints)


def summary(rows: Sequence[Mapping[str, Any]], task: Task) -> dict[str, Any]:
    """Return a finished run's numbers: the last epoch's metrics, which are its result, and the best epoch's.

    The best epoch of each network is the one with the best primary metric of the task; `rows` has at least one epoch.
    """
    best: dict[str, Any] = {}
    for network in task.networks:
        names = task.columns(network)
        evaluated = [row for row in rows if names and names[0] in row]
        if evaluated:
            row = max(evaluated, key=lambda one: one[names[0]])
            best[column(network, "epoch")] = row["epoch"]
            best |= {name: row[name] for name in names}
    return {
        "metrics": {name: rows[-1][name] for name in task.recorded},
        "best": best or None,
        "epochs": sum(row["stage"] == "main" for row in rows),
        "wall_s": round(sum(row["wall_s"] for row in rows), 3),
    }


def _resume(lane: Lane, store: Store) -> None:
    """Continue from the run's checkpoint, if it has one, and make its epochs file agree with it."""
    path = store.folder(lane.spec.id) / CHECKPOINT
    if path.exists():
        try:
            lane.restore(path.read_bytes())
        except Exception as error:  # torch raises many kinds for a damaged file or one from other code
            aside = store.set_aside(lane.spec.id, CHECKPOINT)
            reason = " ".join(str(error).split())[:200]
            raise ValueError(
                f"{path.name} cannot be restored ({reason}) and is now {aside}; "
                "--retry-failed trains the run from its start"
            ) from error
    store.write_epochs(lane.spec.id, lane.rows)
