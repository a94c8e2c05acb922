"""Two results compared cell by cell: differences with their intervals, and the settings that differ.

Imports no torch. Only the command `compare` and the Python API import this module, since it imports scipy.

Difference: the second side minus the first, over seeds.
Interval:   Student's t at 95 %: paired where both sides have the same seeds and each seed's value is known, since equal
            seeds start from equal weights and see equal batches; else Welch's (Biometrika 34, 1947).
Images:     McNemar's test and the interval over seeds and images of `bench.report.images`, where the runs of both sides
            have left answers to the same images.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import fmean
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy import special

from bench.report.correction import holm
from bench.report.crossed import components
from bench.report.images import interval, mcnemar
from bench.report.inference import EQUAL, LEVEL, MIN_SEEDS
from bench.report.sides import Measured, Place, Side
from bench.spec import STUDENT, Crossed, canonical_document
from bench.store import Store
from bench.store.answers import Answers, stored_answers
from bench.types import RequestError

if TYPE_CHECKING:
    import pandas as pd

PAIRED, WELCH = "paired t", "Welch's t"
FACTS = ("device", "host", "threads", "commit", "dirty", "versions", "methods_sha256")  # of a record, beside the spec


@dataclass(frozen=True)
class Difference:
    """One cell on both sides, in the metric's unit; None where the data cannot tell."""

    suite: str
    pair: str
    label: str
    metric: str
    n_a: int  # finished seeds
    n_b: int
    mean_a: float
    mean_b: float
    difference: float  # b minus a
    low: float | None = None  # ends of its 95 % interval
    high: float | None = None
    p: float | None = None  # two-sided
    p_adjusted: float | None = None  # Holm's, for all cells of the metric
    test: str = ""  # `PAIRED` or `WELCH`, of interval and p
    note: str = ""  # why there is no interval
    mcnemar_p: float | None = None  # of the first seed that both have
    images_low: float | None = None  # ends of the 95 % interval over seeds and images
    images_high: float | None = None
    in_tables: bool = True  # whether the tables that people read show the metric


@dataclass(frozen=True)
class Setting:
    """A setting or a fact that differs, and the rows in which it does; "" where a side has none."""

    key: str  # as in `spec.json`; `teacher.` and `source.` begin those of these runs, `record.` what a record says
    a: str
    b: str
    rows: Sequence[str]  # `pair: label`, after the suite's name if there are several


@dataclass(frozen=True)
class Comparison:
    """Two sides compared."""

    a: str  # the sides' names
    b: str
    cells: Sequence[Difference]
    only_a: Sequence[str]  # rows and their metrics without a number on the other side, and why
    only_b: Sequence[str]
    settings: Sequence[Setting]
    without_settings: Sequence[str]  # rows whose runs are not in both stores, and not the same either

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


class Matched(NamedTuple):
    """One metric of a cell that has a number on both sides."""

    suite: str
    place: Place
    a: Measured
    b: Measured

    @property
    def row(self) -> str:
        """Return the row's name."""
        return _named(self.suite, self.place)


def compare(a: Side, b: Side) -> Comparison:
    """Return the comparison of two sides.

    Two single suites are compared whatever their names are; of several suites, those of the same name.

    Raises:
        RequestError: they have no suite, or no cell, in common.
    """
    found: list[Matched] = []
    only_a, only_b = Only(), Only()
    for suite, of_a, of_b in _suites(a, b):
        for place in {**of_a, **of_b}:
            one, other = of_a.get(place), of_b.get(place)
            if one is not None and other is not None and one.n and other.n:
                found.append(Matched(suite, place, one, other))
            elif one is not None and one.n:
                only_a.add(suite, place, other)
            elif other is not None and other.n:
                only_b.add(suite, place, one)
    if not found:
        raise RequestError(
            f"{a.name}, {b.name}: no cell has a number on both sides. A cell is a pair, a row's label and a metric: "
            "name results with the same ones, or finish the suites first"
        )
    cells = [_against_images(one, _difference(one), a.store, b.store) for one in found]
    settings, without = _settings(found, a, b)
    return Comparison(a.name, b.name, _adjusted(cells), only_a.lines(), only_b.lines(), settings, without)


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


