"""The commands and their options, from the command line itself."""

import re

from typer import Context
from typer.cli import get_docs_for_click
from typer.main import get_command

from bench.cli import app

NAME = "distill-bench"


def commands() -> str:
    """Return a section per command: what it does, its arguments and its options."""
    group = get_command(app)
    text = get_docs_for_click(obj=group, ctx=Context(group, info_name=NAME), name=NAME, title=NAME)
    _head, sections = re.split(r"(?=^## )", text, maxsplit=1, flags=re.MULTILINE)
    return sections
