"""Standard output and error that may be closed, full, or of another encoding.

What cannot be written is lost, and a command goes on, since its files matter more. Its exit status tells.
"""

import errno
import io
import os
import sys


class _Tolerant(io.FileIO):
    """A file that remembers the error of a write, and does not raise it."""

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
