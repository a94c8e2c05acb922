"""Standard output and error that may be closed or full, and what a terminal shows while a command works.

What cannot be written is lost, and a command continues, since its files matter more. Its exit status shows the loss.
"""

import errno
import io
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.live import Live
from rich.text import Text

T = TypeVar("T")


@contextmanager
def doing(what: str) -> Iterator[None]:
    """Show on a terminal what the command does, until the block ends."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield
        return
    with Live(
        Text(f"{what} ..."), console=console, auto_refresh=False, transient=True
    ):  # no thread: it would slow `cost`
        yield


def each(what: str, items: Iterable[T]) -> Iterator[T]:
    """Yield items and show on a terminal what the command does until it has the next one."""
    iterator, end = iter(items), object()
    while True:
        with doing(what):
            item = next(iterator, end)
        if item is end:
            return
        yield item  # type: ignore[misc]  # not `end`


def counted(what: str, items: Iterable[T], count: int) -> Iterator[T]:
    """Yield items, and show on a terminal how many of them there have been; nothing where there are none."""
    from rich.progress import Progress  # takes a while to import

    console = Console(stderr=True)
    if not (count and console.is_terminal):
        yield from items
        return
    with Progress(console=console, auto_refresh=False, transient=True) as bar:
        task = bar.add_task(what, total=count)
        bar.refresh()
        for item in items:
            bar.advance(task)
            bar.refresh()
            yield item


class _Tolerant(io.FileIO):
    """A file that remembers the error of a write and does not raise it."""

    error: OSError | None = None

    def write(self, data: object) -> int:
        """Write bytes; return their number, also if they could not be written."""
        try:
            return super().write(data)  # type: ignore[arg-type]
        except BrokenPipeError:  # its reader has left, as `| head` does: nothing is wrong
            pass
        except OSError as error:
            self.error = error
        return memoryview(data).nbytes  # type: ignore[arg-type]


def tolerate() -> _Tolerant | None:
    """Replace the process's standard output and error; return the former's file, or None if it is captured."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number; otherwise, a file of the store would
    _replace("stderr", 2, "backslashreplace")
    return _replace("stdout", 1, "replace")


def _replace(name: str, number: int, errors: str) -> _Tolerant | None:
    stream = getattr(sys, name)
    if stream is not getattr(sys, f"__{name}__"):
        return None
    file = _Tolerant(number, "wb", closefd=False)
    if stream is None:
        file.error = OSError(errno.EBADF, os.strerror(errno.EBADF))
    else:
        stream.flush()
    settings = {"encoding": stream.encoding, "line_buffering": stream.line_buffering} if stream else {}
    setattr(sys, name, io.TextIOWrapper(io.BufferedWriter(file), errors=errors, **settings))
    return file
