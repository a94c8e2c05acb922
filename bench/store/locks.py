"""Locks in a store: one thread of one process on one machine holds each of them at a time. Imports no torch."""

import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from bench.reading import check_regular
from bench.store.files import writing

_ONE_THREAD = threading.RLock()  # the file lock separates processes, but not the threads of one


@contextmanager
def locked(path: Path, touches: bool) -> Iterator[float]:
    """Hold the lock of a file, and yield the file's modification time in seconds: now, if the lock `touches` it.

    Raises:
        NotWrittenError: the file cannot be made or locked.
        RequestError: it is not a regular file.
    """
    with _ONE_THREAD:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileNotFoundError):
                check_regular(path)
            file = path.open("a")
        with file:
            with writing(path):
                fcntl.lockf(file, fcntl.LOCK_EX)  # closing the file releases it, as does the death of a process
                if touches:
                    os.utime(path)
                now = path.stat().st_mtime
            yield now
