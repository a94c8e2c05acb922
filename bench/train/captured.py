"""Training on a GPU: each lane's step is captured once as a CUDA graph and replayed, all lanes at the same time.

The step of a small network launches hundreds of kernels, and the GPU computes each in less time than Python needs to
launch it. A graph launches all of them at once, on a stream of the lane's own.
"""

import gc
import logging
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.models.heads import Probe
from bench.text import printable
from bench.train.epoch import seed_teachers, teacher_features, train_epoch
from bench.train.features import mapped
from bench.train.isolation import lent, tensors_of
from bench.train.lane import Lane
from bench.train.learner import Teacher
from bench.types import Batch, Features
from methods._draws import draw_again, keep_seeds

logger = logging.getLogger(__name__)

WARM_UP = 2  # steps of a stage before its first capture: libraries load, and what only a first step does is done
OPTIMIZERS = (torch.optim.SGD, torch.optim.AdamW)  # keep on the GPU what changes from step to step


@dataclass(frozen=True, eq=False)
class Taught:
    """The teachers' features of the batch, in memory that all graphs read.

    A graph computes them; there is none if no lane reads any, or if a teacher cannot be captured.

    `reads` is what the lanes read; when it changes, the features are captured again.
    """

    reads: tuple[object, ...]
    features: Mapping[str, Features]
    graph: torch.cuda.CUDAGraph | None


@dataclass(eq=False)
class Captured:
    """A lane's step.

    Attributes:
        constants: what the capture has made constant; when one changes, the step is captured again.
        graph: the step, without the seeding of its draws.
        stream: on which the graph runs.
        seeds: those of the methods' draws.
        draws: whether the step draws from the GPU's own generator, whose state one graph at a time can read. None
            until the first replay.
    """

    constants: tuple[object, ...]
    graph: torch.cuda.CUDAGraph
    stream: torch.cuda.Stream
    seeds: list[Tensor]
    draws: bool | None = None


