"""One epoch of a cohort: for each batch one forward pass of the teacher, and one step of every lane."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import torch

from bench.train.isolation import lent
from bench.train.lane import Lane
from bench.train.learner import Teacher
from bench.train.precision import arithmetic
from bench.types import Batch, Features


def train_epoch(teachers: Mapping[str, Teacher], lanes: Sequence[Lane], batches: Iterable[Batch]) -> Iterable[int]:
    """Train every lane on an epoch's batches, with one forward pass of each teacher a batch; yield each step's number.

    Args:
        teachers: by run id, in eval mode.
        lanes: at equal positions; one that raises is left out from then on; the others continue unchanged.
        batches: on the lanes' device; those that follow the steps that the lanes have trained of the epoch.

    Raises:
        SharedDataError: one of the project's own methods writes into what all share.
    """
    for lane in lanes:
        with lane.isolated():
            lane.begin_epoch()
    for step, batch in enumerate(batches, start=lanes[0].trained):
        lanes = [lane for lane in lanes if lane.failure is None]
        seed_teachers(teachers, lanes, step)
        features = teacher_features(teachers, lanes, batch)
        for lane in lanes:
            with lane.isolated(), lent(lane, lanes, teachers, batch, features) as (own_batch, own_features):
                lane.step(own_batch, own_features, step)
        yield step


def seed_teachers(teachers: Mapping[str, Teacher], lanes: Sequence[Lane], step: int) -> None:
    """Seed the generators for the teachers' pass of a step: a user's network may draw in eval mode too."""
    if lanes and any(teacher.is_users for teacher in teachers.values()):
        lanes[0].seed_draws(step)


def teacher_features(teachers: Mapping[str, Teacher], lanes: Sequence[Lane], batch: Batch) -> dict[str, Features]:
    """Return the features of the teachers that some lane reads in its current stage, by run id.

    A teacher sees the second view of the batch only if a lane reads it.
    """
    preactivations = any(lane.learner.needs_preactivations for lane in lanes)
    needed = sorted({name for lane in lanes for name in lane.teachers})
    if not needed:
        return {}
    # no_grad, not inference_mode: a distiller may save these tensors for its backward
    twice = {name for lane in lanes if lane.reads_second_view for name in lane.teachers}
    with torch.no_grad(), arithmetic(lanes[0].schedule.precision, batch.images.device):
        by_name = {name: teachers[name].features(batch.teacher_images, preactivations) for name in needed}
        for name in sorted(twice):
            assert batch.teacher_second is not None  # the caller has asked for it
            second = teachers[name].features(batch.teacher_second, preactivations)
            by_name[name] = replace(by_name[name], second=second)
    return by_name
