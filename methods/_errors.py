"""Describes exceptions of plug-ins, and says which of them end the process. Imports no torch."""

import re
import signal
import traceback
from collections.abc import Iterable
from pathlib import Path
from types import FrameType
from typing import NoReturn

from bench.text import printable

MAX_TEXT = 300  # characters


def interrupt(number: int, frame: FrameType | None) -> NoReturn:
    """Raise `KeyboardInterrupt`, as Python's own handler of Ctrl-C does; that one leaves no frame in the traceback."""
    raise KeyboardInterrupt


def tell_interruptions() -> None:
    """Let `ends_process` tell Ctrl-C in this process from a `KeyboardInterrupt` that a plug-in raises."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, interrupt)


def ends_process(error: BaseException) -> bool:
    """Return whether an exception was raised by the handler of a signal.

    While Python's own handler of Ctrl-C is set, every `KeyboardInterrupt` counts as raised by it.
    """
    handlers = [signal.getsignal(number) for number in signal.valid_signals()]
    if isinstance(error, KeyboardInterrupt) and signal.default_int_handler in handlers:
        return True
    codes = {getattr(handler, "__code__", None) for handler in handlers}
    frames = traceback.walk_tb(error.__traceback__)
    return any(frame.f_code in codes for frame, _ in frames)


def place(error: BaseException, files: Iterable[str | Path | None]) -> str:
    """Return folder/file:line of the innermost frame of an exception that is in one of the files; "" if none is."""
    known = {Path(file).resolve() for file in files if file is not None}
    frames = [(Path(frame.f_code.co_filename), line) for frame, line in traceback.walk_tb(error.__traceback__)]
    places = [f"{'/'.join(file.parts[-2:])}:{line}" for file, line in frames if file.resolve() in known]
    return places[-1] if places else ""


def described(error: BaseException) -> str:
    """Return an exception's kind and the first line of its text, in printable characters."""
    kind = type(error).__name__
    try:
        text = str(error)
    except BaseException as other:  # the text is computed, by code that may raise anything
        text = f"its text raises {type(other).__name__}"
    if wrapped := re.match(r"Caught (\w+) .*\nOriginal Traceback", text):  # by torch, of a data loading process
        kind = wrapped[1]
        text = re.split(rf"\n[\w.]*{kind}(?:: |\n|$)", text)[-1]
    line = printable((text.strip().splitlines() or [""])[0][: MAX_TEXT + 1], one_line=True)
    return f"{kind}: {line if len(line) <= MAX_TEXT else line[:MAX_TEXT] + '...'}" if line else kind
