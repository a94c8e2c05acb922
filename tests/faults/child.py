"""The product's command line in forks, with faults on demand."""

import errno
import os
import sys
from pathlib import Path

import pytest

from bench.cli import main
from bench.data import packaged
from tests.few import use_few
from tests.forks import take_terminal

CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate"}
FAULTS = {"full": errno.ENOSPC, "read-only": errno.EROFS, "quota": errno.EDQUOT, "broken": errno.EIO}


def prepare(words: list[str]) -> None:
    """Let this process take little time for all but training and writing."""
    patch = pytest.MonkeyPatch()
    use_few(patch)
    few_digits = packaged.digits

    def fewer_digits(spec, root):
        train, test = few_digits(spec, root)
        return train, test and (test[0][:20], test[1][:20])

    patch.setattr(packaged, "digits", fewer_digits)
    sys.argv = ["run_suite.py", *words]


def run(words: list[str], log: Path, results: Path, fault: str = "", at: int = 0) -> None:
    """Run the command line, prepared as above.

    Args:
        words: the arguments of the command line.
        log: the file for what it prints.
        results: the folder whose changes are counted.
        fault: "killed", or a key of `FAULTS`; "" for none.
        at: the number of the change, from 1, at which the process is killed, or from which on each change fails.
    """
    os.setsid()
    for stream in (1, 2):
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    prepare(words)
    if fault:
        inject(results, fault, at)
    main()


def inject(results: Path, fault: str, at: int) -> None:
    """Let the process die, or each change fail, from the given change of the folder on."""
    seen, prefix = 0, str(results)

    def hook(event: str, arguments: tuple) -> None:
        nonlocal seen
        changes = event in CHANGES or (event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR))
        if not changes or not str(arguments[0]).startswith(prefix):
            return
        seen += 1
        if seen < at:
            return
        if fault == "killed":
            os.kill(os.getpid(), 9)
        raise OSError(FAULTS[fault], os.strerror(FAULTS[fault]), str(arguments[0]))

    sys.addaudithook(hook)


def on_terminal(words: list[str], log: Path, results: Path, terminal: str) -> None:
    """Run the command line with that terminal as the controlling one; its end is the end of the session."""
    take_terminal(terminal)
    prepare(words)
    main()
