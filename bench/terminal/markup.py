"""Escapes text for the markup of the terminal's tables and lines."""

from rich.markup import escape as escape_markup
from rich.text import Text

from bench.text import printable


def escape(text: str) -> str:
    """Return plain text as markup that shows it, control characters as their codes."""
    return escape_markup(printable(text))


def copyable(text: str) -> Text:
    """Return a text to copy, such as a command: the command line puts no line break into it."""
    return Text(printable(text))
