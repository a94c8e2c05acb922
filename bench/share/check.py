"""A number that a bundle states, and the range that it must lie in. Imports no torch."""

import math
from dataclasses import dataclass

SAME = 1e-6  # relative, and absolute: the same numbers, added up on another processor


@dataclass(frozen=True)
class Check:
    """What a bundle states, and the range in which a number must be; a text must be equal to `low`."""

    place: str  # the run, or the row of the table
    metric: str
    found: object
    low: object
    high: object  # of a number
    by: str  # what the range was computed from

    @property
    def holds(self) -> bool:
        """Return whether the statement is in the range."""
        if isinstance(self.found, float) and isinstance(self.low, float) and isinstance(self.high, float):
            return self.low <= self.found <= self.high or (math.isnan(self.found) and math.isnan(self.low))
        return self.found == self.low

    def __str__(self) -> str:
        """Return the place, the metric, what was found and what was expected, in one line."""
        range_ = f"{_shown(self.low)} to {_shown(self.high)}" if isinstance(self.low, float) else self.low
        return f"{self.place}: {self.metric}: found {_shown(self.found)}, expected {range_} ({self.by})"

    @property
    def difference(self) -> str:
        """Return how far a number is from the middle of its range."""
        if isinstance(self.found, float) and isinstance(self.low, float) and isinstance(self.high, float):
            return f"{round(self.found - (self.low + self.high) / 2, 4) + 0.0:+.4f}"  # no -0.0000
        return "unknown"


def near(place: str, metric: str, found: object, expected: object, by: str) -> Check:
    """Return a check that a number is equal to another one, up to the rounding `SAME`."""
    one, other = as_float(found), as_float(expected)
    if isinstance(other, float):
        margin = SAME * max(1.0, abs(other))
        return Check(place, metric, one, other - margin, other + margin, by)
    return Check(place, metric, one, other, other, by)


def as_float(value: object) -> object:
    """Return a number as a float; anything else as it is."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _shown(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
