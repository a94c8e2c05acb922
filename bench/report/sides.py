"""Reads one side of `compare`: cells that a suite's runs have measured, or those of a report's files.

Imports no torch.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from bench.report.folder import EPOCHS, TABLES
from bench.report.frame import Frame
from bench.spec import Seed
from bench.store import Store
from bench.store.files import incompatible, read_csv
from bench.tasks import TASKS
from bench.tasks.objectives import ANSWERED

READ = ("pair", "label", "metric", "n", "mean", "std", "status")  # of table.csv
ROUNDING = 1e-3  # table.csv has four decimals
BESIDE = {one.name for task in TASKS.values() for one in (*task.metrics, *ANSWERED) if not one.in_tables}


class Place(NamedTuple):
    """Where a number stands in a suite's table."""

    pair: str
    label: str
    metric: str


@dataclass(frozen=True)
class Measured:
    """One metric of a cell over its finished seeds; numbers are in the metric's unit, percent for most."""

    n: int
    mean: float | None  # None without a finished seed
    std: float | None  # with n - 1; None below two seeds
    status: str  # of the cell, as in table.csv
    by_seed: Mapping[Seed, float] = field(default_factory=dict)  # empty where only mean and deviation are known
    runs: Mapping[Seed, str] = field(default_factory=dict)  # ids of these runs by seed, where they are known
    recorded: str = ""  # the metric's name in records
    is_crossed: bool = False  # whether the seeds of a report's row are crossed; see `_last_epochs`
    in_tables: bool = True  # whether the tables that people read show it


class Matched(NamedTuple):
    """One metric of a cell that has a number on both sides."""

    suite: str
    place: Place
    a: Measured
    b: Measured

    @property
    def row(self) -> str:
        """Return the row's name."""
        return row_name(self.suite, self.place)


def row_name(suite: str, place: Place) -> str:
    """Return the name of a row: its pair and label, after the suite's name if that is not ""."""
    return f"{suite}: {place.pair}: {place.label}" if suite else f"{place.pair}: {place.label}"


@dataclass(frozen=True)
class Side:
    """One side of a comparison."""

    name: str  # as it was given
    suites: Mapping[str, Mapping[Place, Measured]]  # by the suite's name
    store: Store | None  # where the runs are; None if there are only files of a report


def of_frame(frame: Frame) -> dict[Place, Measured]:
    """Return the measured cells of a suite's current results."""
    return {
        Place(one.pair, one.label, one.metric): Measured(
            n=one.n,
            mean=one.mean,
            std=one.std,
            status=one.status,
            by_seed=one.by_seed,
            runs={seed: run.id for run in one.cell.runs if (seed := frame.plan.seed_of(run)) in one.by_seed},
            recorded=one.recorded,
            in_tables=one.in_tables,
        )
        for one in frame.listed
    }


def of_report(folder: Path) -> dict[Place, Measured]:
    """Return the measured cells of table.csv in a folder, with the values of each seed from epochs.csv.

    Raises:
        RequestError: one of the files cannot be read, or has other columns.
    """
    path = folder / TABLES[0]
    rows = read_csv(path)
    if not rows or (missing := [name for name in READ if name not in rows[0]]):
        what = f"has no column {missing[0]!r}" if rows else "has no rows"
        raise incompatible(path, f"{what}; columns needed: {', '.join(READ)}")
    last, crossed = _last_epochs(folder / EPOCHS)
    return dict(_cells(path, rows, last, crossed))


Seeds = Mapping[int, Mapping[str, str]]  # the last row of epochs.csv, by seed


def _cells(
    path: Path, rows: list[dict[str, str]], last: Mapping[tuple[str, str], Seeds], crossed: set[tuple[str, str]]
) -> Iterator[tuple[Place, Measured]]:
    """Yield the measured cells of the rows of table.csv; the other arguments are those of `_last_epochs`."""
    for number, row in enumerate(rows, start=2):
        try:
            pair, label, metric, n, mean, std, status = (row[name] for name in READ)
            one = Measured(
                int(n),
                float(mean) if mean else None,
                float(std) if std else None,
                status,
                recorded=metric,
                in_tables=metric.split()[-1] not in BESIDE,
                is_crossed=(pair, label) in crossed,
            )
            epochs = last.get((pair, label), {})
            by_seed: dict[Seed, float] = {
                seed: float(epoch[metric]) for seed, epoch in epochs.items() if epoch.get(metric)
            }
        except (KeyError, ValueError, IndexError) as error:
            raise incompatible(path, f"line {number}: {type(error).__name__}: {error}") from None
        if one.n == len(by_seed) and one.mean is not None and abs(fmean(by_seed.values()) - one.mean) < ROUNDING:
            runs: dict[Seed, str] = {seed: epoch["run"] for seed, epoch in epochs.items() if seed in by_seed}
            one = replace(one, by_seed=by_seed, runs=runs)
        yield Place(pair, label, metric), one


def _last_epochs(path: Path) -> tuple[dict[tuple[str, str], dict[int, dict[str, str]]], set[tuple[str, str]]]:
    """Return the last epochs of epochs.csv, by pair and row and then by seed, and the rows whose seeds are crossed.

    Seeds are crossed where several runs of a row have the same seed. Both are empty without the file.
    """
    crossed = set()
    last: dict[tuple[str, str], dict[int, dict[str, str]]] = {}
    for row in read_csv(path):
        try:
            if row["stage"] == "main":
                place, seed = (row["pair"], row["row"]), int(row["seed"])
                seeds = last.setdefault(place, {})
                if seed in seeds and seeds[seed]["run"] != row["run"]:
                    crossed.add(place)
                seeds[seed] = row
        except (KeyError, ValueError) as error:
            raise incompatible(path, f"{type(error).__name__}: {error}") from None
    return last, crossed
