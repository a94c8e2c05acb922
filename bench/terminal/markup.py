"""Plain text in the markup that the terminal's tables and lines are written in."""

from rich.markup import escape as escape_markup

from bench.text import printable


def escape(text: str) -> str:
    """Return plain text as markup that shows it, control characters as their codes."""
    return escape_markup(printable(text))
