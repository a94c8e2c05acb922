"""From the store to the tables: table.csv, table.md and table.tex. Imports no torch and never trains."""

import csv
import hashlib
import io
import itertools
import json
import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from statistics import mean, stdev
from typing import Any

import jinja2
import rich.markup

from bench.plan import Cell, Plan
from bench.plan.status import OPEN, run_status
from bench.report.epochs import write_events
from bench.report.origins import command, origins
from bench.report.published import published
from bench.spec import DataSpec, RunSpec, Schedule
from bench.store import SOURCES, Store, write_whole
from bench.suite import NONE, PEERS, TEACHER

HEADLINES = ("top1", "miou", "pixel_accuracy")  # metrics that the table shows as people read it
COLUMNS = (
    "pair",
    "teacher",
    "student",
    "method",
    "label",
    "metric",
    "n",
    "mean",
    "std",
    "best_mean",
    "published",
    "status",
    "reason",
    "difference",
)
TOLD = ("batch_size", "lr", "lr_decay", "momentum", "weight_decay", "precision")  # of teachers trained otherwise
MISSING, ABOVE, BELOW = "—", "↑", "↓"
STUDENT = "student (none)"  # papers call the undistilled student so, our tables its row
BEST_IS_SOUGHT = "The last epoch is the result; the best epoch, sought on the test split, is only shown beside it."
STATISTICS = ("statistics.csv", "statistics.md")
INCOMPLETE = "not all seeds are there; see n"
PAPERS = {  # settings in which the CRD paper and its code differ: the term's method, the paper's value, the code's
    "FT's weight": ("ft", 500.0, 200.0),
    "CRD's temperature": ("crd", 0.1, 0.07),
}


@dataclass(frozen=True)
class Outcome:
    """What the store says of a cell.

    Attributes:
        cell: which one.
        status: done, partial, running, waiting, diverged, failed or inapplicable.
        reason: why it is not done, or "".
        values: the last epochs' metrics in percent, one a finished seed, by metric.
        best: the best epochs', likewise.
        seeds: the finished ones, in the order of `values`.
        is_open: whether a run of it is still to be trained, and can be.
    """

    cell: Cell
    status: str
    reason: str
    values: Mapping[str, Sequence[float]]
    best: Mapping[str, Sequence[float]]
    seeds: Sequence[int] = ()
    is_open: bool = False


def outcomes(plan: Plan, store: Store) -> list[Outcome]:
    """Return the outcome of every cell, in the plan's order."""
    return [_outcome(cell, plan, store) for cell in plan.cells]


def _outcome(cell: Cell, plan: Plan, store: Store) -> Outcome:
    found = [run_status(run, plan, store) for run in cell.runs]
    seeds: list[int] = []
    records: list[Mapping[str, Any]] = []
    for run in cell.runs:
        record = store.record(run.id)
        if record is not None:
            seeds.append(run.seed)
            records.append(record)
    values = {shown: [record["metrics"][name] for record in records] for shown, name in cell.metrics.items()}
    best_epochs = [record["best"] for record in records if record["best"]]
    best = {shown: [epoch[name] for epoch in best_epochs] for shown, name in cell.metrics.items()}
    if len(records) == len(cell.runs):
        return Outcome(cell, "done", "", values, best, seeds)
    statuses = [status for status, _ in found]
    order = ("failed", "diverged", "inapplicable", "running", "waiting")
    worst = next(status for status in order if status in statuses)
    first = statuses.index(worst)
    reason = found[first][1]
    is_open = any(status in OPEN for status in statuses)
    if not records:
        return Outcome(cell, worst, reason, values, best, seeds, is_open)
    of_seed = f"seed {cell.runs[first].seed} {worst}"
    if reason:
        of_seed += f": {reason}"
    return Outcome(cell, "partial", of_seed, values, best, seeds, is_open)


