"""Opens files that come from outside: only regular ones, with errors that name the file. Imports no torch."""

import ast
import importlib.util
import stat
import sys
from importlib.machinery import PathFinder
from io import BufferedReader
from pathlib import Path

from bench.types import RequestError

KINDS = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket"}  # others are devices


def check_regular(path: Path) -> None:
    """Raise unless the path leads to a regular file, before anything opens it: a FIFO blocks, a device may never end.

    Raises:
        FileNotFoundError: there is no such file.
        RequestError: it is not a regular file, or the path cannot be followed (a loop, a long name, no permission).
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError as error:
        if path.is_symlink():
            raise RequestError(f"{path}: is a link to {path.readlink()}, which does not exist. Replace it") from error
        raise
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        raise unreadable(path, error) from error
    if not stat.S_ISREG(mode):
        kind = KINDS.get(stat.S_IFMT(mode), "a device")
        raise RequestError(f"{path}: is {kind}, where a regular file is expected. Replace it, or name another file")


def check_folder(option: str, folder: Path) -> None:
    """Raise a `RequestError` that names an option unless its folder exists or can be created."""
    for path in (folder, *folder.parents):
        try:
            is_folder = stat.S_ISDIR(path.stat().st_mode)
        except FileNotFoundError:
            is_folder = not path.is_symlink()
        except (NotADirectoryError, ValueError):
            continue  # a parent is a file, and named next
        except OSError as error:
            raise RequestError(f"{option} {folder}: {error.strerror}. Name another folder") from None
        if not is_folder:
            raise RequestError(f"{option} {folder}: {path} is a file. Name a folder; it is created if missing")


def open_regular(path: Path) -> BufferedReader:
    """Return a regular file, open for reading bytes; raises as `check_regular`."""
    check_regular(path)
    try:
        return path.open("rb")
    except FileNotFoundError:
        raise
    except OSError as error:
        raise unreadable(path, error) from error


def read_bytes(path: Path) -> bytes:
    """Return a regular file's content; raises as `check_regular`."""
    with open_regular(path) as file:
        try:
            return file.read()
        except (OSError, MemoryError) as error:
            raise unreadable(path, error) from error


def unreadable(path: Path, error: BaseException) -> RequestError:
    """Return the error for a file that cannot be read."""
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    return RequestError(f"{path}: cannot be read: {reason}")


def decorator_calls(path: Path) -> list[ast.Call]:
    """Return the calls above the classes and functions of a Python file, which is not imported.

    Raises:
        OSError, SyntaxError, ValueError, RecursionError, MemoryError: it cannot be read as Python.
        RequestError: it is not a regular file.
    """
    check_regular(path)
    tree = ast.parse(path.read_text(encoding="utf-8"))
    defined = [node for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)]
    return [call for node in defined for call in node.decorator_list if isinstance(call, ast.Call)]


def file_of_module(name: str) -> Path | None:
    """Return the file of a module by its dotted name, or None if Python finds none.

    Unlike `importlib.util.find_spec`, this does not import the packages that contain it: they may run any code.
    """
    first, *others = name.split(".")
    try:
        spec = importlib.util.find_spec(first)
    except (ImportError, ValueError):  # ValueError: of a module without a specification, such as `__main__`
        return None
    for part in others:
        if spec is None or spec.submodule_search_locations is None:
            return None
        # by its last name: the whole name of a folder without __init__.py would need its parents in sys.modules
        spec = PathFinder.find_spec(part, list(spec.submodule_search_locations))
    return Path(spec.origin) if spec is not None and spec.origin is not None and spec.has_location else None


def import_path(path: Path, name: str) -> None:
    """Import a Python file under a name; raises an ImportError without .py and any error that the file raises."""
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError("its name does not end in .py")
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[name] = loaded  # pickle and dataclasses look up a class's module there
    spec.loader.exec_module(loaded)