def _named(suite: str, place: Place) -> str:
    return f"{suite}: {place.pair}: {place.label}" if suite else f"{place.pair}: {place.label}"


class Only:
    """The numbers that one side alone has."""

    def __init__(self) -> None:
        self.metrics: dict[tuple[str, str], list[str]] = {}  # by row and by what the other side has

    def add(self, suite: str, place: Place, other: Measured | None) -> None:
        """Add a number and what the other side has in its place."""
        status = "not there" if other is None else other.status
        self.metrics.setdefault((_named(suite, place), status), []).append(place.metric)

    def lines(self) -> list[str]:
        """Return a line for each row."""
        return [
            f"{row} ({', '.join(names)}): {status} on the other side" for (row, status), names in self.metrics.items()
        ]


# differences


def _difference(one: Matched) -> Difference:
    a, b = one.a, one.b
    assert a.mean is not None  # both have finished seeds
    assert b.mean is not None
    is_paired = bool(a.by_seed) and a.by_seed.keys() == b.by_seed.keys()
    found = Difference(one.suite, *one.place, a.n, b.n, a.mean, b.mean, b.mean - a.mean, in_tables=a.in_tables)
    if a.is_crossed or b.is_crossed:
        return replace(found, note="crossed seeds")
    if any(isinstance(seed, Crossed) for seed in (*a.by_seed, *b.by_seed)):
        return _of_crossed(found, a, b)
    if is_paired:
        gaps = [b.by_seed[seed] - a.by_seed[seed] for seed in a.by_seed]
        found = replace(found, difference=fmean(gaps))
        if np.ptp(gaps) < EQUAL:
            note = "equal on every seed" if abs(gaps[0]) < EQUAL else "the same difference on every seed"
            return replace(found, note=note if a.n > 1 else "one seed")
        variance, df = float(np.var(gaps, ddof=1)) / a.n, a.n - 1.0
    elif a.std is None or b.std is None:
        return replace(found, note="one seed")
    else:
        of_a, of_b = a.std**2 / a.n, b.std**2 / b.n
        variance = of_a + of_b
        if variance == 0.0:
            return replace(found, note="no spread over seeds")
        df = variance**2 / (of_a**2 / (a.n - 1) + of_b**2 / (b.n - 1))
    if min(a.n, b.n) < MIN_SEEDS:
        return replace(found, note="two seeds")
    error = math.sqrt(variance)
    reach = error * float(special.stdtrit(df, (1 + LEVEL) / 2))
    p = 2 * float(special.stdtr(df, -abs(found.difference) / error))
    test = PAIRED if is_paired else WELCH
    return replace(found, low=found.difference - reach, high=found.difference + reach, p=p, test=test)


def _of_crossed(found: Difference, a: Measured, b: Measured) -> Difference:
    """Return a difference of runs with crossed seeds: they are not independent, so their interval needs equal ones."""
    gaps = {seed: b.by_seed[seed] - a.by_seed[seed] for seed in a.by_seed if seed in b.by_seed}
    model = components({seed: gap for seed, gap in gaps.items() if isinstance(seed, Crossed)})
    if model is None or not len(gaps) == a.n == b.n:
        return replace(found, note="crossed seeds that differ")
    contrast = model.contrast()
    if contrast.interval is None:
        return replace(found, note="too few crossed seeds")
    low, high = contrast.interval
    return replace(found, low=low, high=high, p=contrast.p, test=PAIRED)


def _adjusted(cells: Sequence[Difference]) -> list[Difference]:
    """Return cells with p-values that are corrected for all cells of their metric."""
    corrected: dict[int, float | None] = {}
    for metric in {one.metric for one in cells}:
        places = [place for place, one in enumerate(cells) if one.metric == metric]
        corrected |= zip(places, holm([cells[place].p for place in places]), strict=True)
    return [replace(one, p_adjusted=corrected[place]) for place, one in enumerate(cells)]


