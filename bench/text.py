"""Text from outside, made safe: for terminals and logs, and for names of files. Imports no torch."""

import hashlib
import logging
import re
import shutil
import sys
import textwrap
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

MAX_NAME = 120  # characters of a file's name: a temporary name is longer, and most file systems allow 255 bytes


def printable(text: str, one_line: bool = False) -> str:
    r"""Return a text with control characters, direction marks and lone surrogates as their codes, such as \x1b.

    Tabs, ends of lines and special spaces stay as they are, unless the text must fit into `one_line`.
    """
    if text.isprintable():
        return text
    return "".join(
        one if one.isprintable() or (_is_space(one) and not one_line) else one.encode("unicode_escape").decode()
        for one in text
    )


def has_controls(text: str) -> bool:
    """Return whether a text has control characters: in messages, a path with a line break would look like two."""
    return re.search(r"[\x00-\x1f\x7f]", text) is not None


def _is_space(one: str) -> bool:
    return one in "\n\t" or unicodedata.category(one) == "Zs"


def duration(seconds: float) -> str:
    """Return a duration in words: in seconds up to two minutes, in minutes up to two hours, then in hours."""
    if seconds <= 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds <= 7200 else f"{seconds / 3600:.1f} h"


def plural(count: int, noun: str) -> str:
    """Return a number of things in words: `1 step`, `1,200 steps`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def file_name(text: str, most: int = MAX_NAME) -> str:
    """Return a text as a part of a file's name: of few kinds of characters; if it is long, its end is its hash."""
    name = re.sub(r"[^A-Za-z0-9.+-]+", "_", text)
    if len(name) <= most:
        return name
    return f"{name[: most - 9]}-{short_hash(text)}"


def shortened(text: str, most: int) -> str:
    """Return a text of at most `most` characters, whose end shows whether it was cut."""
    return text if len(text) <= most else f"{text[: most - 3]}..."


def short_hash(text: str) -> str:
    """Return eight hex digits that two texts are very unlikely to share."""
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:8]


def fitted(text: str, stream: TextIO) -> str:
    """Return a text for a stream: on a terminal, lines are broken between words; a longer word stays whole."""
    if not stream.isatty():
        return text
    columns = shutil.get_terminal_size().columns
    lines = (textwrap.fill(line, columns, break_long_words=False, break_on_hyphens=False) for line in text.split("\n"))
    return "\n".join(lines)


class StderrHandler(logging.StreamHandler):
    """Prints log messages as printable text.

    It looks up `sys.stderr` for each message: a live display replaces it, to print messages above itself.
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Print a message."""
        self.setStream(sys.stderr)
        super().emit(record)

    def format(self, record: logging.LogRecord) -> str:
        """Return a message as text that fits the stream."""
        return fitted(printable(super().format(record)), self.stream)


def log_to_stderr() -> None:
    """Print log messages as lines of text, unless logging is set up already."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[StderrHandler()])
    logging.getLogger("matplotlib").setLevel(logging.WARNING)  # it reports its font cache


@contextmanager
def logging_to_stderr() -> Iterator[None]:
    """Print this project's log messages as lines of text, unless the program shows them; then leave logging as it was.

    The loggers of other packages stay as they are.
    """
    project = logging.getLogger(__name__.partition(".")[0])
    if project.hasHandlers() and project.isEnabledFor(logging.INFO):
        yield
        return
    lines, level, propagate = StderrHandler(), project.level, project.propagate
    project.addHandler(lines)
    project.setLevel(logging.INFO)
    project.propagate = False
    try:
        yield
    finally:
        project.removeHandler(lines)
        project.setLevel(level)
        project.propagate = propagate
