"""Corrects p-values for their number."""

from collections.abc import Sequence

from statsmodels.stats.multitest import multipletests


def holm(values: Sequence[float | None]) -> list[float | None]:
    """Return p-values after Holm's correction for all known ones."""
    known = [p for p in values if p is not None]
    corrected = iter(multipletests(known, method="holm")[1] if known else [])
    return [None if p is None else float(next(corrected)) for p in values]
