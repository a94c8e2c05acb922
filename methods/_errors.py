"""Exceptions of plug-ins: their texts, and which of them end the process. Imports no torch."""

import re
import signal
import traceback

from bench.text import printable

MAX_TEXT = 300  # characters


def ends_process(error: BaseException) -> bool:
    """Return whether an exception is an interruption, or was raised by the handler of a signal."""
    handlers = (signal.getsignal(number) for number in signal.valid_signals())
    codes = {getattr(handler, "__code__", None) for handler in handlers}
    frames = traceback.walk_tb(error.__traceback__)
    return isinstance(error, KeyboardInterrupt) or any(frame.f_code in codes for frame, _ in frames)


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
