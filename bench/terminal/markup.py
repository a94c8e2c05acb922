"""Plain text in the markup that the terminal's tables and lines are written in."""

from rich.markup import escape as escape_markup
from rich.text import Text

from bench.text import printable


def escape(text: str) -> str:
    """Return plain text as markup that shows it, control characters as their codes."""
    return escape_markup(printable(text))


def copyable(text: str) -> Text:
    """Return a text to copy, such as a command: no line break is put into it."""
    return Text(printable(text), no_wrap=True, overflow="ignore")
