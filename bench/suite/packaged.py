"""The suites that come with the package, found by name. Imports no torch."""

import os
from pathlib import Path

from bench.types import RequestError, suggest

INSTALLED = Path(__file__).parents[1] / "suites"
IN_CHECKOUT = Path(__file__).parents[2] / "suites"


def packaged_suites() -> dict[str, Path]:
    """Return the files of the suites that come with the package, by name; small versions are last."""
    folder = INSTALLED if INSTALLED.is_dir() else IN_CHECKOUT
    return {path.stem: path for path in [*sorted(folder.glob("*.yaml")), *sorted(folder.glob("small/*.yaml"))]}


def find_suite(path: Path) -> Path:
    """Return a suite's file, given its path or, for one that comes with the package, its name.

    A file of that path comes first. A path that leads nowhere is returned as it is: reading it says what is wrong.

    Raises:
        RequestError: there is no such file, and the path is a word that names no suite, or a file's name of one.
    """
    if os.path.lexists(path) and not path.is_dir():
        return path
    suites = packaged_suites()
    if str(path) in suites:
        return suites[str(path)]
    if path.stem in suites:
        raise RequestError(f"{path}: there is no such file. To use the suite of the package, write {path.stem}")
    if not os.path.lexists(path) and path.name == str(path) and not path.suffix:
        raise RequestError(f"{path}: there is no such file, and no suite of that name. {suggest(str(path), suites)}")
    return path


def command_word(file: Path) -> str:
    """Return the word that names a suite's file in a command: the name of one that was found by it, else the path."""
    return file.stem if file == packaged_suites().get(file.stem) else str(file)
