"""Measures the costs of a training step: time by phase, memory, parameters and FLOPs."""

import logging
import os
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import chain, count, islice
from statistics import median
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from bench.data.batches import TrainingData
from bench.models.reusing import Reusing
from bench.train.epoch import teacher_features
from bench.train.lane import Lane
from bench.train.learner import INITIAL, Teacher
from bench.train.precision import set_products

logger = logging.getLogger(__name__)

WARM_UP = 2  # steps before the first measured one


class Stopwatch:
    """Measures phases in milliseconds; a GPU is synchronised at the end of each phase."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.times: dict[str, list[float]] = defaultdict(list)
        self.start()

    def start(self) -> None:
        """Start the next phase now."""
        self.last = self._now()

    def mark(self, phase: str) -> None:
        """End a phase, and start the next."""
        now = self._now()
        self.times[phase].append((now - self.last) * 1e3)
        self.last = now

    def read(self) -> dict[str, float]:
        """Return the median of each phase after the warm-up, as `<phase>_ms`."""
        return {f"{phase}_ms": median(times[WARM_UP:]) for phase, times in self.times.items()}

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def measure(
    lanes: Sequence[Lane], teachers: Mapping[str, Teacher], training: TrainingData, steps: int
) -> list[dict[str, Any] | None]:
    """Return the fields of `Cost` for each lane, from steps that the lanes take in turn; None for a lane that fails.

    The lanes have not started, and have the same seed and schedule. `steps` does not include the warm-up.
    """
    if not lanes:
        return []
    schedule, seed = lanes[0].schedule, lanes[0].spec.ordered_by
    set_products(schedule.precision)
    for lane in lanes:
        with lane.isolated():
            lane.begin_epoch()
    shared = Stopwatch(training.device)
    timed = [(lane, Stopwatch(training.device)) for lane in lanes]
    second = any(lane.reads_second_view for lane in lanes)
    epochs = (training.epoch(seed, INITIAL, epoch, schedule.batch_size, second_view=second) for epoch in count(1))
    endless = chain.from_iterable(epochs)
    for number, batch in enumerate(islice(endless, WARM_UP + steps)):
        shared.mark("data")
        features = teacher_features(teachers, lanes, batch)
        if features:
            shared.mark("teacher")
        first = number % len(lanes)  # each lane in turn is the first after the teacher, which leaves cold caches
        for lane, watch in timed[first:] + timed[:first]:
            if lane.failure is None:
                watch.start()
                with lane.isolated():
                    lane.step(batch, features, number, watch.mark)
        shared.start()
    once = {"teacher_ms": None, **shared.read()}
    costs: list[dict[str, Any] | None] = []
    for lane, watch in timed:
        if lane.failure is None:
            with lane.isolated():
                costs.append(once | _lane_costs(lane, watch, partial(lane.step, batch, features, number)))
        if lane.failure is not None:
            logger.debug("%s", lane.failure.details)
            costs.append(None)
    return costs


def _lane_costs(lane: Lane, watch: Stopwatch, step: Callable[[], object]) -> dict[str, Any]:
    """Return the fields of `Cost` that differ between lanes."""
    phases = watch.read()
    return {
        **phases,
        **counted(lane, step),
        "step_ms": sum(phases.values()),
        "peak_mb": peak_bytes(step, lane.device) / 1e6,
    }


def counted(lane: Lane, step: Callable[[], object]) -> dict[str, Any]:
    """Return the fields of `Cost` that are the same on every machine: `extra_parameters` and `step_gflop`."""
    with FlopCounterMode(display=False) as counter:
        step()
    trained = [one for term in lane.terms for one in term.distiller.parameters() if one.requires_grad]
    added = [lane.student.projector, lane.student.classifier] if isinstance(lane.student, Reusing) else []
    extra = [*trained, *(parameter for module in added for parameter in module.parameters())]
    return {
        "extra_parameters": sum(parameter.numel() for parameter in extra),
        "step_gflop": counter.get_total_flops() / 1e9,
    }


def peak_bytes(step: Callable[[], object], device: torch.device) -> int:
    """Return the peak memory of a step in bytes, without what was allocated before it."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        step()
        return torch.cuda.max_memory_allocated(device) - before
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # read when the profiler is first used
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    held = peak = 0
    assert profiler.profiler is not None  # set once the profiler has run
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak
