"""Pieces of Markdown that the generated pages share."""

from collections.abc import Iterable, Sequence


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; cells are Markdown, of one line each."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def code(value: object, anchor: str = "") -> str:
    """Return a value as code, with an anchor to link to if one is named; nothing for None."""
    if value is None:
        return ""
    return f"`{value}`" + (f"{{ #{anchor} }}" if anchor else "")


def sentence(text: str) -> str:
    """Return a text of several lines as one, with a capital letter, a full stop and no emphasis from its stars."""
    line = " ".join(text.split()).rstrip(".").replace("*", "\\*")
    return f"{line[0].upper()}{line[1:]}."
