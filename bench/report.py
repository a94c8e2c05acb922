"""From the store to the tables: table.csv, table.md and table.tex. Imports no torch and never trains."""

import csv
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from statistics import mean, stdev
from typing import Any

import jinja2
import rich.markup

from bench.plan import Cell, Plan
from bench.spec import DataSpec
from bench.standing import run_status
from bench.store import SOURCES, Store, write_whole
from bench.suite import NONE, PEERS, TEACHER

HEADLINES = ("top1", "miou", "pixel_accuracy")  # metrics that the table shows as people read it
COLUMNS = (
    *("pair", "teacher", "student", "method", "label", "metric", "n", "mean", "std", "best_mean"),
    *("published", "status", "reason"),
)
PUBLISHED_NAMES = {"ShuffleV1": "ShuffleNetV1", "ShuffleV2": "ShuffleNetV2"}  # wrn_16_2 is wrn-16-2 there
TOLD = ("batch_size", "lr", "lr_decay", "momentum", "weight_decay", "precision")  # of teachers trained otherwise
PUBLISHED_DATA = {"cifar100": "CIFAR-100"}
MISSING = "—"


@dataclass(frozen=True)
class Outcome:
    """What the store says of a cell.

    Attributes:
        cell: which one.
        status: done, partial, running, waiting, diverged, failed or inapplicable.
        reason: why it is not done, or "".
        values: the last epochs' metrics in percent, one a finished seed, by metric.
        best: the best epochs', likewise.
    """

    cell: Cell
    status: str
    reason: str
    values: Mapping[str, Sequence[float]]
    best: Mapping[str, Sequence[float]]


def outcomes(plan: Plan, store: Store) -> list[Outcome]:
    """Return the outcome of every cell, in the plan's order."""
    return [_outcome(cell, plan, store) for cell in plan.cells]


def _outcome(cell: Cell, plan: Plan, store: Store) -> Outcome:
    found = [run_status(run, plan, store) for run in cell.runs]
    records = [record for run in cell.runs if (record := store.record(run.id)) is not None]
    values = {shown: [record["metrics"][name] for record in records] for shown, name in cell.metrics.items()}
    best = {shown: [r["best"][name] for r in records if r["best"]] for shown, name in cell.metrics.items()}
    statuses = [status for status, _ in found]
    if len(records) == len(cell.runs):
        return Outcome(cell, "done", "", values, best)
    order = ("failed", "diverged", "inapplicable", "running", "waiting")
    worst = next(status for status in order if status in statuses)
    at = statuses.index(worst)
    reason = found[at][1]
    if records:
        reason = f"seed {cell.runs[at].seed} {worst}" + (f": {reason}" if reason else "")
        return Outcome(cell, "partial", reason, values, best)
    return Outcome(cell, worst, reason, values, best)


def rows(plan: Plan, found: Iterable[Outcome]) -> list[dict[str, Any]]:
    """Return table.csv's rows: one a cell and metric, numbers in percent, "" where there is none."""
    known = published(plan)
    table = []
    for outcome in found:
        cell = outcome.cell
        for metric in cell.metrics:
            values, best = outcome.values[metric], outcome.best[metric]
            table.append(
                {
                    **{"pair": cell.pair, "teacher": cell.teacher, "student": cell.student},
                    **{"method": cell.method, "label": cell.label, "metric": metric, "n": len(values)},
                    "mean": round(mean(values), 4) if values else "",
                    "std": round(stdev(values), 4) if len(values) > 1 else "",
                    "best_mean": round(mean(best), 4) if best else "",
                    "published": known.get((cell.teacher, cell.student, cell.standard), "") if metric == "top1" else "",
                    **{"status": outcome.status, "reason": outcome.reason},
                }
            )
    return table


