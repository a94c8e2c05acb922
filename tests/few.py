"""The short form of tests that train: fewer and smaller digits, fewer figures, and processes that are forked, not new.

`pytest --whole` takes these shortcuts back; `make test-slow` runs the tests so.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import pytest

if TYPE_CHECKING:
    from bench.data.arrays import Arrays
    from bench.spec import DataSpec

T = TypeVar("T")
WHOLE = "TESTS_WHOLE"  # in the environment, so that a test's own processes see it


def short_or_whole(short: T, whole: T) -> T:
    """Return what the form of tests that was asked for uses."""
    return whole if os.environ.get(WHOLE) else short


def use_few(patch: pytest.MonkeyPatch) -> None:
    """Let this process evaluate on few digits, and draw one figure, in one format."""
    from bench.figures import gain, write

    use_few_digits(patch)
    if short_or_whole(True, False):
        patch.setattr(write, "METADATA", {"svg": {"Date": None}})
        patch.setattr(write, "FIGURES", (gain,))


def use_few_digits(patch: pytest.MonkeyPatch) -> None:
    """Let this process read 17 of the 897 test digits: as with all of them, the last batch of 16 has one image.

    Of these few, the outputs of a run hold products of 16.
    """
    from bench.data import packaged

    if not short_or_whole(True, False):
        return
    read_all = packaged.digits

    def few_digits(spec: "DataSpec", root: Path) -> "Arrays":
        train, test = read_all(spec, root)
        return train, test and (test[0][:17], test[1][:17])

    patch.setattr(packaged, "digits", few_digits)
    patch.setattr("bench.train.outputs.MAX_COMPARED", 16)
