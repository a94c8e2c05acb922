"""Shorter evaluations and fewer figures for tests that train: both take longer than a tiny suite's training."""

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from bench.data.arrays import Arrays
    from bench.spec import DataSpec

# what a process of its own runs first, to do what the fixture `few` does in this one
FEW = "import pytest; from tests.few import use_few; use_few(pytest.MonkeyPatch()); "


def use_few(patch: pytest.MonkeyPatch) -> None:
    """Let this process evaluate on few digits, draw t-SNE of few points, and save figures in one format only."""
    use_few_digits(patch)
    patch.setattr("bench.figures.METADATA", {"svg": {"Date": None}})
    patch.setattr("bench.figures.tsne.MAX_POINTS", 20)


def use_few_digits(patch: pytest.MonkeyPatch) -> None:
    """Let this process read 129 of the 897 test digits: as with all of them, the last batch of 64 has one more."""
    from bench.data import packaged

    whole = packaged.digits

    def few_digits(spec: "DataSpec", root: Path) -> "Arrays":
        train, (images, targets) = whole(spec, root)
        return train, (images[:129], targets[:129])

    patch.setattr(packaged, "digits", few_digits)
