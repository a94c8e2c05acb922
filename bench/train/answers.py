"""Computes a classifier's logits on the test images, and keeps them with its run in half precision."""

import logging
import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from bench.data.images import Split
from bench.models.base import Network
from bench.models.own import users_network
from bench.spec import STUDENT, DataSpec, RunSpec, column
from bench.store import ANSWERS, ClaimLostError, Store
from bench.store.answers import INDICES, LABELS, LOGITS, SCALE, alike, compared, stored_answers
from bench.tasks.objectives import class_accuracies, scores
from bench.train.evaluation import left_out, sound
from bench.train.precision import Precision
from methods._settings import kept_settings

LARGEST = torch.finfo(torch.float16).max  # 65504
WHOLE = (torch.uint8, torch.int16, torch.int32)  # types of whole numbers, the smallest first
NEVER = -1e4  # in place of minus infinity, the logarithm of a probability of 0

logger = logging.getLogger(__name__)


def answers(
    networks: Mapping[str, Network],
    split: Split,
    data: DataSpec,
    device: torch.device,
    precision: Precision,
    batch_size: int,
) -> dict[str, Tensor]:
    """Return what `packed` does of the logits of a run's classifiers, by their name in the run, on n test images.

    The other arguments are those of `sound`.

    Raises:
        NotFiniteError: logits are not finite.
    """
    found = sound(networks, split, data, device, precision, batch_size, data.images(), keeps_logits=True)
    logits = {}
    for name, one in found.items():
        assert one.logits is not None  # they were asked for
        logits[name] = one.logits
    return packed(logits, split)


def packed(logits: Mapping[str, Tensor], split: Split) -> dict[str, Tensor]:
    """Return the logits (n, K) of a run's classifiers, by their name, as they are stored, on the CPU.

    Returns:
        `logits`: (n, K) float16, those of the student; `scale`: (1,) float32, by which they are multiplied.
        `peer_logits`, `peer_scale`: those of the other network in mutual learning.
        `labels`: (n,); `indices`: (n,), of the images in the split; both in the smallest type that holds them.

    Raises:
        ValueError: a logit is not finite.
    """
    assert split.targets is not None  # classifiers are evaluated on labels
    tensors = {LABELS: smallest(split.targets), INDICES: smallest(torch.arange(len(split)))}
    for name, own in logits.items():
        tensors[column(name, LOGITS)], tensors[column(name, SCALE)] = halved(own)
    return {name: value.contiguous().cpu() for name, value in tensors.items()}


def smallest(numbers: Tensor) -> Tensor:
    """Return whole numbers from 0 in the smallest type that holds them."""
    largest = int(numbers.max()) if len(numbers) else 0
    return numbers.to(next(one for one in WHOLE if largest <= torch.iinfo(one).max))


def halved(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return logits in half precision, and the scale (1,) by which they are multiplied.

    The scale is 1 unless a logit exceeds 65504, the largest number in half precision; then it is the smallest power of
    two that makes all fit. Minus infinity, with which an ensemble says that a class has a probability of 0, is -10000.

    Raises:
        ValueError: another logit is not finite.
    """
    logits = logits.float()
    logits = torch.where(logits == -math.inf, NEVER, logits)
    if not logits.isfinite().all():
        raise ValueError("logits that are not finite")
    too_large = logits.abs().max().item() / LARGEST
    scale = 2.0 ** max(0, math.ceil(math.log2(too_large))) if too_large > 0 else 1.0
    return (logits / scale).half(), torch.tensor([scale])


def keep_answers(
    store: Store,
    run: RunSpec,
    networks: Mapping[str, Network],
    split: Split,
    device: torch.device,
    batch_size: int,
    precision: Precision = "fp32",
    logits: Mapping[str, Tensor] | None = None,
) -> dict[str, Any]:
    """Write the answers of a run's classifiers; return what its record says about them.

    `logits` are those of the last evaluation, by network; without them, the networks answer once more.

    If this fails, the run still has its result, and the record has the reason under `answers`.
    """
    try:
        with kept_settings(users_network(run.network_names) is not None):
            own = packed(logits, split) if logits else answers(networks, split, run.data, device, precision, batch_size)
        store.write(run.id, ANSWERS, save(own))
        # several teachers answer together, in a run of their own that may not be done yet: reports compare with it
        return scored(store, run.id, run.teachers if len(run.teachers) == 1 else ())
    except ClaimLostError:
        raise  # the run is another process's
    except BaseException as error:  # a user's network may exit
        reason = left_out(error)
    logger.warning("run %s: its answers to the test images are %s", run.id, reason)
    return {"answers": reason}


def scored(store: Store, run_id: str, teachers: Iterable[str]) -> dict[str, Any]:
    """Return what a run's record says about its stored answers; nothing if it has none.

    Args:
        store: has the run's answers.
        run_id: the run.
        teachers: ids of the runs with whose answers those of the student are compared, where they have some.

    Returns:
        `scores`: metrics by column; `class_accuracy`: in percent, by network, one number per class;
        `to_teacher`: by the id of the teacher's run, the metrics of the comparison with it.
    """
    own = stored_answers(store, run_id)
    if own is None:
        return {}
    labels = torch.from_numpy(own.labels).long()
    logits = {name: torch.from_numpy(values) for name, values in own.logits.items()}
    numbers: dict[str, float] = {}
    for name, of_network in logits.items():
        metrics = scores(of_network, labels)
        for peer, of_peer in own.logits.items():
            if peer != name:  # they teach each other
                metrics |= compared(own.logits[name], of_peer)
        numbers |= {column(name, metric): value for metric, value in metrics.items()}
    to_teacher = {}
    for teacher in teachers:
        taught = stored_answers(store, teacher)
        if taught is not None and alike(own, taught):
            to_teacher[teacher] = compared(own.logits[STUDENT], taught.logits[STUDENT])
    return {
        "scores": numbers,
        "class_accuracy": {name: class_accuracies(values, labels) for name, values in logits.items()},
        "to_teacher": to_teacher,
    }
