"""Holm's correction of p-values; statsmodels has it too, but its function is slow, since it collects garbage."""

from collections.abc import Sequence

import numpy as np


def holm(values: Sequence[float | None]) -> list[float | None]:
    """Return p-values after Holm's correction (Scandinavian Journal of Statistics 6, 1979) for all known ones.

    The i-th smallest of m values, i from 0, becomes the largest of (m - j) p_j over j <= i, and at most 1.
    """
    known = np.array([p for p in values if p is not None])
    order = known.argsort()
    stepped = np.maximum.accumulate(known[order] * np.arange(len(known), 0, -1))
    corrected = np.empty_like(known)
    corrected[order] = stepped.clip(max=1)
    remaining = iter(corrected.tolist())
    return [None if p is None else next(remaining) for p in values]
