"""`new-method`: writes a method's file and its test from templates. Imports no torch."""

import ast
import keyword
import os
import re
from importlib.util import find_spec
from pathlib import Path
from string import Template

import methods
from bench.store import write_whole
from bench.suite import NONE, TEACHER
from bench.types import RequestError
from methods import catalog

OWN = Path(methods.__file__).parent
TEMPLATES = OWN / "templates"
TESTS = Path("tests", "methods")  # in a checkout
RESERVED = {TEACHER, NONE, "base", "catalog"}  # rows of every table, and files in `methods` that are not methods


def write_method(name: str, folder: Path) -> tuple[Path, Path]:
    """Write a method that works as it is, and its test: into the project if `folder` is its checkout, else a plug-in.

    Args:
        name: the method's name in suite files.
        folder: the root of a checkout of this project, or the folder for the plug-in and its test.

    Returns:
        The paths of the method's file and of its test.

    Raises:
        RequestError: the name cannot be used, or one of the files exists; nothing was written.
    """
    title = "".join(word.capitalize() for word in name.split("_"))
    if is_checkout(folder):
        method, test, template = folder / "methods" / f"{name}.py", folder / TESTS / f"test_{name}.py", "test_method"
    else:
        method, test, template = folder / f"{name}.py", folder / f"test_{name}.py", "test_plugin"
    if fault := _fault(name, title, (method, test)):
        raise RequestError(f"new-method {name}: {fault}. Choose another name")
    write_whole(method, _filled("method", name, title))
    write_whole(test, _filled(template, name, title))
    return method, test


def is_checkout(folder: Path) -> bool:
    """Return whether a folder is the root of the checkout whose code runs."""
    return (folder / "methods").resolve() == OWN.resolve() and (folder / TESTS).is_dir()


def _fault(name: str, title: str, paths: tuple[Path, ...]) -> str | None:
    """Return why a name cannot be used for a new method, or None if it can."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name) or keyword.iskeyword(title):
        return "a name has only a-z, 0-9 and '_', begins with a letter, and is not a keyword of Python"
    if taken := catalog().get(name):
        return f"the name is taken by {taken.path}"
    if name in RESERVED or title in _imported():
        return "the name is reserved"
    if existing := [str(path) for path in paths if os.path.lexists(path)]:
        return f"{existing[0]} exists"
    return "a Python module has this name" if find_spec(name) else None


def _imported() -> set[str]:
    """Return the names that a new method's file imports."""
    nodes = ast.walk(ast.parse(_filled("method", "name", "Title")))
    imports = [node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)]
    return {alias.asname or alias.name for node in imports for alias in node.names}


def _filled(template: str, name: str, title: str) -> str:
    text = (TEMPLATES / f"{template}.py.txt").read_text(encoding="utf-8")
    return Template(text).substitute(name=name, title=title)
