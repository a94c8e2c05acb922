"""Shorter evaluations and figures for tests that train: both take longer than the training of a tiny suite."""

from functools import cache
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from bench.data.arrays import Arrays

# what a process of its own runs first, to do what the fixture `few` does in this one
FEW = "import pytest; from tests.few import use_few; use_few(pytest.MonkeyPatch()); "


def use_few(patch: pytest.MonkeyPatch) -> None:
    """Let this process evaluate on few digits and draw t-SNE of few points; only accuracies change by it."""
    use_few_digits(patch)
    patch.setattr("bench.figures.networks.MOST_POINTS", 20)


def use_few_digits(patch: pytest.MonkeyPatch) -> None:
    """Let this process read 100 of the 897 test images of the digits."""
    from bench.data import packaged

    whole = packaged.digits

    @cache
    def read() -> "Arrays":
        train, (images, targets) = whole(None, None)  # it reads neither
        return train, (images[:100], targets[:100])

    patch.setattr(packaged, "digits", lambda spec, root: read())
