"""Verifies a bundle: recomputes its numbers from what it holds, and from data, weights and training on request.

| number | recomputed from | margin |
|---|---|---|
| top-1 and top-5 accuracy | answers | none, but for images with equal logits |
| likelihood, calibration, accuracy by class, agreement | answers | `check.SAME`: computed from the same answers |
| metrics of the last and the best epoch | epochs | `check.SAME` |
| table.csv | records | its last digit |
| accuracies, again | weights and data | `EVALUATED` percentage points, or one image |
| accuracies, again | training and data | what the caller allows |

Answers are stored in half precision. Rounding never swaps two logits, but it can make them equal. An accuracy therefore
lies in a range: at its lower end, all logits equal to the label's count against it, at its upper end all for it.
"""

import hashlib
import math
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bench.launch.devices import train
from bench.launch.score import Scorer
from bench.launch.work import Work
from bench.plan import OPEN, Plan, statuses
from bench.plan.status import Statuses
from bench.report.frame import results_frame
from bench.report.table_csv import to_csv
from bench.share.bundle import KEPT, RUNS, TABLE, WEIGHTS, Bundle
from bench.share.check import Check, as_float, near
from bench.spec import RunSpec, column
from bench.store import Store
from bench.store.answers import stored_answers
from bench.store.files import csv_rows, read_csv
from bench.tasks import task_of
from bench.train.answers import scored
from bench.train.evaluation import NotFiniteError
from bench.train.loop import summary
from bench.types import RequestError

SUMMED = 1e-3  # percentage points; accuracies are means of float32 numbers
LAST_DIGIT = 1.001e-4  # of table.csv
EVALUATED = 0.1  # percentage points; another device rounds differently, which moves a few images
PLACE = ("pair", "label", "metric")  # of a row in table.csv
ANSWERED, RECORDED, TRAINED = "by its answers", "by its record", "by its epochs"  # what a number was computed from
EXPECTED = "by the suite"


def checks(bundle: Bundle, plan: Plan, store: Store) -> Iterator[Check]:
    """Yield the checks that need nothing but the bundle; if its files fail theirs, no others follow.

    Args:
        bundle: unpacked.
        plan: of its suite.
        store: has its runs.
    """
    whole = True
    for check in _of_files(bundle, plan, store):
        whole &= check.holds
        yield check
    if whole:  # else nothing more can be computed
        for run in _done(plan, store):
            yield from _of_epochs(run, plan, store)
            yield from _of_answers(run, plan, store)
        yield from _same_labels(plan, store)
        yield from _of_table(bundle, plan, store)


def not_from_answers(plan: Plan, checked: Iterable[Check], store: Store) -> list[str]:
    """Return the recorded metrics that no check has recomputed from answers, each with the number of its runs."""
    covered = {(check.place, check.metric) for check in checked if check.by == ANSWERED}
    left: dict[str, int] = {}
    for run in _done(plan, store):
        record = store.record(run.id) or {}
        for name in (*record["metrics"], *record.get("scores", {})):
            if (_named(run, plan), name) not in covered:
                left[name] = left.get(name, 0) + 1
    return [f"{name} ({number} runs)" for name, number in left.items()]


def _of_files(bundle: Bundle, plan: Plan, store: Store) -> Iterator[Check]:
    """Yield checks that each run is one of the suite, that its files are what they were, and that it has ended."""
    for run_id in set(store.run_ids()) - plan.runs.keys():
        yield Check(f"run {run_id}", "place", "in the bundle", "in the suite", "", EXPECTED)
    status_of: Statuses = {}
    for run in plan.runs.values():
        fault = ""
        try:
            for name in (*KEPT, *(name for name in WEIGHTS if (store.folder(run.id) / name).exists())):
                store.content(run.id, name)
            store.epochs(run.id)
            stored_answers(store, run.id)
            status_of |= statuses([run], plan, store)
        except RequestError as error:
            fault = _in_bundle(error, bundle)
        yield Check(_named(run, plan), "files", fault or "as its record says", "as its record says", "", RECORDED)
    for run_id, (status, reason) in status_of.items():
        ended = status not in (*OPEN, "stale")
        says = "has ended" if ended else f"{status}: {reason or 'the bundle does not have the run'}"
        yield Check(_named(plan.runs[run_id], plan), "status", says, "has ended", "", EXPECTED)


def _in_bundle(error: Exception, bundle: Bundle) -> str:
    """Return an error's text with the bundle's name in place of the folder with its members."""
    return str(error).replace(str(bundle.root), str(bundle.file))


