"""The methods, from the heads of their files, their constructors and the measured costs."""

import csv
import re
from collections.abc import Iterator
from pathlib import Path

import griffe

from bench.text import plural
from generated.markdown import code, one_line, sentence, table
from generated.suite_file import type_of
from methods import Method, by_family, catalog, costs

ROOT = Path(__file__).parents[2]
SECTION = re.compile(r"^(\w+):\s+(.*?)(?=^\w+:|\Z)", re.DOTALL | re.MULTILINE)  # of a method file's docstring
TITLES = {"Code": "Published code"}  # where other words are clearer on a page
COSTS = ROOT / "results" / "published" / "cost.csv"
COST_COLUMNS = {  # of cost.csv, by their names here
    "stage": "stage",
    "step (ms)": "step_ms",
    "more than none (%)": "own_percent",
    "peak memory (MB)": "peak_mb",
    "extra parameters": "extra_parameters",
    "GFLOP": "step_gflop",
}


def overview() -> str:
    """Return a table of the methods of each family."""
    headings = [
        "method",
        "year",
        "reads",
        "initial stage",
        "variant",
        "more arithmetic (%)",
        "weight",
        "weight of cross-entropy",
    ]
    families = by_family(catalog().values()).items()
    return "\n".join(f"**{family}**\n\n{table(headings, map(overview_row, members))}" for family, members in families)


def overview_row(method: Method) -> list[str]:
    """Return a method's row in the table of its family."""
    initial = "yes" if method.has_initial_stage else ""
    variant = "reference" if method.variant else ""
    link = f"[{code(method.name)}](#{method.name})"
    weights = [f"{method.weight:g}", f"{method.task_weight:g}"]
    counted = costs().get(method.name)
    arithmetic = f"{counted.arithmetic_percent:.3g}" if counted else ""
    return [link, str(method.year), one_line(method.reads), initial, variant, arithmetic, *weights]


def each() -> str:
    """Return a section per method."""
    return "\n".join("\n".join(section(method)) for method in catalog().values())


def headline(method: Method) -> str:
    """Return the first line of a method's file: its name and what it does."""
    return method.summary.partition("\n")[0].rstrip(".")


def section(method: Method) -> Iterator[str]:
    """Yield the lines of a method's section."""
    yield f"## {method.name}\n"
    yield f"**{headline(method)}**\n"
    for title, text in SECTION.findall(method.summary.partition("\n")[2]):
        if title == "Formula":
            yield f"```text\n{lined_up(text)}\n```\n"
        else:
            yield f"**{TITLES.get(title, title)}:** {one_line(text)}\n"
    if method.variant:
        yield f"**Variant:** reference: {method.variant}.\n"
    yield parameters(method) if method.parameters else "A suite file can set no parameters of it besides the weight.\n"
    yield cost(method)


def lined_up(text: str) -> str:
    """Return the lines of a formula without the indentation that they share."""
    first, *rest = text.rstrip().split("\n")
    indented = min((len(line) - len(line.lstrip()) for line in rest), default=0)
    return "\n".join([first, *(line[indented:] for line in rest)])


def parameters(method: Method) -> str:
    """Return a table of what a suite file may set, with the constructor's words for it."""
    meanings = described(method)
    rows = [
        [code(name), type_of(parameter.adapter.json_schema()), code(parameter.default), meanings.get(name, "")]
        for name, parameter in method.parameters.items()
    ]
    return table(["parameter", "type", "default", "meaning"], rows)


def described(method: Method) -> dict[str, str]:
    """Return the constructor's descriptions of its parameters, its own and inherited ones."""
    sections: dict[str, str] = {}
    own = griffe.load(f"methods.{method.name}")[method.title]
    for owner in (own, *own.mro()):
        constructor = owner.members.get("__init__")
        for section in constructor.docstring.parse("google") if constructor and constructor.docstring else ():
            if section.kind is griffe.DocstringSectionKind.parameters:
                for one in section.value:
                    sections.setdefault(one.name, sentence(one.description))
    return sections


def measured(method: Method) -> list[dict[str, str]]:
    """Return the published measurements of a method at its defaults, one row per stage."""
    with COSTS.open(encoding="utf-8", newline="") as file:
        return [row for row in csv.DictReader(file) if row["label"] == method.title]


def cost(method: Method) -> str:
    """Return what a method's step costs: what was counted and, where it was measured, a table per stage."""
    if (counted := costs().get(method.name)) is None:
        return "Its cost has not been counted.\n"
    more = plural(counted.parameters, "more parameter")
    text = f"**Cost** (resnet32x4 to resnet8x4): {counted.arithmetic_percent:.3g} % more arithmetic, {more}.\n"
    rows = [[shortened(row[column]) for column in COST_COLUMNS.values()] for row in measured(method)]
    return f"{text}\n{table(list(COST_COLUMNS), rows)}" if rows else text


def shortened(cell: str) -> str:
    """Return a measured number with three digits, and anything else as it is."""
    return f"{float(cell):.3g}" if "." in cell else cell
