"""Shorter evaluations and figures for tests that train: both take longer than the training of a tiny suite."""

from functools import cache
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from bench.data.arrays import Arrays

# what a process of its own runs first, to do what the fixture `few` does in this one
FEW = "import pytest; from tests.few import use_few; use_few(pytest.MonkeyPatch()); "


@cache
def few_digits() -> "Arrays":
    """Return the digits with 100 of their 897 test images."""
    from bench.data.packaged import digits

    train, (images, targets) = digits()
    return train, (images[:100], targets[:100])


def use_few(patch: pytest.MonkeyPatch) -> None:
    """Let this process evaluate on few digits and draw t-SNE of few points; only accuracies change by it."""
    from bench.data.packaged import PACKAGED

    patch.setitem(PACKAGED, "digits", few_digits)
    patch.setattr("bench.figures.networks.MOST_POINTS", 20)
