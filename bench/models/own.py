"""Networks of users: found in files with `@register_network`, or named as `MODULE:FACTORY`. Imports no torch.

A file registers a network with `@register_network("name")` above a class or function that takes `num_classes` and
`in_channels`; it is given like a method's, with `--plugin` or under `plugins:`. A suite can also name `MODULE:FACTORY`,
which Python imports. What is built is a `Network`, or any other module, whose stages are then found by resolution.
"""

from __future__ import annotations

import ast
import importlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from bench.reading import decorator_calls, file_of_module, import_path
from bench.types import RequestError

REGISTER = "register_network"
FILES: dict[str, Path] = {}  # the file of each network that `add_networks` has found, by name
IMPORTED: dict[Path, bytes] = {}  # the content of a file when it was imported, or its networks were first built
FACTORIES: dict[str, Callable[..., Any]] = {}  # filled by the decorator when files are imported
F = TypeVar("F", bound=Callable[..., Any])


def register_network(name: str) -> Callable[[F], F]:
    """Return a decorator that registers a class or function under the name that suite files use.

    It is called with `num_classes` and `in_channels`, and returns a network for images (B, in_channels, H, W).
    """

    def add(factory: F) -> F:
        FACTORIES[name] = factory
        return factory

    return add


def add_networks(plugins: Iterable[Path], taken: Iterable[str]) -> None:
    """Make the networks that files register known by their names; files without networks are left alone.

    Args:
        plugins: the files.
        taken: the names of other networks.

    Raises:
        RequestError: a file cannot be read, or a name is taken or no plain text.
    """
    taken = set(taken)
    for path in plugins:
        for name in _names(path):
            other = FILES.get(name)
            if name in taken or (other is not None and not _is_same_file(other, path)):
                raise RequestError(f"{path}: the network name {name!r} is taken{f' by {other}' if other else ''}")
            FILES[name] = path


def _is_same_file(one: Path, other: Path) -> bool:
    return one.resolve() == other.resolve() or one.read_bytes() == other.read_bytes()  # or a copy


def file_of(name: str) -> tuple[Path, str | None] | None:
    """Return the file of a user's network, and the module's name for `MODULE:FACTORY`; None for another's network.

    Raises:
        RequestError: there is no such module.
    """
    if name in FILES:
        return FILES[name], None
    if ":" not in name:
        return None
    module = name.partition(":")[0]
    path = file_of_module(module)  # a module of Python itself has no file
    if path is None:
        raise RequestError(f"network {name!r}: Python finds no module {module!r}. Install it, or use --plugin FILE.py")
    return path, module


def users_network(names: Iterable[str]) -> str | None:
    """Return the first of some networks that comes from a user's file; None if none does."""
    return next((name for name in names if file_of(name) is not None), None)


def factory_of(name: str) -> Callable[..., Any]:
    """Return what builds a user's network, after importing its file.

    Raises:
        RequestError: the file cannot be imported, or does not register the network.
    """
    where = FILES.get(name, name)
    try:
        if name not in FILES:
            module, _, attribute = name.partition(":")
            factory = getattr(importlib.import_module(module), attribute)
        else:
            path, content = FILES[name], FILES[name].read_bytes()
            if name not in FACTORIES:
                IMPORTED[path] = content
                import_path(path, f"methods_plugin_{path.stem}")  # as a method in the same file is imported
            elif IMPORTED.setdefault(path, content) != content:  # a method or another network may have imported it
                raise RequestError("it has changed since this process imported it. Start Python again")
            factory = FACTORIES[name]
    except (Exception, SystemExit) as error:  # a user's file may raise anything, or exit
        reason = " ".join(str(error).split())
        raise RequestError(f"network {name!r}: {where} cannot be imported: {type(error).__name__}: {reason}") from error
    return factory


def _names(path: Path) -> list[str]:
    """Return the names under which a file registers networks."""
    try:
        calls = decorator_calls(path)
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise RequestError(f"{path}: cannot be read as a method file or one of networks: {error}") from error
    names = []
    for call in calls:
        if ast.unparse(call.func).rpartition(".")[2] == REGISTER:
            match [*call.args, *(keyword.value for keyword in call.keywords)]:
                case [ast.Constant(str() as name)] if name and not {".", ":"} & set(name):
                    names.append(name)
                case _:
                    raise RequestError(
                        f"{path}: line {call.lineno}: write the name as plain text without '.' and ':', as in "
                        f'@{REGISTER}("my_network")'
                    )
    return names