def _against_images(one: Matched, found: Difference, of_a: Store | None, of_b: Store | None) -> Difference:
    """Return a difference in top-1 accuracy with what the answers of both sides say of it, if there are any."""
    if one.a.recorded != "top1" or one.b.recorded != "top1" or of_a is None or of_b is None:
        return found
    hits = []
    for seed in (seed for seed in one.a.runs if seed in one.b.runs):
        own, other = stored_answers(of_a, one.a.runs[seed]), stored_answers(of_b, one.b.runs[seed])
        if own is not None and other is not None and _are_of_the_same_images(own, other):
            hits.append([answers.logits[STUDENT].argmax(axis=1) == answers.labels for answers in (own, other)])
    if not hits:
        return found
    found = replace(found, mcnemar_p=mcnemar(hits[0][1], hits[0][0]))
    if len(hits) < MIN_SEEDS or any(isinstance(seed, Crossed) for seed in one.a.runs):
        return found
    before, after = (np.stack(rows) for rows in zip(*hits, strict=True))
    low, high = interval(after, before) or (None, None)
    return replace(found, images_low=low, images_high=high)


def _are_of_the_same_images(one: Answers, other: Answers) -> bool:
    return np.array_equal(one.indices, other.indices) and np.array_equal(one.labels, other.labels)


# settings


def _settings(found: Sequence[Matched], a: Side, b: Side) -> tuple[list[Setting], list[str]]:
    """Return the settings that differ, and the rows of which they are not known."""
    with_runs = {one.row: one for one in reversed(found) if one.a.runs and one.b.runs}
    differing: dict[tuple[str, str, str], list[str]] = {}
    unknown: list[str] = []
    for row in dict.fromkeys(one.row for one in found):
        one = with_runs.get(row)
        of_a, of_b = (_facts(one.a, a.store), _facts(one.b, b.store)) if one else ({}, {})
        if of_a and of_b:
            for key in {**of_a, **of_b}:
                values = (of_a.get(key, ""), of_b.get(key, ""))
                if values[0] != values[1]:
                    differing.setdefault((key, *values), []).append(row)
        elif one is None or one.a.runs != one.b.runs:  # equal ids stand for equal settings
            unknown.append(row)
    settings = [Setting(*key, rows) for key, rows in differing.items()]
    return sorted(settings, key=lambda one: one.key.startswith("record.")), unknown


def _facts(one: Measured, store: Store | None) -> dict[str, str]:
    """Return settings and facts of a cell's finished runs by key; nothing if they are not in the store.

    Where seeds have different values, all are named.
    """
    found: dict[str, set[str]] = {}
    if store is None:
        return {}
    for run_id in one.runs.values():
        for key, value in _of_run(store, run_id):
            found.setdefault(key, set()).add(value)
    return {key: ", ".join(sorted(values)) for key, values in found.items()}


def _of_run(store: Store, run_id: str, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield the settings of a run, but its seeds, of the runs that it was made from, and the facts of its record."""
    spec = store.spec(run_id)
    if spec is None:
        return
    document = canonical_document(spec)
    for name in ("teachers", "source", "seed", "order_seed"):
        document.pop(name, None)
    yield from _flat(document, prefix)
    for teacher in spec.teachers:
        yield from _of_run(store, teacher, f"{prefix}teacher.")
    if spec.source is not None:
        yield from _of_run(store, spec.source, f"{prefix}source.")
    record = store.record(run_id) or {}
    if not prefix:
        yield from _flat({key: record[key] for key in FACTS if record.get(key) is not None}, "record.")


def _flat(document: object, prefix: str) -> Iterator[tuple[str, str]]:
    """Yield the leaves of a JSON document with their dotted keys; a list of scalars is one leaf."""
    if isinstance(document, Mapping):
        for key, value in document.items():
            yield from _flat(value, f"{prefix}{key}.")
    elif isinstance(document, list | tuple) and any(isinstance(value, Mapping) for value in document):
        for number, value in enumerate(document):
            yield from _flat(value, f"{prefix.removesuffix('.')}[{number}].")
    else:
        text = ", ".join(map(str, document)) if isinstance(document, list | tuple) else str(document)
        yield prefix.removesuffix("."), text