def published(plan: Plan) -> dict[tuple[str, str, str], float]:
    """Return the published top-1 accuracies in percent of the suite's table, by (teacher, student, standard name)."""
    if plan.suite.published is None:
        return {}
    ours = {_published_name(name): name for cell in plan.cells for name in (cell.teacher, cell.student)}
    names = {"student": NONE}
    with (files("bench") / "published.csv").open(encoding="utf-8") as file:
        return {
            (ours[row["teacher"]], ours[row["student"]], names.get(row["method"], row["method"])): float(row["value"])
            for row in csv.DictReader(file)
            if row["table"] == str(plan.suite.published.table)
            and row["metric"] == "top1_acc"
            and row["dataset"] == _published_data(plan)
            and row["teacher"] in ours
            and row["student"] in ours
        }


def _published_data(plan: Plan) -> str | None:
    """Return the name that published tables give the suite's data, or None for a part of it or other sizes."""
    data = plan.cells[0].runs[0].data
    whole = (data.train_per_class, data.train_fraction, data.size) == (None, None, (32, 32))
    return PUBLISHED_DATA.get(data.name) if whole else None


def _published_name(network: str) -> str:
    return PUBLISHED_NAMES.get(network, network.replace("_", "-"))


def write(plan: Plan, store: Store) -> list[Outcome]:
    """Write the suite's tables from what the store holds now; return the outcomes."""
    found = outcomes(plan, store)
    folder = store.suite_folder(plan.name)
    write_whole(folder / "table.csv", to_csv(rows(plan, found)))
    write_whole(folder / "table.md", to_markdown(plan, found))
    write_whole(folder / "table.tex", to_latex(plan, found))
    if plan.sources:
        remembered = store.sources(plan.name) | dict(plan.sources)  # what another call left out is not forgotten
        write_whole(folder / SOURCES, json.dumps(remembered, indent=1) + "\n")
    return found


def to_csv(table: Sequence[Mapping[str, Any]]) -> str:
    """Return rows as comma-separated values with a heading."""
    import io

    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    return text.getvalue()


# the table as people read it: methods by row, pairs by column


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


def layout(plan: Plan, found: Sequence[Outcome], style: Style) -> Layout:
    """Return the table's texts: the last epoch's numbers, the best method of each column and the second set off."""
    by_place = {
        (outcome.cell.pair, shown, outcome.cell.label): outcome
        for outcome in found
        for shown in outcome.cell.metrics
        if _tabled(shown)
    }
    columns = list(dict.fromkeys(place[:2] for place in by_place))
    labels = list(dict.fromkeys(outcome.cell.label for outcome in found))
    notes: dict[str, str] = {}
    body = []
    for label in labels:
        texts = []
        for pair, metric in columns:
            outcome = by_place[pair, metric, label]
            values = outcome.values[metric]
            text = style.dash
            if values:
                text = style.number(mean(values), stdev(values) if len(values) > 1 else None, len(values))
                rank = _rank(outcome, [by_place[pair, metric, other] for other in labels], metric)
                text = style.best(text) if rank == 1 else style.second(text) if rank == 2 else text
            if outcome.status != "done":
                sign = "†" if outcome.status == "partial" else ""
                said = " ".join(outcome.reason.split())
                reason = f"{outcome.status}: {said}" if said else outcome.status
                text += style.mark(sign or notes.setdefault(reason, _letter(len(notes))))
            texts.append(text)
        body.append((style.text(label), texts))
    explained = [f"{style.mark(letter)} {style.text(reason)}" for reason, letter in notes.items()]
    if any(outcome.status == "partial" for outcome in found):
        explained.append(f"{style.mark('†')} {style.text('not all seeds are there; see n')}")
    networks = {outcome.cell.pair: (outcome.cell.teacher, outcome.cell.student) for outcome in found}
    metrics = [metric for _, metric in columns]
    plain = set(metrics) == {"top1"}
    told = {"pair": len(networks) > 1 or plain, "metric": not plain}
    return Layout(
        columns=[style.text(" ".join([pair] * told["pair"] + [metric] * told["metric"])) for pair, metric in columns],
        networks=[(style.text(networks[pair][0]), style.text(networks[pair][1])) for pair, _ in columns],
        metrics=[] if plain else [style.text(metric) for metric in metrics],
        rows=body,
        notes=explained,
        protocol=style.text(protocol(plan)),
    )


