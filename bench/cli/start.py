"""Starts the command line: the word `run` may be left out, and output that cannot be written is an error."""

import os
import re
import sys
from functools import cache
from typing import Any

from typer.main import get_command

from bench.cli.commands import app
from bench.cli.group import RUN_FAILED, WRONG_REQUEST
from bench.program import INSTALLED, started_as
from bench.terminal.output import warn
from bench.terminal.streams import tolerate
from bench.text import log_to_stderr
from bench.types import suggest

COMPLETION = {"--install-completion", "--show-completion"}


def _with_command(words: list[str]) -> list[str]:
    """Return the words of a command line, beginning with `run` if no command is named.

    A word that is neither a command, a file nor a suite's name is reported, with exit status 2.
    """
    commands = {command.name or "" for command in app.registered_commands}
    if not words or words[0] in {*commands, "--help", "--version", *COMPLETION}:
        return words
    first = words[0]
    if re.fullmatch(r"\w[\w-]*", first) and not os.path.exists(first):
        from bench.suite.packaged import packaged_suites

        if first not in (suites := packaged_suites()):
            known = {**dict.fromkeys(sorted(commands)), **suites}
            warn(f"{first}: is neither a command nor a suite. {suggest(first, known)}")
            sys.exit(WRONG_REQUEST)
    return ["run", *words]


@cache
def _command() -> Any:  # noqa: ANN401
    """Return the commands as click has them. A process that runs several builds them once: that takes 20 ms."""
    return get_command(app)


def main() -> None:
    """Run the command line; without a command, the word `run` is understood: `distill-bench SUITE.yaml`."""
    # Waiting threads sleep after a short spin: no slower on an idle machine, ten times as fast on a shared one.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    output = tolerate()
    log_to_stderr()
    words = _with_command(sys.argv[1:])
    try:
        # shells complete no script
        _command()(words, prog_name=started_as() if COMPLETION.isdisjoint(words) else INSTALLED)
    except SystemExit as end:
        sys.stdout.flush()
        if output is None or output.error is None:
            raise
        warn(f"standard output cannot be written: {output.error.strerror}")
        sys.exit(end.code or RUN_FAILED)