def rows(plan: Plan, found: Iterable[Outcome]) -> list[dict[str, Any]]:
    """Return table.csv's rows: one a cell and metric, numbers in percent, "" where there is none."""
    known = published(plan)
    table = []
    for outcome in found:
        cell = outcome.cell
        for metric in cell.metrics:
            values = outcome.values[metric]
            best = outcome.best[metric]
            printed = known.get((cell.pair, cell.label, metric))
            row = {
                "pair": cell.pair,
                "teacher": cell.teacher,
                "student": cell.student,
                "method": cell.method,
                "label": cell.label,
                "metric": metric,
                "n": len(values),
                "mean": round(mean(values), 4) if values else "",
                "std": round(stdev(values), 4) if len(values) > 1 else "",
                "best_mean": round(mean(best), 4) if best else "",
                "published": "" if printed is None else printed,
                "status": outcome.status,
                "reason": outcome.reason,
                "difference": round(mean(values) - printed, 4) if values and printed is not None else "",
            }
            table.append(row)
    return table


def write(plan: Plan, store: Store) -> list[Outcome]:
    """Write the suite's tables from what the store holds now; return the outcomes."""
    found = outcomes(plan, store)
    folder = store.suite_folder(plan.name)
    write_whole(folder / "table.csv", to_csv(rows(plan, found)))
    write_whole(folder / "table.md", to_markdown(plan, found) + "".join(_made(plan, store)))
    write_whole(folder / "table.tex", to_latex(plan, found))
    if plan.sources:
        remembered = store.sources(plan.name) | dict(plan.sources)  # what another call left out is not forgotten
        write_whole(folder / SOURCES, json.dumps(remembered, indent=1) + "\n")
    return found


def write_tables(plan: Plan, store: Store) -> None:
    """Write the suite's tables and event files, as every process does that has new records for them."""
    with store.locked("tables"):  # or another process's, made before the latest records, may be written last
        write(plan, store)
        write_events(plan, store)


def digest(plan: Plan, found: Iterable[Outcome]) -> str:
    """Return a hash of table.csv, by which files made of the same outcomes tell whether they are up to date."""
    return hashlib.sha256(to_csv(rows(plan, found)).encode()).hexdigest()[:16]


def to_csv(table: Sequence[Mapping[str, Any]]) -> str:
    """Return rows as comma-separated values with a heading."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    return text.getvalue()


# the table as people read it: methods by row, pairs by column

Column = tuple[str, str]  # pair and metric
LINE, CELL, MOST_COLUMNS = 100, 20, 4  # characters of a page's width and of a cell, and columns on a page


@dataclass(frozen=True)
class Layout:
    """A table's texts.

    Attributes:
        columns: a pair each, or a pair and a metric.
        networks: (teacher, student) of each column.
        metrics: of each column; empty where all are the top-1 accuracy.
        rows: (label, one text a column).
        notes: what the marks in the texts mean.
        protocol: how the numbers were made.
    """

    columns: list[str]
    networks: list[tuple[str, str]]
    metrics: list[str]
    rows: list[tuple[str, list[str]]]
    notes: list[str]
    protocol: str


@dataclass(frozen=True)
class Style:
    """How a format writes a number, the best, the second, a mark and plain text."""

    number: Callable[[float, float | None, int], str]
    best: Callable[[str], str]
    second: Callable[[str], str]
    mark: Callable[[str], str]
    text: Callable[[str], str]
    dash: str


def tabled(found: Sequence[Outcome]) -> dict[tuple[str, str, str], Outcome]:
    """Return the outcomes that the tables show, by (pair, metric, label)."""
    return {
        (outcome.cell.pair, shown, outcome.cell.label): outcome
        for outcome in found
        for shown in outcome.cell.metrics
        if is_tabled(shown)
    }


def columns_of(found: Sequence[Outcome]) -> list[Column]:
    """Return the tables' columns."""
    return list(dict.fromkeys(place[:2] for place in tabled(found)))