class CapturedSteps:
    """Trains the lanes of a cohort on one GPU, with the numbers of `train_epoch` up to rounding.

    It puts networks and images into the layout whose kernels are the fastest: channels last in bf16, else contiguous.

    Args:
        teachers: by run id, in eval mode, on the GPU.
        lanes: those of the cohort, which share precision and device.
    """

    def __init__(self, teachers: Mapping[str, Teacher], lanes: Sequence[Lane]) -> None:
        self.teachers, self.device = teachers, lanes[0].device
        is_bf16 = lanes[0].schedule.precision == "bf16"
        self.layout = torch.channels_last if is_bf16 else torch.contiguous_format
        for network in (teacher.network for teacher in teachers.values()):
            network.to(memory_format=self.layout)
        for module in (module for lane in lanes for module in lane.modules):
            module.to(memory_format=self.layout)
        self.batch: Batch | None = None  # its tensors have the addresses that all graphs read
        self.taught = Taught((), {}, None)
        self.steps: dict[str, Captured] = {}  # by run id
        self.refused: dict[str, str] = {}  # why lanes train launch by launch, by run id
        # By run id, and one for the teachers: cuBLAS keeps memory for each stream that it has been called on.
        self.streams: defaultdict[str, torch.cuda.Stream] = defaultdict(partial(torch.cuda.Stream, self.device))
        self.warm: Counter[tuple[str, int]] = Counter()  # whole batches launch by launch, by run id and stage

    def train_epoch(self, lanes: Sequence[Lane], batches: Iterable[Batch]) -> Iterator[int]:
        """Train every lane on an epoch's batches and yield each step's number, as `bench.train.epoch.train_epoch`.

        The first steps of a stage and batches of another size than most run launch by launch.
        """
        for lane in lanes:
            with lane.isolated():
                lane.begin_epoch()
        self._drop_stale(lanes)
        for given in batches:
            batch = with_layout(given, self.layout)
            for lane in lanes:
                if lane.failure is not None:
                    self.steps.pop(lane.spec.id, None)
            lanes = [lane for lane in lanes if lane.failure is None]
            if not lanes:
                return
            is_whole = len(batch.images) == lanes[0].schedule.batch_size
            if not is_whole or any(self.warm[_of_stage(lane)] < WARM_UP for lane in lanes):
                if is_whole:
                    self.warm.update(map(_of_stage, lanes))
                yield from train_epoch(self.teachers, lanes, [batch])
                continue
            number = lanes[0].trained
            self._take(batch)
            self._capture(lanes, number)
            self._replay(lanes, number)
            yield number

    def _drop_stale(self, lanes: Sequence[Lane]) -> None:
        """Drop the captures that a new epoch does not use, and free their memory, which a capture cannot do."""
        stale = self.steps.keys() - {lane.spec.id for lane in lanes if self._is_captured(lane)}
        for name in stale:
            del self.steps[name]
        for module in (module for lane in lanes if lane.spec.id in stale for module in lane.modules):
            module.zero_grad()  # gradients are in the memory of the graph
        if stale:
            torch.cuda.empty_cache()

    def _is_captured(self, lane: Lane) -> bool:
        step = self.steps.get(lane.spec.id)
        return step is not None and step.constants == (self.taught, *_constants(lane))

    def _is_capturable(self, lane: Lane) -> bool:
        """Return whether a lane's step may be captured; log once per lane that it is not."""
        if lane.spec.id in self.refused:
            return False
        reason = ""
        if lane.has_plugin:
            reason = "each step of a plug-in is checked"
        elif any(not isinstance(learner.optimizer, OPTIMIZERS) for learner in lane.learners.values()):
            reason = "its optimizer counts its steps in Python"
        elif isinstance(lane.student, Probe):
            reason = "it shares a frozen network with other probes"
        if reason:
            self._refuse(lane, reason)
        return not reason

    def _refuse(self, lane: Lane, reason: str) -> None:
        self.refused[lane.spec.id] = reason
        self.steps.pop(lane.spec.id, None)
        logger.info("run %s is trained launch by launch, not as a CUDA graph: %s", lane.spec.id, reason)

    def _take(self, batch: Batch) -> None:
        """Copy a batch to the addresses that the graphs read; forget the graphs if its layout is another."""
        if self.batch is None or _layout(batch) != _layout(self.batch):
            self.batch, self.taught = _alike(batch), Taught((), {}, None)
            self.steps.clear()
        for own, given in zip(_distinct(self.batch), _distinct(batch), strict=True):
            own.copy_(given)

    def _capture(self, lanes: Sequence[Lane], number: int) -> None:
        """Capture the teachers' pass and the lanes' steps that are not captured yet; nothing is computed."""
        assert self.batch is not None  # the caller has set it
        missing = [lane for lane in lanes if not self._is_captured(lane) and self._is_capturable(lane)]
        if self.taught.reads != _reads(lanes):
            missing = [lane for lane in lanes if self._is_capturable(lane)]
        elif not missing:
            return
        torch.cuda.synchronize(self.device)
        gc.collect()  # not during a capture, where it may free what belongs to other graphs
        if self.taught.reads != _reads(lanes):
            self._capture_teachers(lanes, self.batch)
        for lane in missing:
            self.steps.pop(lane.spec.id, None)  # frees its memory first
            counted = [learner.meter.samples for learner in lane.learners.values()]
            graph, stream = torch.cuda.CUDAGraph(), self.streams[lane.spec.id]
            lane.seed_draws(number)  # not possible within a capture
            before = host_generators()
            try:
                with keep_seeds(self.device) as seeds, torch.cuda.stream(stream), _captured_by(graph):
                    lane.train_on(self.batch, self.taught.features)
                if host_generators() != before:
                    raise ValueError("it draws random numbers on the host, which a graph would not draw again")
            except Exception as error:  # if a normal step raises it too, that is the lane's failure
                self._refuse(lane, printable(str(error).partition("\n")[0], one_line=True))
            else:
                self.steps[lane.spec.id] = Captured((self.taught, *_constants(lane)), graph, stream, seeds)
            for learner, samples in zip(lane.learners.values(), counted, strict=True):
                learner.meter.samples = samples

    def _capture_teachers(self, lanes: Sequence[Lane], batch: Batch) -> None:
        """Capture the teachers' pass; log if that is not possible."""
        reads = _reads(lanes)
        if not any(lane.teachers for lane in lanes):
            self.taught = Taught(reads, {}, None)
            return
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.stream(self.streams["teachers"]), _captured_by(graph):
                features = teacher_features(self.teachers, lanes, batch)
        except Exception as error:  # if a normal pass raises it too, that one does so now
            features = teacher_features(self.teachers, lanes, batch)
            self.taught = Taught(reads, {name: mapped(one, Tensor.clone) for name, one in features.items()}, None)
            reason = printable(str(error).partition("\n")[0], one_line=True)
            logger.info("teachers are run launch by launch, not as a CUDA graph: %s", reason)
        else:
            self.taught = Taught(reads, features, graph)

    def _replay(self, lanes: Sequence[Lane], number: int) -> None:
        """Train every lane on the batch that was taken."""
        assert self.batch is not None  # the caller has set it
        seed_teachers(self.teachers, lanes, number)
        if self.taught.graph is not None:
            self.taught.graph.replay()
        else:
            overwrite(self.taught.features, teacher_features(self.teachers, lanes, self.batch))
        for lane in lanes:  # before the graphs start: a plug-in's step is compared with what they change
            if lane.spec.id not in self.steps:
                with (
                    lane.isolated(),
                    lent(lane, lanes, self.teachers, self.batch, self.taught.features) as (own_batch, own_features),
                ):
                    lane.step(own_batch, own_features, number)
        current = torch.cuda.current_stream(self.device)
        ready = current.record_event()
        for lane in lanes:
            step = self.steps.get(lane.spec.id)
            if step is None:
                continue
            stream = current if step.draws is not False else step.stream
            stream.wait_event(ready)
            with torch.cuda.stream(stream):
                if step.seeds or step.draws is not False:
                    lane.seed_draws(number)
                draw_again(step.seeds)
                step.graph.replay()
            if step.draws is None:
                step.draws = torch.cuda.default_generators[current.device_index].get_offset() > 0
            if stream is not current:
                current.wait_stream(stream)
            lane.trained = number + 1
            for learner in lane.learners.values():
                learner.meter.samples += len(self.batch.images)


