"""Compares two results: matches their cells, and collects differences and differing settings.

Imports no torch. Only the command `compare` and the Python API import this module, since it imports scipy.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from bench.report.differences import Difference, differences
from bench.report.settings import Setting, differing_settings
from bench.report.sides import Matched, Measured, Place, Side, row_name
from bench.types import RequestError

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Comparison:
    """Two sides compared."""

    a: str  # the sides' names
    b: str
    cells: Sequence[Difference]
    only_a: Sequence[str]  # rows with metrics that have no number on the other side, and why
    only_b: Sequence[str]
    settings: Sequence[Setting]  # that differ
    without_settings: Sequence[str]  # rows whose runs differ and are not in both stores

    def frame(self) -> pd.DataFrame:
        """Return one row per cell and metric that both sides have, with the attributes of `Difference` as columns."""
        import pandas as pd

        return pd.DataFrame(map(asdict, self.cells), columns=list(Difference.__dataclass_fields__))

    def settings_frame(self) -> pd.DataFrame:
        """Return one row per setting that differs: key, a, b and rows."""
        import pandas as pd

        return pd.DataFrame(map(asdict, self.settings), columns=list(Setting.__dataclass_fields__))

    def document(self) -> dict[str, Any]:
        """Return the object that `compare --json` prints."""
        return asdict(self)


def compare(a: Side, b: Side) -> Comparison:
    """Return the comparison of two sides.

    Two single suites are compared whatever their names are; of several suites, those of the same name.

    Raises:
        RequestError: they have no suite, or no cell, in common.
    """
    matched: list[Matched] = []
    only_a, only_b = Only(), Only()
    for suite, of_a, of_b in _suites(a, b):
        for place in {**of_a, **of_b}:
            one, other = of_a.get(place), of_b.get(place)
            if one is not None and other is not None and one.n and other.n:
                matched.append(Matched(suite, place, one, other))
            elif one is not None and one.n:
                only_a.add(suite, place, other)
            elif other is not None and other.n:
                only_b.add(suite, place, one)
    if not matched:
        raise RequestError(
            f"{a.name}, {b.name}: no cell has a number on both sides. A cell is a pair, a row's label and a metric: "
            "name results with the same ones, or finish the suites first"
        )
    settings, without = differing_settings(matched, a.store, b.store)
    cells = differences(matched, a.store, b.store)
    return Comparison(a.name, b.name, cells, only_a.lines(), only_b.lines(), settings, without)


def _suites(a: Side, b: Side) -> Iterator[tuple[str, Mapping[Place, Measured], Mapping[Place, Measured]]]:
    """Yield the suites that are compared: a name, "" if there is only one on each side, and the cells of both."""
    if len(a.suites) == len(b.suites) == 1:
        yield "", next(iter(a.suites.values())), next(iter(b.suites.values()))
        return
    if not a.suites.keys() & b.suites.keys():
        names = "; ".join(f"{side.name} has {', '.join(side.suites)}" for side in (a, b))
        raise RequestError(f"{names}: no suite in common. Name the folders of single suites, such as {a.name}/NAME")
    for name in {**a.suites, **b.suites}:
        yield name, a.suites.get(name, {}), b.suites.get(name, {})


class Only:
    """The numbers that one side alone has."""

    def __init__(self) -> None:
        self.metrics: dict[tuple[str, str], list[str]] = {}  # by row and by what the other side has

    def add(self, suite: str, place: Place, other: Measured | None) -> None:
        """Add a number and what the other side has in its place."""
        status = "not there" if other is None else other.status
        self.metrics.setdefault((row_name(suite, place), status), []).append(place.metric)

    def lines(self) -> list[str]:
        """Return a line for each row."""
        return [
            f"{row} ({', '.join(names)}): {status} on the other side" for (row, status), names in self.metrics.items()
        ]
