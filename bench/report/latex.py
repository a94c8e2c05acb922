"""Fills `table.tex.j2`, the table as LaTeX floats (package booktabs), with escaped text. Imports no torch."""

import re
import unicodedata
from collections.abc import Callable, Iterable
from typing import Any

import jinja2

from bench.report.caption import caption, published_source
from bench.report.frame import Frame
from bench.report.layout import INCOMPLETE, PARTIAL, Layout, Style, layout, parts
from bench.report.regime import regime_line
from bench.report.summary import Summary
from bench.suite import NONE


def _greek(letter: str) -> str:
    """Return LaTeX's name for a Greek letter, which is that of Unicode except for "lamda"."""
    name = unicodedata.name(letter).split()[-1].replace("LAMDA", "LAMBDA")
    return name.capitalize() if letter.isupper() else name.lower()


MAX_UNBROKEN, BREAK = 25, "\N{ZERO WIDTH SPACE}"
MATHS = {"≤": "leq", "≥": "geq", "≠": "neq", "≈": "approx", "∞": "infty", "±": "pm", "†": "dagger"}
MATHS |= {"↑": "uparrow", "↓": "downarrow", "→": "to"}
MATHS |= {letter: _greek(letter) for letter in "αβγδεζηθικλμνξπρστυφχψωΓΔΘΛΞΠΣΥΦΨΩ"}
NAMED = {"\\": "textbackslash", "~": "textasciitilde", "^": "textasciicircum", "|": "textbar"}
NAMED |= {"<": "textless", ">": "textgreater", BREAK: "allowbreak"}
TEX = {"\N{MINUS SIGN}": "$-$", "—": "---"}
TEX |= {sign: rf"$\{name}$" for sign, name in MATHS.items()}
TEX |= {character: rf"\{name}{{}}" for character, name in NAMED.items()}
TEX |= {character: f"\\{character}" for character in "&%$#_{}"}
TEX |= {character: f"{{{character}}}" for character in "[]*"}  # else they would be an option of a row's end
# characters that LaTeX prints without packages: ASCII, and the Latin letters, quotes and signs of its first font
PRINTED = {chr(code) for code in range(0x20, 0x7F)}
PRINTED |= {chr(code) for code in range(0xA1, 0x180)}
PRINTED |= {*"\u2013\u2018\u2019\u201c\u201d…•"}
PRINTED -= {*"«»ÐÞðþĄąĐđĘęĦħĮįĸĿŀŉŊŋŦŧŲųſ\xad"}


def escape_tex(text: str) -> str:
    """Return plain text as LaTeX source; characters that it cannot print are written as their code, such as U+4E2D.

    Longer words than `MAX_UNBROKEN` characters, such as paths, may break after every `MAX_UNBROKEN` characters.
    """
    plain = unicodedata.normalize("NFC", text.replace("->", "→"))
    breakable = re.sub(rf"\S{{{MAX_UNBROKEN}}}(?=\S)", rf"\g<0>{BREAK}", plain)
    return "".join(TEX.get(one, one if one in PRINTED else f"U+{ord(one):04X}") for one in breakable)


def _number(text: str) -> str:
    """Return a number with its mean in normal size and the rest in a smaller one."""
    mean, _, rest = text.partition(" ")
    return rf"{mean} {{\scriptsize {escape_tex(rest)}}}"


def _set_off(command: str) -> Callable[[str], str]:
    """Return a function that applies a command to the mean of a number."""
    return lambda text: re.sub(r"^\S+", lambda mean: rf"\{command}{{{mean[0]}}}", text)


LATEX = Style(
    text=escape_tex,
    mark=lambda sign: rf"\textsuperscript{{{escape_tex(sign)}}}",
    best=_set_off("textbf"),
    number=_number,
    dash="---",
)


ENVIRONMENT = jinja2.Environment(
    loader=jinja2.PackageLoader("bench.report", "."),
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
)


def to_latex(frame: Frame) -> str:
    """Return table.tex: one float per part of the table, and the published numbers."""
    plan = frame.plan
    title, ours = escape_tex(plan.suite.title), rf"Table~\ref{{tab:{plan.name}}}"
    floats: list[dict[str, Any]] = []
    shown = parts(frame.columns, frame.labels)
    for number, columns in enumerate(shown, start=1):
        table = layout(frame, columns)
        part = f" (part {number} of {len(shown)})" if len(shown) > 1 else ""
        how = escape_tex(caption(frame)) if number == 1 else f"As in {ours}."
        rows = [(label, [LATEX.cell(*cell) for cell in cells]) for label, cells in table.rows]
        notes = [LATEX.note(*note) for note in table.notes]
        if number == len(shown) and (said := regime_line(frame)):
            notes.append(escape_tex(said))
        floats.append(_float(plan.name, number, f"{title}{part}. {how}", table, rows, notes))
    compared = [column for column in frame.columns if frame.has_published(column)]
    printed = {one.label for one in frame.tabled if one.published is not None}
    for number, columns in enumerate(parts(compared, frame.labels), start=1):
        table = layout(frame, columns)
        text = (
            f"{title}: the published accuracies in percent, and in parentheses the differences from them. "
            f"{escape_tex(published_source(plan))} Ours are in {ours}."
        )
        rows = [(label, [_published(one) for one, *_ in cells]) for label, cells in table.rows if label in printed]
        is_partial = any(LATEX.mark(PARTIAL) in text for _, texts in rows for text in texts)
        notes = [f"{LATEX.note(PARTIAL, INCOMPLETE)} in {ours}"] if is_partial else []
        floats.append(_float(f"{plan.name}-published", number, text, table, rows, notes))
    return ENVIRONMENT.get_template("table.tex.j2").render(floats=floats, text=escape_tex)


def _float(
    name: str, number: int, caption: str, table: Layout, rows: Iterable[tuple[str, list[str]]], notes: list[str]
) -> dict[str, Any]:
    """Return a part of a table for the template; the key of the first part has no number."""
    texts = [["student (none)" if label == NONE else escape_tex(label), *cells] for label, cells in rows]
    key = name if number == 1 else f"{name}-{number}"
    height = f"{_height_left(caption, notes):.2f}"
    return {"caption": caption, "key": key, "table": table, "rows": texts, "notes": notes, "height": height}


def _height_left(caption: str, notes: list[str]) -> float:
    """Return the share of a page's height that caption and notes leave for a table, in an article of 10 points.

    It has 550 points. A line of the caption has 9.5 points and about 80 characters, one of the notes 8 and 90.
    """
    taken = 9.5 * len(caption) / 80 + 8 * len("; ".join(notes)) / 90 + 35  # points; 35 are gaps
    return min(0.58, max(0.2, 1 - taken / 550))


def _published(one: Summary) -> str:
    text = LATEX.dash if one.published is None else f"{one.published:.2f}"
    if one.difference is not None:
        text += f" ({one.difference:+z.2f})".replace("-", "$-$")
        text += LATEX.mark(PARTIAL) if one.status == "partial" else ""
    return text