@contextmanager
def _captured_by(graph: torch.cuda.CUDAGraph) -> Iterator[None]:
    """Capture what the current stream is given, instead of computing it."""
    enabled = gc.isenabled()
    gc.disable()
    graph.capture_begin(capture_error_mode="thread_local")
    try:
        yield
    except Exception:
        with suppress(RuntimeError):  # that the capture has failed
            graph.capture_end()
        raise
    else:
        graph.capture_end()
    finally:
        if enabled:
            gc.enable()


def host_generators() -> tuple[object, ...]:
    """Return the states of the generators that draw on the host: torch's, Python's and NumPy's."""
    _, keys, place, *_ = np.random.get_state()
    return torch.get_rng_state().numpy().tobytes(), random.getstate(), np.asarray(keys).tobytes(), place


def overwrite(features: Mapping[str, Features], others: Mapping[str, Features]) -> None:
    """Write features of the same shapes into the memory of the first ones."""
    for own, given in zip(tensors_of(features), tensors_of(others), strict=True):
        own.copy_(given)


def _of_stage(lane: Lane) -> tuple[str, int]:
    return lane.spec.id, lane.clock.stage


def _reads(lanes: Sequence[Lane]) -> tuple[object, ...]:
    """Return what the lanes read of the teachers in their current stage."""
    names = frozenset(name for lane in lanes for name in lane.teachers)
    twice = frozenset(name for lane in lanes if lane.reads_second_view for name in lane.teachers)
    return "teachers", names, twice, any(lane.learner.needs_preactivations for lane in lanes)


def _constants(lane: Lane) -> tuple[object, ...]:
    """Return what a capture of a lane's step makes constant; objects whose memory it uses count by identity."""
    constants: list[object] = [lane.clock.stage]
    for learner in lane.learners.values():
        constants += [learner.optimizer, learner.meter, *learner.weights]
        constants += [group["lr"] for group in learner.optimizer.param_groups]
        constants += [term.distiller.epoch for term in learner.terms if term.distiller.needs_epoch]
    return tuple(constants)


def _layout(batch: Batch) -> list[tuple[Any, ...]]:
    named = [(one.name, getattr(batch, one.name)) for one in fields(batch)]
    return [(name, value.shape, value.stride(), value.dtype) for name, value in named if value is not None]


def _distinct(batch: Batch) -> list[Tensor]:
    """Return a batch's tensors, each once: the teacher's view may be the student's."""
    values = [getattr(batch, one.name) for one in fields(batch)]
    return list({id(value): value for value in values if value is not None}.values())


def _alike(batch: Batch) -> Batch:
    """Return a batch of the same shapes and strides with memory of its own."""
    return _replaced(batch, {id(tensor): torch.empty_like(tensor) for tensor in _distinct(batch)})


def with_layout(batch: Batch, layout: torch.memory_format) -> Batch:
    """Return a batch whose images (B, C, H, W) have a layout in memory."""
    images = [tensor for tensor in _distinct(batch) if tensor.ndim == 4]
    return _replaced(batch, {id(tensor): tensor.contiguous(memory_format=layout) for tensor in images})


def _replaced(batch: Batch, tensors: Mapping[int, Tensor]) -> Batch:
    """Return a batch with other tensors in the place of some, which are named by identity."""
    values = {one.name: getattr(batch, one.name) for one in fields(batch)}
    return replace(batch, **{name: tensors.get(id(value), value) for name, value in values.items()})
