"""A suite's statistics in sentences, for the web page, from the rows of statistics.csv. Imports no torch."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple

from bench.report.layout import ALL_PAIRS, MISSING, p_value

SIGNIFICANT = 0.05  # of p: from it on, a row is not told apart from its reference

CsvRow = Mapping[str, str]


@dataclass(frozen=True)
class Said:
    """What one group of statistics says."""

    title: str
    sentences: list[str]
    is_of_one_pair: bool = False  # of several


class Gain(NamedTuple):
    """A row of the page's table of gains over references: texts, with the numbers that they are sorted by."""

    pair: str
    metric: str
    label: str
    reference: str
    n: str
    value: tuple[str, str]
    interval: tuple[str, str]
    p: tuple[str, str]
    p_adjusted: tuple[str, str]


def said(rows: Sequence[CsvRow]) -> list[Said]:
    """Return the rows in words: gains in each pair and over all pairs, ranks, improvements and single images."""
    own = [row for row in rows if row.get("statistic") == "gain"]
    several = len({row["pair"] for row in own}) > 1
    told = [
        Said(
            f"Against {reference} in {metric}, {_name(pair)}",
            list(_against(list(group), reference)),
            several and pair != ALL_PAIRS,
        )
        for (pair, metric, reference), group in groupby(own, itemgetter("pair", "metric", "reference"))
    ]
    for metric in dict.fromkeys(row.get("metric", "") for row in rows):
        own = [row for row in rows if row.get("metric") == metric]
        told += [
            one
            for one in (
                Said(f"Ranks in {metric}", list(_ranks(own))),
                Said(f"How often a method is above another in {metric}", list(_probabilities(own))),
                Said(f"Relative improvement in {metric}", list(_improvements(own))),
                Said(f"Image by image in {metric}", list(_images(own))),
            )
            if one.sentences
        ]
    return told


def gains(rows: Sequence[CsvRow]) -> list[Gain]:
    """Return the table of all gains."""
    return [
        Gain(
            pair=_name(row["pair"]),
            metric=row["metric"],
            label=row["label"],
            reference=row["reference"],
            n=row["n"] + (" †" if row["note"] else ""),
            value=(_signed(row["value"]), row["value"]),
            interval=(_interval(row) or MISSING, row["low"]),
            p=(_p(row["p"]), row["p"]),
            p_adjusted=(_p(row["p_adjusted"]), row["p_adjusted"]),
        )
        for row in rows
        if row.get("statistic") == "gain"
    ]


def _against(rows: Sequence[CsvRow], reference: str) -> Iterator[str]:
    """Yield which rows are above and below a reference, and which are not told apart from it."""
    tested = [row for row in rows if row["p_adjusted"]]
    ordered = sorted(tested, key=lambda row: -float(row["value"]))
    differs = [row for row in ordered if float(row["p_adjusted"]) < SIGNIFICANT]
    alike = [row for row in ordered if float(row["p_adjusted"]) >= SIGNIFICANT]
    for where, some in (
        ("above", [row for row in differs if float(row["value"]) > 0]),
        ("below", [row for row in differs if float(row["value"]) <= 0]),
    ):
        if some:
            named = [f"{row['label']} ({_signed(row['value'])}{_within(row)})" for row in some]
            yield f"{_count(len(some), len(rows))} {where} {reference} by more than chance: {', '.join(named)}."
    if alike:
        named = [f"{row['label']} ({_signed(row['value'])})" for row in alike]
        yield f"{_count(len(alike), len(rows))} not told apart from {reference}: {', '.join(named)}."
    untested = [row["label"] for row in rows if not row["p_adjusted"]]
    if untested:
        yield f"Too few samples for a test of {', '.join(untested)}."


def _ranks(rows: Sequence[CsvRow]) -> Iterator[str]:
    friedman = next((row for row in rows if row.get("statistic") == "friedman"), None)
    if friedman is None:
        return
    if not friedman["p"]:
        yield friedman["note"]
        return
    differ = "differ" if float(friedman["p"]) < SIGNIFICANT else "cannot be told apart"
    yield f"Over {friedman['n']} pairs the rows' ranks {differ} (Friedman's test, p {_p(friedman['p'])})."
    ranked = sorted((row for row in rows if row["statistic"] == "mean_rank"), key=lambda row: float(row["value"]))
    named = [f"{row['label']} {float(row['value']):.2f}" for row in ranked]
    yield f"Mean ranks, 1 is the best: {', '.join(named)}."
    for row in rows:
        if row["statistic"] == "critical_difference":
            yield f"Ranks that are {float(row['value']):.2f} apart differ at 5 % (Nemenyi)."


def _probabilities(rows: Sequence[CsvRow]) -> Iterator[str]:
    own = [row for row in rows if row.get("statistic") == "probability_of_improvement"]
    for reference, group in groupby(own, itemgetter("reference")):
        ordered = sorted(group, key=lambda row: -float(row["value"]))
        named = [f"{row['label']} {100 * float(row['value']):.0f} %" for row in ordered]
        yield f"Share of seeds, averaged over pairs, in which a method is above {reference}: {', '.join(named)}."


def _improvements(rows: Sequence[CsvRow]) -> Iterator[str]:
    own = [row for row in rows if row.get("statistic") == "relative_improvement" and row["value"]]
    for label, group in groupby(own, itemgetter("label")):
        named = [f"{row['reference']} {100 * float(row['value']):.0f} %" for row in group]
        yield (
            f"The gain of {label} over another method, as a share of that method's own gain over the student (ratio of "
            f"sums): {', '.join(named)}."
        )


def _images(rows: Sequence[CsvRow]) -> Iterator[str]:
    own = [row for row in rows if row.get("statistic") == "mcnemar" and row["p_adjusted"]]
    for (pair, reference), group in groupby(own, itemgetter("pair", "reference")):
        tested = list(group)
        named = [row["label"] for row in tested if float(row["p_adjusted"]) < SIGNIFICANT]
        which = f": {', '.join(named)}" if named else ""
        yield (
            f"{_name(pair)}: in the answers of one seed, {_count(len(named), len(tested))} other than {reference} by "
            f"more than the sample of test images explains (McNemar's test){which}."
        )


def _count(some: int, whole: int) -> str:
    return f"{some} of {whole} {'is' if some == 1 else 'are'}"


def _name(pair: str) -> str:
    return pair.replace("->", " → ")


def _signed(value: str) -> str:
    return f"{float(value):+z.2f}"


def _interval(row: CsvRow) -> str:
    return f"{_signed(row['low'])} to {_signed(row['high'])}" if row["low"] and row["high"] else ""


def _within(row: CsvRow) -> str:
    return f"; {interval}" if (interval := _interval(row)) else ""


def _p(value: str) -> str:
    return p_value(float(value) if value else None)