def _done(plan: Plan, store: Store) -> list[RunSpec]:
    return [run for run in plan.runs.values() if store.record(run.id) is not None]


def _named(run: RunSpec, plan: Plan) -> str:
    pair, row = plan.titles.get(run.id, ("", ""))
    return f"run {run.id} ({pair}, {row}, seed {run.seed})"


def _of_epochs(run: RunSpec, plan: Plan, store: Store) -> Iterator[Check]:
    """Yield checks of a record's metrics against the rows of its epochs, if it has any."""
    record, rows = store.record(run.id) or {}, store.epochs(run.id)
    if not rows:
        return
    try:
        expected = summary(rows, task_of(run), run.data.has_dev)
    except KeyError as error:
        yield Check(_named(run, plan), str(error.args[0]), "missing", "in the last epoch", "", TRAINED)
        return
    for name, value in expected["metrics"].items():
        yield near(_named(run, plan), name, record["metrics"].get(name), value, TRAINED)
    for name, value in (expected["best"] or {}).items():
        yield near(_named(run, plan), f"best {name}", (record.get("best") or {}).get(name), value, TRAINED)
    yield near(_named(run, plan), "epochs", record.get("epochs"), expected["epochs"], TRAINED)


def _of_answers(run: RunSpec, plan: Plan, store: Store) -> Iterator[Check]:
    """Yield checks of a record's accuracies and scores against its answers, if it has any."""
    record, place = store.record(run.id) or {}, _named(run, plan)
    if not task_of(run).answered or "scores" not in record:
        return
    try:
        answers = stored_answers(store, run.id)
        assert answers is not None  # `scores` were computed from them
        bounds = {
            column(name, metric): ends
            for name, logits in answers.logits.items()
            for metric, ends in accuracies(logits, answers.labels).items()
        }
        expected = scored(store, run.id, record.get("to_teacher", {}))
    except Exception as error:  # tensors of any shape
        yield Check(place, "answers", f"{type(error).__name__}: {error}", "answers that can be scored", "", ANSWERED)
        return
    for name, (low, high) in bounds.items():
        if name in record["metrics"]:
            yield Check(place, name, as_float(record["metrics"][name]), low - SUMMED, high + SUMMED, ANSWERED)
    for name, value in expected["scores"].items():
        yield near(place, name, record["scores"].get(name), value, ANSWERED)
    for network, classes in expected["class_accuracy"].items():
        recorded = record.get("class_accuracy", {}).get(network, [])
        for label, value in enumerate(classes):
            stated = recorded[label] if label < len(recorded) else "missing"
            yield near(place, f"accuracy of class {label} ({network})", stated, value, ANSWERED)
    for teacher, numbers in record.get("to_teacher", {}).items():
        for name in numbers:
            value = expected["to_teacher"].get(teacher, {}).get(name, "no answers of the teacher")
            yield near(place, f"{name} with run {teacher}", numbers[name], value, ANSWERED)


def accuracies(logits: np.ndarray, labels: np.ndarray) -> dict[str, tuple[float, float]]:
    """Return the range of top-1 and of top-5 accuracy, in percent, that logits in half precision allow.

    Args:
        logits: (n, K), rounded from the ones that were evaluated.
        labels: (n,).
    """
    own = np.take_along_axis(logits, labels[:, None].astype(np.int64), axis=1)
    above, equal = (logits > own).sum(axis=1), (logits == own).sum(axis=1) - 1
    return {f"top{k}": (100 * float((above + equal < k).mean()), 100 * float((above < k).mean())) for k in (1, 5)}


def _same_labels(plan: Plan, store: Store) -> Iterator[Check]:
    """Yield checks that runs on the same data have the same labels of the test images."""
    first: dict[str, tuple[RunSpec, Any]] = {}
    for run in _done(plan, store):
        answers = stored_answers(store, run.id)
        if answers is not None:
            other, labels = first.setdefault(run.data.key, (run, answers.labels))
            same = f"those of run {other.id}"
            says = same if np.array_equal(labels, answers.labels) else "others"
            yield Check(_named(run, plan), "labels of the test images", says, same, "", ANSWERED)


