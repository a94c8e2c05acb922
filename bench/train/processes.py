"""Child processes on this machine: they end with their parent, which learns how each one has ended."""

import multiprocessing
import os
import shutil
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Literal

from bench.types import RequestError
from methods._errors import tell_interruptions


class ProcessLostError(Exception):
    """A process has died or does not answer; `details` is a traceback, or "".

    The reason is a sentence; for a child, only its predicate, such as "has died (signal 9)".
    """

    def __init__(self, reason: str, details: str = "") -> None:
        super().__init__(reason, details)
        self.details = details

    def __str__(self) -> str:
        return self.args[0]


@dataclass(frozen=True)
class Child:
    """A child process and the pipe to which it writes None when it starts and the exception if it fails."""

    process: BaseProcess
    messages: Connection

    def wait_until_started(self) -> bool:
        """Return True once the process runs its target, False if it died before."""
        try:
            self.messages.recv()
        except EOFError:
            return False
        return True

    def failure(self) -> RequestError | ProcessLostError | None:
        """Return how the process failed, after it has ended; None if it did not."""
        error = None
        with suppress(EOFError, OSError):
            while self.messages.poll():
                error = self.messages.recv()
        status = self.process.exitcode
        if error is None and status:
            how = f"signal {-status}" if status < 0 else f"exit status {status}"
            return ProcessLostError(f"has died ({how})")
        return error


@contextmanager
def children(
    targets: Sequence[Callable[[], object]],
    leftover: Path | None = None,
    ignored: Sequence[int] = (),
    start: Literal["spawn", "fork"] = "spawn",
) -> Iterator[list[Child]]:
    """Start one process per target; yield the processes and end them with the block.

    A target is pickled, unless processes are forked. A forked process cannot use a GPU, and has one thread.

    If this process is killed, its children end too, and remove the folder `leftover`. They ignore the signals
    `ignored`, which this process handles.
    """
    context: Any = multiprocessing.get_context(start)
    started: list[Child] = []
    try:
        for target in targets:
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(target=_run, args=(target, theirs, leftover, ignored))
            process.start()
            theirs.close()  # only the child's end remains, so its death closes the pipe
            started.append(Child(process, ours))
        yield started
    finally:
        for child in started:
            child.process.kill()
            child.process.join()
            child.messages.close()


def ended(started: Iterable[Child], timeout_s: float | None = None) -> Iterator[Child]:
    """Yield each process when it has ended, until all have ended or the time is over."""
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    running = list(started)
    while running:
        remaining = None if deadline is None else max(0.0, deadline - time.monotonic())
        sentinels = wait([child.process.sentinel for child in running], remaining)
        if not sentinels:
            return
        for child in [child for child in running if child.process.sentinel in sentinels]:
            running.remove(child)
            child.process.join()
            yield child


def _run(target: Callable[[], object], messages: Connection, leftover: Path | None, ignored: Sequence[int]) -> None:
    """Call the target in a child process and report a failure to the parent."""
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)
    tell_interruptions()
    threading.Thread(target=_end_with_parent, args=(leftover,), daemon=True).start()
    messages.send(None)
    try:
        target()
    except KeyboardInterrupt:
        return  # Ctrl-C reaches the parent too, which reports it
    except RequestError as error:
        messages.send(error)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        messages.send(ProcessLostError(f"has ended: {reason}", "".join(traceback.format_exception(error))))
    else:
        return
    os._exit(1)  # exit handlers may wait for a device that waits for other processes


def _end_with_parent(leftover: Path | None) -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None  # only children call this
    parent.join()
    if leftover is not None:
        shutil.rmtree(leftover, ignore_errors=True)
    os._exit(1)
