"""Pieces of Markdown that the generated pages share."""

from collections.abc import Iterable, Sequence


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; cells are Markdown, of one line each."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def code(value: object) -> str:
    """Return a value as code; nothing for None."""
    return "" if value is None else f"`{value}`"


def one_line(text: str) -> str:
    """Return a text of several lines as one, without emphasis from its stars."""
    return " ".join(text.split()).replace("*", "\\*")


def sentence(text: str) -> str:
    """Return a text as one line that begins with a capital letter and ends with a full stop."""
    line = one_line(text).rstrip(".")
    return f"{line[0].upper()}{line[1:]}."
