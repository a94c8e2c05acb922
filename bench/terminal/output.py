"""Prints what a command says: its answer to standard output, and warnings to standard error."""

import json
import sys
from collections.abc import Iterable

import typer
from rich.console import Console, RenderableType
from rich.text import Text

from bench.text import fitted, printable

UNBOUNDED = 10_000  # characters, wider than any table


def width() -> int:
    """Return the width of the terminal in characters; a pipe or a file takes tables of any width."""
    return Console().width if sys.stdout.isatty() else UNBOUNDED


def say(parts: Iterable[RenderableType]) -> None:
    """Print tables, and texts as markup, to standard output."""
    console = Console(width=width(), emoji=False, highlight=False)
    for part in parts:
        text = fitted(printable(part), sys.stdout) if isinstance(part, str) else part
        console.print(text, soft_wrap=isinstance(text, str | Text), crop=False)


def say_json(document: object) -> None:
    """Print a document as JSON."""
    typer.echo(json.dumps(document, indent=2))  # ASCII, so any terminal and pipe takes it


def warn(message: str) -> None:
    """Print a plain text to standard error."""
    typer.echo(fitted(printable(message), sys.stderr), err=True)