def protocol(plan: Plan) -> str:
    """Return how the numbers were made, with what differs from the methods' defaults and from the suite file."""
    seeds = len(plan.suite.seed_list)
    overrides = dict.fromkeys(
        cell.label if cell.overrides in cell.label else f"{cell.label} ({cell.overrides})"
        for cell in plan.cells
        if cell.overrides
    )
    sentences = [
        f"{_measured(plan)}, never the best one; mean ± standard deviation (n - 1) over seeds, their number in "
        f"parentheses; {seeds} asked for; {plan.suite.training.precision}.",
        *_evaluations(plan),
        "Both networks of a pair train together, each the other's teacher, but for the rows teacher and none; "
        f"rows that end in{PEERS} are the teacher's."
        if plan.suite.task == "mutual"
        else "",
        *_teachers(plan),
        f"Not the methods' defaults: {', '.join(overrides)}." if overrides else "",
        f"Changed on the command line: {', '.join(plan.changes)}." if plan.changes else "",
    ]
    return " ".join(filter(None, sentences))


def _measured(plan: Plan) -> str:
    if plan.suite.evaluations:
        return "Percent on the test split after the last epoch of each evaluation"
    return f"Top-1 accuracy in percent on the test split after the last of {plan.suite.training.epochs} epochs"


def _evaluations(plan: Plan) -> Iterator[str]:
    """Yield a sentence on each way in which trained networks are judged, and one on how they were trained."""
    for cell in dict.fromkeys((tuple(cell.metrics), cell.runs[0].task) for cell in plan.cells):
        names, task = cell
        run = next(one for one in plan.cells if tuple(one.metrics) == names).runs[0]
        if run.head is None or run.schedule is None:
            continue
        read = "embedding" if run.head.stage is None else f"stage {run.head.stage}"
        ways = {
            "probe": f"a linear classifier of the frozen {read}",
            "finetune": "all weights and a new linear classifier",
            "segmentation": "all weights and a new head that scores every pixel",
        }
        yield (
            f"{', '.join(name for name in names if _tabled(name))}: {ways[task]}, trained on {described(run.data)} for "
            f"{run.schedule.epochs} epochs (rate {run.schedule.lr:g}, batch {run.schedule.batch_size})."
        )
    if plan.suite.evaluations:
        student = plan.trained(next(cell for cell in plan.cells if cell.method != TEACHER).runs[0])
        if student.schedule is not None and student.head is None:
            yield f"Students trained on {described(student.data)} for {student.schedule.epochs} epochs."
        if plan.suite.task == "cross_modal":
            yield "Students learn from their teachers alone; none is a student with its initial weights."


def _tabled(shown: str) -> bool:
    """Return whether the tables that people read show a metric, by its name there."""
    return shown.endswith(HEADLINES)


def _teachers(plan: Plan) -> Iterator[str]:
    """Yield a sentence for each way in which teachers are not made as students are."""
    student = plan.trained(next(cell for cell in plan.cells if cell.method != TEACHER).runs[0])
    made: dict[str, list[str]] = {}
    for cell in plan.cells:
        if cell.method == TEACHER:
            run = plan.trained(cell.runs[0])
            if run.schedule is None:
                how = "read from a checkpoint"
            else:
                ours, theirs = plan.suite.training, plan.suite.teacher_schedule
                keys = [key for key in TOLD if getattr(ours, key) != getattr(theirs, key)]
                differing = [
                    "" if run.schedule.epochs == ours.epochs else f"after {run.schedule.epochs} epochs",
                    f"with {', '.join(f'{key}={getattr(theirs, key)}' for key in keys)}" if keys else "",
                    ""
                    if run.data == student.data
                    else f"on {described(run.data)}; students on {described(student.data)}",
                ]
                how = " ".join(filter(None, differing))
            if how:
                made.setdefault(how, []).append(cell.teacher)
    for how, networks in made.items():
        yield f"Teacher {', '.join(dict.fromkeys(networks))} {how}."


