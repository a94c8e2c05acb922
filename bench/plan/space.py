"""Search spaces: which parameters of a row are searched, within which bounds, and at which points. Imports no torch."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.plan.reuse import reusing
from bench.schedule import Scalar
from bench.spec import RunSpec
from bench.suite import Row
from bench.suite.tuning import SHARED, Range, as_range
from methods import Method

DIMENSIONS = 32  # of the points: fixed, so that the first coordinates do not depend on the rows of a suite
POINTS_SEED = 20191  # of the scrambling, fixed: every suite and row has the same points
DIGITS = 3  # significant ones of a searched number, so that it is short and the same on every machine


@dataclass(frozen=True)
class Dimension:
    """One searched parameter: numbers between bounds, on a logarithmic or linear scale, or a list of choices."""

    low: float = 0.0
    high: float = 0.0
    is_log: bool = False
    is_whole: bool = False  # whether values are whole numbers
    choices: tuple[Scalar, ...] = ()

    def at(self, place: float) -> Scalar:
        """Return the value at a place in [0, 1)."""
        if self.choices:
            return self.choices[int(place * len(self.choices))]
        on_log = self.is_log
        value = self.low * (self.high / self.low) ** place if on_log else self.low + (self.high - self.low) * place
        return round(value) if self.is_whole else float(f"{value:.{DIGITS}g}")

    def place(self, value: Scalar) -> float | None:
        """Return the place in [0, 1] of a value; None for choices, and for values outside a logarithmic scale."""
        if self.choices or not isinstance(value, int | float) or self.high <= self.low:
            return None
        if self.is_log:
            return math.log(value / self.low) / math.log(self.high / self.low) if value > 0 else None
        return (value - self.low) / (self.high - self.low)


def points(count: int) -> list[list[float]]:
    """Return the first points of a scrambled Sobol sequence in [0, 1), each with `DIMENSIONS` coordinates."""
    from scipy.stats import qmc  # takes a second to import

    sequence = qmc.Sobol(DIMENSIONS, scramble=True, seed=POINTS_SEED)
    drawn: list[list[float]] = sequence.random_base2(max(1, math.ceil(math.log2(max(count, 2)))))[:count].tolist()
    return drawn


def prefixes(run: RunSpec) -> list[str]:
    """Return, for each term of a run, how the names of its weight and parameters begin in a search.

    That is "" for a single term. For several, it is the method and, if it has several terms, the term's number, as in
    `crd.weight`.
    """
    used = [term.method for term in run.terms]
    if len(used) == 1:
        return [""]
    beginnings = []
    for place, method in enumerate(used):
        number = used[: place + 1].count(method) if used.count(method) > 1 else ""
        beginnings.append(f"{method}{number}.")
    return beginnings


def space_of(
    run: RunSpec, row: Row | None, methods: Mapping[str, Method], stated: Mapping[str, Range]
) -> dict[str, Dimension]:
    """Return what is searched of a row, in the order in which it takes a point's coordinates.

    That is learning rate and weight decay, then each term's weight, then the parameters for which the suite or the
    method states a range, by name. A parameter to which the row itself gives a value keeps it, and so do all
    parameters after the first `DIMENSIONS`.

    Args:
        run: a run of the row with its own settings.
        row: the row; None for the undistilled student.
        methods: by name.
        stated: the ranges of the suite.
    """
    ranges = {name: stated.get(name, shared) for name, shared in SHARED.items()}
    schedule = run.training
    space = {name: dimension(ranges[name], getattr(schedule, name)) for name in ("lr", "weight_decay")}
    for term, prefix in zip(run.terms, prefixes(run), strict=True):
        method = methods[term.method]
        own = method.space.get("weight")
        weight = stated.get("weight") or (as_range(own, method.path) if own is not None else None)
        space[f"{prefix}weight"] = dimension(weight or ranges["weight"], term.weight)
    parameters = {}
    for (name, given), prefix in zip(row.terms if row else (), prefixes(run), strict=True):
        method = methods[name]
        for key, parameter in method.parameters.items():
            own = method.space.get(key)
            one = stated.get(f"{name}.{key}") or (as_range(own, method.path) if own is not None else None)
            if one is not None and key not in given:
                parameters[f"{prefix}{key}"] = dimension(one, parameter.default)
    return dict(itertools.islice((space | dict(sorted(parameters.items()))).items(), DIMENSIONS))


def dimension(given: Range, default: Scalar) -> Dimension:
    """Return the dimension of a range; one in multiples of a default of 0 has one value, 0."""
    if given.choices is not None:
        return Dimension(choices=given.choices)
    bounds = given.log or given.linear
    assert bounds is not None  # a range has one form
    factor = float(default or 0) if given.times_default else 1.0
    if factor == 0:
        return Dimension(choices=(default,))
    is_whole = isinstance(default, int) and not isinstance(default, bool)
    return Dimension(bounds[0] * factor, bounds[1] * factor, given.log is not None, is_whole)


def own_settings(run: RunSpec, space: Mapping[str, Dimension], methods: Mapping[str, Method]) -> dict[str, Scalar]:
    """Return a run's own values of the searched parameters."""
    values: dict[str, Scalar] = {"lr": run.training.lr, "weight_decay": run.training.weight_decay}
    for term, prefix in zip(run.terms, prefixes(run), strict=True):
        values[f"{prefix}weight"] = term.weight
        for key, parameter in methods[term.method].parameters.items():
            values[f"{prefix}{key}"] = term.parameters.get(key, parameter.default)
    return {name: values[name] for name in space}


def settings_at(space: Mapping[str, Dimension], point: Sequence[float]) -> dict[str, Scalar]:
    """Return the values of the searched parameters at a point."""
    return {name: one.at(place) for (name, one), place in zip(space.items(), point, strict=False)}


def with_settings(run: RunSpec, settings: Mapping[str, Scalar], methods: Mapping[str, Method]) -> RunSpec:
    """Return a run with other values of the searched parameters."""
    terms = []
    for term, prefix in zip(run.terms, prefixes(run), strict=True):
        method = methods[term.method]
        chosen = {key: settings[f"{prefix}{key}"] for key in method.parameters if f"{prefix}{key}" in settings}
        adapters = {key: method.parameters[key].adapter for key in chosen}
        parameters = term.parameters | {key: adapters[key].validate_python(value) for key, value in chosen.items()}
        for key in method.added:
            if key in parameters and parameters[key] == method.parameters[key].default:
                del parameters[key]
        weight = settings.get(f"{prefix}weight", term.weight)
        terms.append(term.model_copy(update={"weight": weight, "parameters": parameters}))
    of_schedule = {key: settings[key] for key in ("lr", "weight_decay") if key in settings}
    changed = run.but(schedule=run.training.model_copy(update=of_schedule), terms=tuple(terms))
    return changed if run.student.reuses is None else reusing(changed, run.student.reuses, methods)