def _of_table(bundle: Bundle, plan: Plan, store: Store) -> Iterator[Check]:
    """Yield checks of each value in table.csv against a table made from the records."""
    try:
        computed = to_csv(results_frame(plan, store))
    except RequestError as error:  # a record has no number where the table needs one
        yield Check(TABLE, "rows", _in_bundle(error, bundle), "rows that can be computed", "", RECORDED)
        return
    rows = [read_csv(bundle.root / TABLE), csv_rows(computed)]
    yield Check(TABLE, "number of rows", len(rows[0]), len(rows[1]), "", RECORDED)  # none is there twice
    found, expected = ({_place(row): row for row in own} for own in rows)
    for place in {**expected, **found}:
        if place not in found or place not in expected:
            says = ("missing", "a row") if place not in found else ("a row", "no row")
            yield Check(f"{TABLE}: {place}", "row", says[0], says[1], "", RECORDED)
            continue
        for name in {**expected[place], **found[place]}:
            one, other = (_cell(side[place].get(name, "missing")) for side in (found, expected))
            if isinstance(one, float) and isinstance(other, float):
                yield Check(f"{TABLE}: {place}", name, one, other - LAST_DIGIT, other + LAST_DIGIT, RECORDED)
            else:
                yield Check(f"{TABLE}: {place}", name, one, other, other, RECORDED)


def _place(row: Mapping[str, str]) -> str:
    return ", ".join(row[name] for name in PLACE if row.get(name))


def _cell(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


# with data


def evaluated(bundle: Bundle, work: Work, runs: Sequence[RunSpec]) -> Iterator[Check]:
    """Yield checks of the recorded accuracies of classifiers against those of their stored weights.

    Args:
        bundle: unpacked.
        work: has the plan, the store, and where data is.
        runs: finished classifiers whose weights are there.

    Raises:
        RequestError: data is missing.
    """
    scorer = Scorer(work)
    for run in runs:
        record, place = scorer.store.record(run.id) or {}, _named(run, work.plan)
        images = len(scorer.inputs.data(run.data).evaluated)
        try:
            metrics = scorer.metrics(run)
        except (RequestError, NotFiniteError) as error:
            yield Check(place, "weights", _in_bundle(error, bundle), "weights that can be read", "", "by its weights")
            continue
        margin = max(EVALUATED, 100 / images + SUMMED)
        for name, value in metrics.items():
            measured = as_float(record["metrics"].get(name, "missing"))
            yield Check(place, name, measured, value - margin, value + margin, "by its weights")


def with_weights(plan: Plan, store: Store) -> list[RunSpec]:
    """Return the finished classifiers whose weights, and those of the networks that they evaluate, are in the store."""

    def has_weights(run: RunSpec) -> bool:
        needed = run.teachers if run.is_ensemble else {run.id, run.trained_by}
        return all((store.folder(name) / WEIGHTS[0]).exists() for name in needed)

    return [run for run in _done(plan, store) if task_of(run).answered and has_weights(run)]


def chosen(bundle: Bundle, plan: Plan, store: Store, one_in: int) -> list[RunSpec]:
    """Return one in `one_in` of a bundle's trained runs, at least one, chosen by the bundle's own hash."""
    trained = [run for run in _done(plan, store) if run.trains]
    drawn = sorted(trained, key=lambda run: hashlib.sha256(f"{bundle.sha256} {run.id}".encode()).digest())
    return drawn[: math.ceil(len(drawn) / one_in)]


def retrained(work: Work, runs: Sequence[RunSpec], margin: float) -> Iterator[Check]:
    """Train runs again in a store of their own, and yield checks of their metrics.

    Teachers without weights in the store are trained too.

    Args:
        work: has the plan, the store of the bundle, and where data is.
        runs: to train.
        margin: the difference that is allowed, in percentage points.

    Raises:
        RequestError: data is missing.
    """
    plan, store = work.plan, Store(work.results)
    needed = plan.with_needs(runs)
    again = {run.id for run in runs}
    with tempfile.TemporaryDirectory(prefix="retrained-") as folder:
        for run in needed:
            if run.id not in again and (store.folder(run.id) / WEIGHTS[0]).exists():
                shutil.copytree(store.folder(run.id), Path(folder, RUNS, run.id))
        train(replace(work, results=Path(folder), runs=tuple(run.id for run in needed)))
        ended = statuses(needed, plan, Store(Path(folder)))
        for run in runs:
            record, new = store.record(run.id) or {}, Store(Path(folder)).record(run.id)
            if new is None:
                status, reason = ended[run.id]
                yield Check(_named(run, plan), "training", "done", f"{status}: {reason}", "", "by training it again")
                continue
            for name, value in new["metrics"].items():
                measured = as_float(record["metrics"].get(name, "missing"))
                yield Check(_named(run, plan), name, measured, value - margin, value + margin, "by training it again")
