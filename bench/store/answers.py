"""The answers of a run's classifiers to the test images, as its folder has them. Imports no torch."""

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
        logits = {
            name: tensors[column(name, LOGITS)].astype("float32") * tensors[column(name, SCALE)] for name in networks
        }
        return Answers(logits, tensors[LABELS], tensors[INDICES])
    except (SafetensorError, KeyError) as error:
        path = store.folder(run_id) / ANSWERS
        raise RequestError(f"{path}: cannot be read ({error}). {AGAIN}") from error