def parts(columns: Sequence[Column], labels: Iterable[str]) -> list[Sequence[Column]]:
    """Return columns in as few parts as a page's width allows beside the rows' labels, of about the same size."""
    widest_label = max(len(label) for label in labels)
    fitting = (LINE - widest_label) // CELL
    most = min(MOST_COLUMNS, max(1, fitting))
    count = math.ceil(len(columns) / most)
    bounds = [len(columns) * part // count for part in range(count + 1)]
    return [columns[start:end] for start, end in itertools.pairwise(bounds)]


def labels_of(found: Sequence[Outcome]) -> list[str]:
    """Return the tables' rows."""
    return list(dict.fromkeys(outcome.cell.label for outcome in found))


def layout(plan: Plan, found: Sequence[Outcome], style: Style, columns: Sequence[Column] | None = None) -> Layout:
    """Return the table's texts: the last epoch's numbers, the best method of each column and the second set off.

    Args:
        plan: the suite's.
        found: outcomes of its cells.
        style: the format.
        columns: those shown; all if not given.
    """
    by_place = tabled(found)
    labels = labels_of(found)
    shown = columns_of(found) if columns is None else columns
    kd = row_named(plan.cells, "KD")
    notes: dict[str, str] = {}  # letters by what they stand for
    partial = False
    body = []
    for label in labels:
        texts = []
        for pair, metric in shown:
            outcome = by_place[pair, metric, label]
            text = style.dash
            if outcome.values[metric]:
                column = [by_place[pair, metric, other] for other in labels]
                of_kd = None if kd is None else by_place[pair, metric, kd]
                text = _result(outcome, column, of_kd, metric, style)
            if outcome.status == "partial":
                partial = True
                text += style.mark("†")
            elif outcome.status != "done":
                letter = notes.setdefault(_why(outcome), _letter(len(notes)))
                text += style.mark(letter)
            texts.append(text)
        body.append((style.text(label), texts))
    explained = [f"{style.mark(letter)} {style.text(reason)}" for reason, letter in notes.items()]
    if partial:
        explained.append(f"{style.mark('†')} {style.text(INCOMPLETE)}")
    networks = {outcome.cell.pair: (outcome.cell.teacher, outcome.cell.student) for outcome in found}
    several_pairs = len(networks) > 1
    only_top1 = {metric for _, metric in columns_of(found)} == {"top1"}
    return Layout(
        columns=[style.text(_heading(column, several_pairs, only_top1)) for column in shown],
        networks=[(style.text(networks[pair][0]), style.text(networks[pair][1])) for pair, _ in shown],
        metrics=[] if only_top1 else [style.text(metric) for _, metric in shown],
        rows=body,
        notes=explained,
        protocol=style.text(protocol(plan)),
    )


def _result(outcome: Outcome, column: Sequence[Outcome], kd: Outcome | None, metric: str, style: Style) -> str:
    """Return a cell's number, set off by its place in the column, and whether it is above or below KD's."""
    values = outcome.values[metric]
    text = style.number(mean(values), _deviation(values), len(values))
    place = place_of(outcome, column, metric)
    if place == 1:
        text = style.best(text)
    elif place == 2:
        text = style.second(text)
    return text + style.text(arrow(outcome, kd, metric))


def _deviation(values: Sequence[float]) -> float | None:
    """Return the standard deviation; None for a single value."""
    return stdev(values) if len(values) > 1 else None


def _why(outcome: Outcome) -> str:
    """Return a cell's status and, if there is one, its reason, on one line."""
    reason = " ".join(outcome.reason.split())
    return f"{outcome.status}: {reason}" if reason else outcome.status


def _heading(column: Column, several_pairs: bool, only_top1: bool) -> str:
    """Return what stands above a column: its pair, its metric or both."""
    pair, metric = column
    if only_top1:
        return pair
    return f"{pair} {metric}" if several_pairs else metric


def row_named(cells: Sequence[Cell], name: str) -> str | None:
    """Return the label of the row that tables call by a name: a method at its defaults, or else the row so labelled."""
    for cell in cells:
        if cell.standard == name and not cell.overrides:
            return cell.label
    if any(cell.label == name for cell in cells):
        return name
    return None


def comparable(one: Outcome, other: Outcome, metric: str) -> bool:
    """Return whether two cells of a column are about the same network: where teachers learn too, both have rows."""
    return one.cell.metrics[metric] == other.cell.metrics[metric]


def arrow(outcome: Outcome, kd: Outcome | None, metric: str) -> str:
    """Return whether a finished method's mean is above or below KD's, as tables print it; "" for other cells."""
    if kd is None or outcome.cell.method in (TEACHER, NONE):
        return ""
    if outcome.status != "done" or kd.status != "done":
        return ""
    difference = mean(outcome.values[metric]) - mean(kd.values[metric])
    if difference == 0 or not comparable(outcome, kd, metric):
        return ""
    sign = ABOVE if difference > 0 else BELOW
    return f" ({sign})"


def comparison(plan: Plan, found: Sequence[Outcome]) -> dict[tuple[str, str, str], tuple[float, float | None]]:
    """Return published numbers, and what the last epochs' means differ from them, by (pair, metric, label)."""
    by_place = tabled(found)
    compared: dict[tuple[str, str, str], tuple[float, float | None]] = {}
    for (pair, label, metric), printed in published(plan).items():
        place = (pair, metric, label)
        if place in by_place:
            values = by_place[place].values[metric]
            difference = mean(values) - printed if values else None
            compared[place] = (printed, difference)
    return compared


def protocol(plan: Plan) -> str:
    """Return how the numbers were made, with what differs from the methods' defaults and from the suite file."""
    seeds = len(plan.suite.seed_list)
    sentences = [
        f"{_measured(plan)}, never the best one; mean ± standard deviation (n - 1) over seeds, their number in "
        f"parentheses; {seeds} asked for; {_arithmetic(plan.suite.training)}.",
        *_evaluations(plan),
        *_marks(plan),
    ]
    if plan.suite.task == "mutual":
        sentences.append(
            "Both networks of a pair train together, each the other's teacher, but for the rows teacher and none; "
            f"rows that end in{PEERS} are the teacher's."
        )
    sentences += _teachers(plan)
    sentences += _papers(plan)
    overrides = _overrides(plan)
    if overrides:
        sentences.append(f"Not the methods' defaults: {'; '.join(overrides)}.")
    if plan.changes:
        sentences.append(f"Changed on the command line: {', '.join(plan.changes)}.")
    return " ".join(sentences)


def _overrides(plan: Plan) -> list[str]:
    """Return the rows that are not at their methods' defaults, with their settings where the label tells them not."""
    found: dict[str, None] = {}
    for cell in plan.cells:
        if not cell.overrides:
            continue
        is_told = all(setting in cell.label for setting in cell.overrides.split(", "))
        found[cell.label if is_told else f"{cell.label} ({cell.overrides})"] = None
    return list(found)


def _arithmetic(schedule: Schedule) -> str:
    """Return a schedule's precision and, where there are several, the number of its processes."""
    shared = "" if schedule.processes is None else f", each batch shared by {schedule.processes} processes"
    return f"{schedule.precision}{shared}"


def _measured(plan: Plan) -> str:
    if plan.suite.evaluations:
        return "Percent on the test split after the last epoch of each evaluation"
    return f"Top-1 accuracy in percent on the test split after the last of {plan.suite.training.epochs} epochs"


def _evaluations(plan: Plan) -> Iterator[str]:
    """Yield a sentence on each way in which trained networks are judged, and one on how they were trained."""
    ways: dict[str, list[str]] = {}
    for cell in plan.cells:
        run = cell.runs[0]
        if run.head is None or run.schedule is None or cell.method != NONE:
            continue
        read = "embedding"
        if run.head.stage is not None:
            read = f"stage, averaged to at most {run.head.most_values:,} values"
        way = {
            "probe": f"a linear classifier of the frozen {read}",
            "finetune": "all weights and a new linear classifier",
            "segmentation": "all weights and a new head that scores every pixel",
        }[run.task]
        how = (
            f"{way}, trained on {described(run.data)} for {run.schedule.epochs} epochs (rate {run.schedule.lr:g}, "
            f"batch {run.schedule.batch_size}, {_arithmetic(run.schedule)})"
        )
        names = ways.setdefault(how, [])
        names += [name for name in cell.metrics if is_tabled(name) and name not in names]
    for how, names in ways.items():
        yield f"{', '.join(names)}: {how}."
    if plan.suite.evaluations:
        student = _student(plan)
        if student is not None and student.schedule is not None:
            yield f"Students trained on {seen(student.data)} for {student.schedule.epochs} epochs."
        if plan.suite.task == "cross_modal":
            yield "Students learn from their teachers alone; none is a student with its initial weights."


def _marks(plan: Plan) -> Iterator[str]:
    """Yield a sentence on how the tables set rows off."""
    rows = {cell.label for cell in plan.cells if cell.method not in (TEACHER, NONE)}
    if len(rows) > 1:
        apart = ", students and teachers apart" if plan.suite.task == "mutual" else ""
        arrows = "" if row_named(plan.cells, "KD") is None else f"; ({ABOVE}) and ({BELOW}): above and below KD"
        yield f"Of the methods the best is bold, the second underlined{apart}{arrows}."


def _papers(plan: Plan) -> Iterator[str]:
    """Yield a sentence on the settings that are the paper's where its code has others, and one on the reverse."""
    found: dict[str, list[str]] = {}
    student = _student(plan)
    if student is not None and student.data.name == "imagenet":  # the paper has 0.07 there as its code has, and no FT
        return
    for name, (method, papers, codes) in PAPERS.items():
        terms = [term for cell in plan.cells for term in plan.trained(cell.runs[0]).terms if term.method == method]
        used = {term.weight if method == "ft" else term.parameters["temperature"] for term in terms}
        if used == {papers}:
            found.setdefault("From the CRD paper, not its code", []).append(f"{name} {papers:g} (code: {codes:g})")
        elif used == {codes}:
            found.setdefault("From the CRD paper's code", []).append(f"{name} {codes:g} (paper: {papers:g})")
    for whose, settings in found.items():
        yield f"{whose}: {', '.join(settings)}."


def is_tabled(shown: str) -> bool:
    """Return whether what people read shows a metric, by its name in tables or records."""
    return shown.endswith(HEADLINES)


def _teachers(plan: Plan) -> Iterator[str]:
    """Yield a sentence for each way in which teachers are not made as students are."""
    student = _student(plan)
    made: dict[str, list[str]] = {}
    for cell in plan.cells:
        if cell.method == TEACHER:
            how = _how_taught(cell, plan, student)
            if how:
                made.setdefault(how, []).append(cell.teacher)
    for how, networks in made.items():
        yield f"Teacher {', '.join(dict.fromkeys(networks))} {how}."


def _how_taught(cell: Cell, plan: Plan, student: RunSpec | None) -> str:
    """Return in what a teacher is not made as students are; "" where it is."""
    run = plan.trained(cell.runs[0])
    if run.is_ensemble:
        run = plan.runs[run.teachers[0]]
    if run.schedule is None:
        if run.has_published_weights:
            return f"with torchvision's weights {run.checkpoint}"
        return "read from a checkpoint"
    ours, theirs = plan.suite.training, plan.suite.teacher_schedule
    differing = []
    if run.schedule.epochs != ours.epochs:
        differing.append(f"after {run.schedule.epochs} epochs")
    keys = [key for key in TOLD if getattr(ours, key) != getattr(theirs, key)]
    if keys:
        settings = ", ".join(f"{key}={getattr(theirs, key)}" for key in keys)
        differing.append(f"with {settings}")
    if student is not None and run.data != student.data:
        differing.append(f"on {seen(run.data)}; students on {seen(student.data)}")
    return " ".join(differing)


def _student(plan: Plan) -> RunSpec | None:
    """Return a run that trains a student; None where all keep their initial weights, which are only judged."""
    runs = (plan.trained(cell.runs[0]) for cell in plan.cells if cell.method != TEACHER)
    return next((run for run in runs if run.head is None), None)


def seen(data: DataSpec) -> str:
    """Return what `described` does, and the view that a network has of it."""
    return described(data) if data.view is None else f"the {data.view} of {described(data)}"


def described(data: DataSpec) -> str:
    """Return a data set and how much of its training split is used, in words."""
    if data.train_per_class is not None:
        return f"{data.name} ({data.train_per_class} training images a class)"
    if data.train_fraction is not None:
        return f"{data.name} ({100 * data.train_fraction:g} % of the training images)"
    return f"{data.name} (all training images)"


def place_of(outcome: Outcome, column: Sequence[Outcome], metric: str) -> int:
    """Return a finished method's place in its column, from 1; 0 for teacher, student and unfinished cells.

    Where teachers train too, they are compared with each other, and students with students.
    """
    ranked = [
        other
        for other in column
        if other.status == "done" and other.cell.method not in (TEACHER, NONE) and comparable(other, outcome, metric)
    ]
    if outcome not in ranked or len(ranked) < 2:
        return 0
    own = mean(outcome.values[metric])
    better = [other for other in ranked if mean(other.values[metric]) > own]
    return 1 + len(better)


def _letter(index: int) -> str:
    """Return a, b, ..., z, aa, ab, ... by its place, from 0."""
    last = chr(ord("a") + index % 26)
    if index < 26:
        return last
    return _letter(index // 26 - 1) + last


def number(value: float, deviation: float | None, n: int) -> str:
    """Return `75.48 ± 0.21 (3)`, or `75.48 (1)` where there is no deviation."""
    spread = "" if deviation is None or math.isnan(deviation) else f" ± {deviation:.2f}"
    return f"{value:.2f}{spread} ({n})"


def _escape_markdown(text: str) -> str:
    return "".join(f"\\{character}" if character in "\\`*_{}[]<>#|~&$" else character for character in text)


MARKDOWN = Style(
    number=number,
    best=lambda text: f"**{text}**",
    second=lambda text: f"<u>{text}</u>",
    mark=lambda sign: f"<sup>{sign}</sup>",
    text=_escape_markdown,
    dash=MISSING,
)
TERMINAL = Style(
    number=number,
    best=lambda text: f"[bold]{text}[/bold]",
    second=lambda text: f"[underline]{text}[/underline]",
    mark=lambda sign: f" {sign}",
    text=rich.markup.escape,
    dash=MISSING,
)


def _greek(letter: str) -> str:
    """Return LaTeX's command for a Greek letter, which is its name but for Unicode's "lamda"."""
    name = unicodedata.name(letter).split()[-1].replace("LAMDA", "LAMBDA")
    command = name.capitalize() if letter.isupper() else name.lower()
    return f"\\{command}"


UNBROKEN, BREAK = 25, "\N{ZERO WIDTH SPACE}"
TEX = {
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "≠": r"$\neq$",
    "≈": r"$\approx$",
    "∞": r"$\infty$",
    "\N{MINUS SIGN}": "$-$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    BREAK: r"\allowbreak{}",
    "[": "{[}",  # a bracket or a star after a row's end would be an option of that end
    "]": "{]}",
    "*": "{*}",
    "|": r"\textbar{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "→": r"$\to$",
    "—": "---",
    "†": r"$\dagger$",
}
TEX |= {letter: f"${_greek(letter)}$" for letter in "αβγδεζηθικλμνξπρστυφχψωΓΔΘΛΞΠΣΥΦΨΩ"}
TEX |= {character: f"\\{character}" for character in "&%$#_{}"}
# what LaTeX prints without packages: ASCII, and the Latin letters, quotes and signs that its first font has
PRINTED = {chr(code) for code in range(0x20, 0x7F)}
PRINTED |= {chr(code) for code in range(0xA1, 0x180)}
PRINTED |= {*"\u2013\u2018\u2019\u201c\u201d…•"}
PRINTED -= {*"«»ÐÞðþĄąĐđĘęĦħĮįĸĿŀŉŊŋŦŧŲųſ\xad"}


def escape_tex(text: str) -> str:
    """Return plain text as LaTeX prints it; a character that it cannot print by its code: U+4E2D.

    Words longer than `UNBROKEN` characters, such as paths, may break after each so many.
    """
    plain = unicodedata.normalize("NFC", text.replace("->", "→"))
    breakable = re.sub(rf"\S{{{UNBROKEN}}}(?=\S)", rf"\g<0>{BREAK}", plain)
    return "".join(_tex_character(character) for character in breakable)


def _tex_character(character: str) -> str:
    if character in TEX:
        return TEX[character]
    return character if character in PRINTED else f"U+{ord(character):04X}"


def _tex_number(value: float, deviation: float | None, n: int) -> str:
    """Return what `number` does, all but the mean in a smaller size."""
    mean_text, _, rest = number(value, deviation, n).partition(" ")
    return rf"{mean_text} {{\scriptsize {escape_tex(rest)}}}"


def _tex_set_off(command: str) -> Callable[[str], str]:
    """Return what sets a number's mean off by a command, and leaves the rest of its text."""

    def set_off(text: str) -> str:
        mean_text, space, rest = text.partition(" ")
        return rf"\{command}{{{mean_text}}}{space}{rest}"

    return set_off


LATEX = Style(
    number=_tex_number,
    best=_tex_set_off("textbf"),
    second=_tex_set_off("underline"),
    mark=lambda sign: rf"\textsuperscript{{{escape_tex(sign)}}}",
    text=escape_tex,
    dash="---",
)


def to_markdown(plan: Plan, found: Sequence[Outcome]) -> str:
    """Return the table as Markdown: methods by pairs; then, a pair each, best epochs and published numbers beside."""
    lines = [f"# {MARKDOWN.text(plan.suite.title)}", "", MARKDOWN.text(protocol(plan))]
    for columns in parts(columns_of(found), labels_of(found)):
        table = layout(plan, found, MARKDOWN, columns)
        lines += ["", *_grid(["method", *table.columns], table.rows)]
        if table.notes:
            lines += ["", *(f"- {note}" for note in table.notes)]
    lines += _beside_best(plan, found)
    return "\n".join(lines) + "\n"


def _beside_best(plan: Plan, found: Sequence[Outcome]) -> list[str]:
    """Return the lines of the tables of best epochs and published numbers, one a column that has any number."""
    known = comparison(plan, found)
    details = {column: _details(found, known, column) for column in columns_of(found)}
    if not any(details.values()):
        return []
    title = "## Last epoch beside best epoch"
    explained = BEST_IS_SOUGHT
    if known:
        title += " and published number"
        explained += f" {MARKDOWN.text(_source(plan))}"
    lines = ["", title, "", explained]
    for column, body in details.items():
        if not body:
            continue
        (heading,) = layout(plan, found, MARKDOWN, [column]).columns
        heads = ["last epoch", "best epoch", "published", "difference"]
        width = 4 if _is_published(column, known) else 2
        lines += ["", f"### {heading}", ""]
        lines += _grid(["method", *heads[:width]], [(label, texts[:width]) for label, texts in body])
    return lines


def _is_published(column: Column, known: Iterable[tuple[str, str, str]]) -> bool:
    """Return whether a published number is known in a column."""
    return any((pair, metric) == column for pair, metric, _ in known)


def _made(plan: Plan, store: Store) -> Iterator[str]:
    """Yield what repeats the table, and how it was made, as Markdown."""
    yield f"\n## How it was made\n\n```\n{command(plan)}\n```\n"
    made = list(origins(plan, store).values())
    if made:
        heads = list(made[0])
        body = []
        for facts in made:
            first, *rest = [MARKDOWN.text(fact) for fact in facts.values()]
            body.append((first, rest))
        yield "\n" + "\n".join(_grid(heads, body)) + "\n"


def _source(plan: Plan) -> str:
    """Return where the published numbers stand and what the difference is."""
    assert plan.suite.published is not None  # or no number is published
    source = f"{plan.suite.published.source}, table {plan.suite.published.table}"
    return f"Published: {source}; the difference is the last epoch's mean less the published number."


def _grid(heads: Sequence[str], rows: Iterable[tuple[str, Sequence[str]]]) -> Iterator[str]:
    """Yield a Markdown table's lines."""
    yield f"| {' | '.join(heads)} |"
    yield "|---" * len(heads) + "|"
    yield from (f"| {label} | {' | '.join(texts)} |" for label, texts in rows)


def _details(
    found: Sequence[Outcome], known: Mapping[tuple[str, str, str], tuple[float, float | None]], column: Column
) -> list[tuple[str, list[str]]]:
    """Return a column's rows, as far as they have numbers: last epoch, best epoch, published, difference."""
    body = []
    for (pair, metric, label), outcome in tabled(found).items():
        values, best = outcome.values[metric], outcome.best[metric]
        if (pair, metric) != column or not values:
            continue
        mark = MARKDOWN.mark("†") if outcome.status == "partial" else ""
        printed, difference = known.get((pair, metric, label), (None, None))
        texts = [
            MARKDOWN.number(mean(values), _deviation(values), len(values)) + mark,
            f"{mean(best):.2f}{mark}" if best else MISSING,
            MISSING if printed is None else f"{printed:.2f}",
            MISSING if difference is None else f"{difference:+z.2f}{mark}",
        ]
        body.append((MARKDOWN.text(label), texts))
    return body


@dataclass(frozen=True)
class Float:
    """A table of a LaTeX document.

    Attributes:
        caption: what it shows.
        key: what stands after `tab:` in its label.
        table: its texts.
    """

    caption: str
    key: str
    table: Layout


def to_latex(plan: Plan, found: Sequence[Outcome]) -> str:
    """Return the table as LaTeX floats, a part each, and the published numbers; they need the package booktabs."""
    shown = parts(columns_of(found), labels_of(found))
    floats = []
    for number, columns in enumerate(shown, start=1):
        table = layout(plan, found, LATEX, columns)
        body = [(STUDENT if label == NONE else label, texts) for label, texts in table.rows]
        title = escape_tex(plan.suite.title)
        if len(shown) > 1:
            title += f" (part {number} of {len(shown)})"
        told = table.protocol if number == 1 else rf"As in Table~\ref{{tab:{plan.name}}}."
        floats.append(Float(f"{title}. {told}", _numbered(plan.name, number), replace(table, rows=body)))
    known = comparison(plan, found)
    compared = [column for column in columns_of(found) if _is_published(column, known)]
    if compared:
        for number, columns in enumerate(parts(compared, labels_of(found)), start=1):
            floats.append(_compared(plan, found, known, columns, number))
    return _template().render(floats=floats)


def _numbered(key: str, number: int) -> str:
    """Return the key of a float's part: the first has none of its own."""
    return key if number == 1 else f"{key}-{number}"


def _compared(
    plan: Plan,
    found: Sequence[Outcome],
    known: Mapping[tuple[str, str, str], tuple[float, float | None]],
    columns: Sequence[Column],
    number: int,
) -> Float:
    """Return the table of some columns' published numbers and of what ours differ from them."""
    assert plan.suite.published is not None  # or no number were known
    by_place = tabled(found)
    printed_rows = {label for _, _, label in known}
    partial = False
    body = []
    for label in labels_of(found):
        if label not in printed_rows:
            continue
        texts = []
        for pair, metric in columns:
            printed, difference = known.get((pair, metric, label), (None, None))
            text = LATEX.dash if printed is None else f"{printed:.2f}"
            if difference is not None:
                text += f" ({difference:+z.2f})".replace("-", "$-$")
                if by_place[pair, metric, label].status == "partial":
                    partial = True
                    text += LATEX.mark("†")
            texts.append(text)
        body.append((STUDENT if label == NONE else escape_tex(label), texts))
    notes = []
    if partial:
        notes.append(f"{LATEX.mark('†')} {escape_tex(INCOMPLETE)} in Table~\\ref{{tab:{plan.name}}}")
    caption = (
        f"{escape_tex(plan.suite.title)}: the published accuracies in percent, and in parentheses the differences from "
        rf"them. {escape_tex(_source(plan))} Ours stand in Table~\ref{{tab:{plan.name}}}."
    )
    table = replace(layout(plan, found, LATEX, columns), rows=body, notes=notes)
    return Float(caption, _numbered(f"{plan.name}-published", number), table)


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        block_start_string="<%",
        block_end_string="%>",
        variable_start_string="<<",
        variable_end_string=">>",
        comment_start_string="<#",
        comment_end_string="#>",
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
        autoescape=False,
    )
    return environment.from_string((files("bench.report") / "table.tex.j2").read_text(encoding="utf-8"))
