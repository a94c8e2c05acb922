"""Reads the answers that a run has kept: its classifiers' logits on the test images. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.spec import STUDENT, column
from bench.store.files import AGAIN
from bench.store.store import ANSWERS, Store
from bench.types import RequestError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

LOGITS, SCALE, LABELS, INDICES = "logits", "scale", "labels", "indices"  # tensors of the file


@dataclass(frozen=True)
class Answers:
    """The answers to n test images."""

    logits: Mapping[str, np.ndarray]  # (n, K) float32 of each of the run's networks, the student first
    labels: np.ndarray  # (n,) int32
    indices: np.ndarray  # (n,) int32, of the images in the test split


def stored_answers(store: Store, run_id: str) -> Answers | None:
    """Return the answers that a run has left; None if it has none.

    Raises:
        RequestError: the file cannot be read, or has changed since.
    """
    content = store.content(run_id, ANSWERS)
    if content is None:
        return None
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        tensors = load(content)
        networks = [STUDENT] + [name.removesuffix(f"_{LOGITS}") for name in tensors if name.endswith(f"_{LOGITS}")]
        logits = {name: tensors[column(name, LOGITS)].astype("float32") for name in networks}
        for name, values in logits.items():
            values *= tensors[column(name, SCALE)]
        answers = Answers(logits, tensors[LABELS].astype("int32"), tensors[INDICES].astype("int32"))
        _check_shapes(answers)
        return answers
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        path = store.folder(run_id) / ANSWERS
        raise RequestError(f"{path}: cannot be read ({error}). {AGAIN}") from error


def _check_shapes(answers: Answers) -> None:
    """Raise a `ValueError` unless there are a label, an index and logits of equally many classes for each image."""
    n, of_student = answers.labels.size, answers.logits[STUDENT].shape
    for own in answers.logits.values():
        if own.ndim != 2 or own.shape != of_student or len(own) != n:
            raise ValueError(f"logits of the shape {own.shape} for {n} labels")
    if answers.labels.shape != (n,) or answers.indices.shape != (n,):
        raise ValueError(f"{answers.indices.size} indices for {n} labels")


def alike(one: Answers, other: Answers) -> bool:
    """Return whether two runs have answered to images with the same labels, with the same classes."""
    same_shape = one.logits[STUDENT].shape == other.logits[STUDENT].shape
    return same_shape and bool((one.labels == other.labels).all() and (one.indices == other.indices).all())


def compared(logits: np.ndarray, teacher: np.ndarray) -> dict[str, float]:
    """Return how near a classifier's answers are to its teacher's, both logits (n, K).

    Returns:
        `agreement`: percentage of images for which both predict the same class (Stanton et al., NeurIPS 2021).
        `teacher_kl`: KL(teacher || student) in nats at temperature 1, a mean over images.
    """
    import numpy as np

    agree = float((logits.argmax(axis=1) == teacher.argmax(axis=1)).mean())
    shifted = (one.astype(np.float64) - one.max(axis=1, keepdims=True) for one in (logits, teacher))
    own, taught = (one - np.log(np.exp(one).sum(axis=1, keepdims=True)) for one in shifted)
    divergence = float((np.exp(taught) * (taught - own)).sum(axis=1).mean())
    return {"agreement": 100 * agree, "teacher_kl": max(0.0, divergence)}