def described(data: DataSpec) -> str:
    """Return a data set and how much of its training split is used, in words."""
    if data.train_per_class is not None:
        return f"{data.name} ({data.train_per_class} training images a class)"
    if data.train_fraction is not None:
        return f"{data.name} ({100 * data.train_fraction:g} % of the training images)"
    return f"{data.name} (all training images)"


def _rank(outcome: Outcome, column: Sequence[Outcome], metric: str) -> int:
    """Return a finished method's place in its column, from 1; 0 for teacher, student and unfinished cells.

    Where teachers train too, they are compared with each other, and students with students.
    """
    ranked = [
        other
        for other in column
        if other.status == "done"
        and other.cell.method not in (TEACHER, NONE)
        and other.cell.metrics[metric] == outcome.cell.metrics[metric]
    ]
    if outcome not in ranked or len(ranked) < 2:
        return 0
    return 1 + sum(mean(o.values[metric]) > mean(outcome.values[metric]) for o in ranked)


def _letter(index: int) -> str:
    return (_letter(index // 26 - 1) if index >= 26 else "") + chr(ord("a") + index % 26)


def number(value: float, deviation: float | None, n: int) -> str:
    """Return `75.48 ± 0.21 (3)`, or `75.48 (1)` where there is no deviation."""
    spread = "" if deviation is None or math.isnan(deviation) else f" ± {deviation:.2f}"
    return f"{value:.2f}{spread} ({n})"


MARKDOWN = Style(
    number=number,
    best=lambda text: f"**{text}**",
    second=lambda text: f"<u>{text}</u>",
    mark=lambda sign: f"<sup>{sign}</sup>",
    text=lambda text: "".join(f"\\{c}" if c in "\\`*_{}[]<>#|~&$" else c for c in text),
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
# a bracket or a star after a row's end would be an option of that end
TEX = {
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$"},
    **{"[": "{[}", "]": "{]}", "*": "{*}", "|": r"\textbar{}"},
    **{"<": r"\textless{}", ">": r"\textgreater{}", "→": r"$\to$", "—": "---", "†": r"$\dagger$", "τ": r"$\tau$"},
    **{character: f"\\{character}" for character in "&%$#_{}"},
}


def escape_tex(text: str) -> str:
    """Return plain text as LaTeX prints it."""
    return "".join(TEX.get(character, character) for character in text.replace("->", "→"))


LATEX = Style(
    number=lambda value, deviation, n: escape_tex(number(value, deviation, n)),
    best=lambda text: rf"\textbf{{{text}}}",
    second=lambda text: rf"\underline{{{text}}}",
    mark=lambda sign: rf"\textsuperscript{{{escape_tex(sign)}}}",
    text=escape_tex,
    dash="---",
)


def to_markdown(plan: Plan, found: Sequence[Outcome]) -> str:
    """Return the table as Markdown."""
    table = layout(plan, found, MARKDOWN)
    heading = f"| method | {' | '.join(table.columns)} |"
    lines = [
        f"# {MARKDOWN.text(plan.suite.title)}",
        "",
        table.protocol,
        "",
        heading,
        "|---" * (len(table.columns) + 1) + "|",
        *(f"| {label} | {' | '.join(texts)} |" for label, texts in table.rows),
    ]
    notes = ["", *(f"- {note}" for note in table.notes)] if table.notes else []
    return "\n".join([*lines, *notes]) + "\n"


def to_latex(plan: Plan, found: Sequence[Outcome]) -> str:
    """Return the table as a LaTeX float; the document needs the package booktabs."""
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
    template = environment.from_string((files("bench") / "table.tex.j2").read_text(encoding="utf-8"))
    table = layout(plan, found, LATEX)
    return template.render(table=table, title=escape_tex(plan.suite.title), name=plan.name)
