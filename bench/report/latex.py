"""The table as LaTeX floats, which need the package booktabs. Imports no torch."""

import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any

import jinja2

from bench.report.caption import protocol, published_source
from bench.report.frame import Column, Frame, Summary
from bench.report.layout import INCOMPLETE, PARTIAL, Style, layout, parts
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
    second=_set_off("underline"),
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
    floats: list[dict[str, Any]] = []
    shown = parts(frame.columns, frame.labels)
    for number, columns in enumerate(shown, start=1):
        table = layout(frame, columns)
        part = f" (part {number} of {len(shown)})" if len(shown) > 1 else ""
        how = escape_tex(protocol(plan)) if number == 1 else rf"As in Table~\ref{{tab:{plan.name}}}."
        one = {
            "caption": f"{escape_tex(plan.suite.title)}{part}. {how}",
            "key": _numbered(plan.name, number),
            "table": table,
            "rows": [[_label(label), *(LATEX.cell(*cell) for cell in cells)] for label, cells in table.rows],
            "notes": [LATEX.note(*note) for note in table.notes],
        }
        floats.append(one)
    compared = [column for column in frame.columns if frame.has_published(column)]
    if compared:
        for number, columns in enumerate(parts(compared, frame.labels), start=1):
            floats.append(_published_float(frame, columns, _numbered(f"{plan.name}-published", number)))
    return ENVIRONMENT.get_template("table.tex.j2").render(floats=floats, text=escape_tex)


def _label(label: str) -> str:
    return "student (none)" if label == NONE else escape_tex(label)


def _numbered(key: str, number: int) -> str:
    """Return the key of a part; the first part has no number."""
    return key if number == 1 else f"{key}-{number}"


def _published_float(frame: Frame, columns: Sequence[Column], key: str) -> dict[str, Any]:
    """Return the table of some columns' published numbers and our differences from them."""
    ours = rf"Table~\ref{{tab:{frame.plan.name}}}"
    table = layout(frame, columns)
    printed = {one.label for one in frame.tabled if one.published is not None}
    rows = {label: [one for one, _ in cells] for label, cells in table.rows if label in printed}
    is_partial = any(_is_partial(one) for results in rows.values() for one in results)
    return {
        "caption": (
            f"{escape_tex(frame.plan.suite.title)}: the published accuracies in percent, and in parentheses the "
            f"differences from them. {escape_tex(published_source(frame.plan))} Ours are in {ours}."
        ),
        "key": key,
        "table": table,
        "rows": [[_label(label), *map(_published, results)] for label, results in rows.items()],
        "notes": [f"{LATEX.note(PARTIAL, INCOMPLETE)} in {ours}"] if is_partial else [],
    }


def _is_partial(one: Summary) -> bool:
    return one.difference is not None and one.status == "partial"


def _published(one: Summary) -> str:
    """Return a published number and our difference from it."""
    text = LATEX.dash if one.published is None else f"{one.published:.2f}"
    if one.difference is not None:
        text += f" ({one.difference:+z.2f})".replace("-", "$-$")
    return text + (LATEX.mark(PARTIAL) if _is_partial(one) else "")
