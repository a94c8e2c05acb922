"""Processes that begin as forks of a server that has loaded torch: loading it takes longer than what they do."""

import multiprocessing
import os
import pty
import signal
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import SimpleNamespace

import pexpect
import pytest
from pexpect.fdpexpect import fdspawn

from tests.few import short_or_whole, use_few

ROOT = Path(__file__).parents[1]
SIZE = (40, 80)  # of a terminal: lines and columns


def set_up_server() -> None:
    """Let the server of forks, of which a process has one, load `tests.loaded` whenever it starts.

    The reading of images would start one that has loaded little else, and every later fork would load the rest anew.
    """
    multiprocessing.set_forkserver_preload(["tests.loaded"])
    BaseContext.set_forkserver_preload = lambda context, names: None


def server() -> BaseContext:
    """Return the way to start forks of the server."""
    return multiprocessing.get_context("forkserver")


@contextmanager
def forked_children(few: bool = False) -> Iterator[None]:
    """Let processes that the trainer starts be forked, in the short form; else a spawned one loads torch for itself.

    With `few`, the forked ones evaluate on few digits.
    """
    context = SimpleNamespace(Pipe=server().Pipe, Process=_process_on_few) if few else server()
    with pytest.MonkeyPatch.context() as patch:
        if short_or_whole(True, False):
            fake = SimpleNamespace(get_context=lambda _: context, parent_process=multiprocessing.parent_process)
            patch.setattr("bench.train.processes.multiprocessing", fake)
        yield


def _process_on_few(target: Callable[..., object], args: tuple) -> BaseProcess:
    return server().Process(target=_on_few, args=(target, args))


def _on_few(target: Callable[..., object], args: tuple) -> None:
    use_few(pytest.MonkeyPatch())
    target(*args)


def command_line(few: bool, *words: str) -> None:
    """Run the command line in this process.

    Args:
        few: whether to evaluate on few digits and to draw few figures.
        words: its arguments.
    """
    from bench.cli import main

    if few:
        use_few(pytest.MonkeyPatch())
    sys.argv = ["run_suite.py", *words]
    main()


def _as_command(out: str, err: str, environment: Mapping[str, str], few: bool, words: list[str]) -> None:
    """Turn a fork of the server into what a shell starts: it has a session and streams of its own, and hears Ctrl-C."""
    os.setsid()
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for stream, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
    command_line(few, *words)


def take_terminal(path: str) -> None:
    """Let this process lead a session of its own on a terminal, which its streams are from now on."""
    os.setsid()
    terminal = os.open(path, os.O_RDWR)  # the first one that a session opens is its own
    for stream in (0, 1, 2):
        os.dup2(terminal, stream)


def _in_folder(terminal: str, folder: str, words: list[str]) -> None:
    take_terminal(terminal)
    os.chdir(folder)
    command_line(True, *words)


def on_terminal(folder: Path, *words: str) -> tuple[int | None, str]:
    """Run the command line in a folder, on a terminal of 40 lines and 80 columns, and evaluate on few digits.

    It is a fork in the short form of tests, else a fresh interpreter.

    Returns:
        Its exit status, and all that the terminal was sent.
    """
    if not short_or_whole(True, False):
        code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from tests.forks import command_line; "
        code += "command_line(True, *sys.argv[1:])"
        child = pexpect.spawn(
            sys.executable, ["-c", code, *words], cwd=str(folder), dimensions=SIZE, encoding="utf-8", timeout=90
        )
        child.expect(pexpect.EOF)
        child.close()
        return child.exitstatus, child.before
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, SIZE)
    process = server().Process(target=_in_folder, args=(os.ttyname(theirs), str(folder), list(words)))
    process.start()
    terminal = fdspawn(ours, encoding="utf-8", timeout=90)
    terminal.expect(".")  # the process has the terminal, and its end is now the terminal's
    os.close(theirs)
    first = terminal.before + terminal.after
    terminal.expect(pexpect.EOF)
    process.join()
    os.close(ours)
    return process.exitcode, first + terminal.before


class Command:
    """The command line in a process of its own: a fork in the short form of tests, else a fresh interpreter.

    Args:
        words: its arguments.
        streams: a folder for what it prints; each command needs one of its own.
        few: whether it evaluates on few digits.
        environment: variables to set.
        code: the folder of the code; other code than this needs a fresh interpreter.
    """

    def __init__(
        self,
        *words: str | Path,
        streams: Path,
        few: bool = True,
        environment: Mapping[str, str] | None = None,
        code: Path = ROOT,
    ) -> None:
        streams.mkdir(parents=True, exist_ok=True)
        self._out, self._err = streams / "out", streams / "err"
        texts, variables = [str(word) for word in words], dict(environment or {})
        self._forked = self._fresh = None
        if code == ROOT and short_or_whole(True, False):
            arguments = (str(self._out), str(self._err), variables, few, texts)
            self._forked = server().Process(target=_as_command, args=arguments)
            self._forked.start()
            self.pid = self._forked.pid
        else:
            patched = f"import sys; from tests.forks import command_line; command_line({few}, *sys.argv[1:])"
            program = ["-c", patched] if few else ["run_suite.py"]
            with self._out.open("w") as out, self._err.open("w") as err:
                self._fresh = subprocess.Popen(
                    [sys.executable, *program, *texts],
                    cwd=code,
                    env=os.environ | variables,
                    start_new_session=True,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=err,
                )
            self.pid = self._fresh.pid

    def poll(self) -> int | None:
        """Return its exit status, None while it runs."""
        return self._forked.exitcode if self._forked else self._fresh.poll()

    def wait(self, timeout: float = 120) -> int | None:
        """Return its exit status once it has ended."""
        if self._forked:
            self._forked.join(timeout)
            return self._forked.exitcode
        return self._fresh.wait(timeout)

    def send(self, number: int) -> None:
        os.kill(self.pid, number)

    def said(self) -> tuple[str, str]:
        """Return what it has printed on its two streams."""
        return self._out.read_text(), self._err.read_text()
