"""Variance components of suites with crossed seeds: variance.csv, and lines of statistics.md.

`crossed` says how the components are estimated. The test split adds an error of its own: the accuracy p of a run on
other splits of as many images has the variance p (1 - p) / images, that of a binomial distribution (Bouthillier et al.,
MLSys 2021). Only reports import this module.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import mean

from bench.report.crossed import Components, components
from bench.report.folder import VARIANCE
from bench.report.frame import Frame
from bench.report.inference import Contrast
from bench.report.layout import MISSING
from bench.report.markdown import MARKDOWN, markdown_table
from bench.report.summary import Summary
from bench.spec import Crossed
from bench.store import write_whole
from bench.store.answers import stored_answers
from bench.store.files import csv_text
from bench.suite import TEACHER

ALL_METHODS = "all methods"
RESIDUAL, TEST_SPLIT = "residual", "test_split"
HEADS = {
    "init": "initial weights",
    "order": "order",
    "teacher": "teacher",
    RESIDUAL: "the rest",
    TEST_SPLIT: "test split",
}
SHARES = ("top1", "top5")  # metrics that are shares of the test images
COLUMNS = ("metric", "pair", "label", "n", "source", "seeds", "variance", "deviation", "low", "high")
HOW = (
    "Standard deviations in percentage points: how far a run moves if only the seed of its initial weights, of its "
    "order or of its teacher changes; `the rest` is what these do not explain. 0.00: too small to be seen with these "
    "seeds. Test split: how far another test split of the same size would move a run; it moves all rows together. The "
    "interval of the mean holds for other seeds of the sources that have three or more, and for these seeds of the "
    "others; runs that share a seed count as independent only if no source stands out from the rest."
)


@dataclass(frozen=True)
class Spread:
    """The components of one row in one column; variances are in squared percentage points."""

    metric: str
    pair: str
    label: str
    n: int  # runs
    seeds: Mapping[str, int]  # by source
    variances: Mapping[str, float]  # by source, maybe below zero
    mean: Contrast | None  # None for all methods together

    def deviation(self, source: str) -> float | None:
        """Return the standard deviation due to a source; 0 for an estimate below zero."""
        return _root(self.variances[source]) if source in self.variances else None


def _root(variance: float) -> float:
    return max(variance, 0.0) ** 0.5


def spreads(frame: Frame) -> list[Spread]:
    """Return the components of each finished row but the teacher's, and their means over all methods of a column."""
    of_rows = []
    for column in frame.columns:
        rows = [one for one in frame.tabled if (one.pair, one.metric) == column and one.cell.method != TEACHER]
        own = [(one, spread) for one in rows if (spread := _spread(one, frame)) is not None]
        of_rows += [spread for _, spread in own]
        methods = [spread for one, spread in own if one.is_method]
        if len(methods) > 1:
            of_rows.append(_together(methods))
    return of_rows


def _spread(one: Summary, frame: Frame) -> Spread | None:
    """Return the components of a row; None without a run for each combination of its seeds, or with a single seed."""
    values = {seed: value for seed, value in one.by_seed.items() if isinstance(seed, Crossed)}
    analysed = components(values) if one.status == "done" and values else None
    if analysed is None or not analysed.seeds:
        return None
    variances = _variances(analysed)
    if one.kind.name in SHARES and (images := _images(one, frame)):
        share = analysed.mean / 100
        variances[TEST_SPLIT] = 100**2 * share * (1 - share) / images
    return Spread(one.metric, one.pair, one.label, analysed.n, analysed.seeds, variances, analysed.contrast())


def _variances(analysed: Components) -> dict[str, float]:
    known = {source: analysed.variance(source) for source in analysed.seeds} | {RESIDUAL: analysed.residual}
    return {source: variance for source, variance in known.items() if variance is not None}


def _images(one: Summary, frame: Frame) -> int:
    """Return the number of test images, from the answers of the first run that has left some; 0 if none has."""
    answers = (stored_answers(frame.store, run.id) for run in one.cell.runs if run.id in frame.records)
    return next((len(kept.labels) for kept in answers if kept is not None), 0)


def _together(methods: list[Spread]) -> Spread:
    """Return the mean components of a column's methods, which are more precise than those of a single row."""
    first = methods[0]
    sources = [source for source in first.variances if all(source in one.variances for one in methods)]
    means = {source: mean(one.variances[source] for one in methods) for source in sources}
    return Spread(first.metric, first.pair, ALL_METHODS, sum(one.n for one in methods), first.seeds, means, None)


def write_csv(of_rows: Sequence[Spread], frame: Frame) -> None:
    """Write variance.csv: one row per component, and one for the mean, whose `deviation` is its standard error."""

    def rows() -> Iterator[dict[str, object]]:
        for one in of_rows:
            row = {"metric": one.metric, "pair": one.pair, "label": one.label, "n": one.n}
            for source, variance in one.variances.items():
                numbers = {"variance": round(variance, 6), "deviation": round(_root(variance), 6)}
                yield {**row, "source": source, "seeds": one.seeds.get(source, ""), **numbers}
            if one.mean is not None and one.mean.error is not None and one.mean.interval is not None:
                low, high = (round(bound, 6) for bound in one.mean.interval)
                numbers = {"variance": round(one.mean.error**2, 6), "deviation": round(one.mean.error, 6)}
                yield {**row, "source": "mean", **numbers, "low": low, "high": high}

    write_whole(frame.folder / VARIANCE, csv_text(COLUMNS, rows()))


def lines(of_rows: Sequence[Spread]) -> Iterator[str]:
    """Yield the lines of statistics.md; none if nothing is found."""
    if of_rows:
        yield from ("", "## Where the spread comes from", "", HOW)
    for (metric, pair), of_column in groupby(of_rows, lambda one: (one.metric, one.pair)):
        own = list(of_column)
        sources = [source for source in HEADS if any(source in one.variances for one in own)]
        heads = ["row", "runs", *(HEADS[source] for source in sources), "mean", "95 % interval"]
        yield from ("", f"### {MARKDOWN.text(metric)}, {MARKDOWN.text(pair)}", "")
        yield from markdown_table(heads, [_texts(one, sources) for one in own])


def _texts(one: Spread, sources: list[str]) -> list[str]:
    deviations = [MISSING if (own := one.deviation(source)) is None else f"{own:.2f}" for source in sources]
    average, interval = MISSING, MISSING
    if one.mean is not None:
        average = f"{one.mean.value:.2f}"
        if one.mean.interval is not None:
            low, high = one.mean.interval
            interval = f"{low:.2f} to {high:.2f}"
    return [MARKDOWN.text(one.label), str(one.n), *deviations, average, interval]
