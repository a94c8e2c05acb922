"""Hashes the code of a method, so that a change of it is noticed. Imports no torch.

The hash covers the method's file and what it imports from beside it: a plug-in's own helper modules, another method.
Comments, white space, docstrings and search spaces do not count. Nor does code of the project that methods share
(`bench`, `methods/_*.py`, `methods/base.py`): when that changes numbers, the versions of the methods concerned are
raised.
"""

import ast
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from bench.reading import read_bytes
from bench.types import RequestError

OWN = Path(__file__).parent
NOT_METHODS = ("base", "catalog")  # imported from outside this folder, so their names have no underscore


@dataclass(frozen=True)
class Code:
    """The code of a method when it was read.

    Attributes:
        path: the method's file.
        helpers: the files beside it that it imports, and that count too.
        sha256: the hash of all of them.
        is_own: whether the method is the project's own: its version says when its numbers change.
        is_plugin: whether its file was given by `--plugin`; `path` is as it was given there.
    """

    path: Path
    helpers: tuple[Path, ...]
    sha256: str
    is_own: bool
    is_plugin: bool

    def made(self, recorded: str) -> bool:
        """Return whether a recorded hash is that of this code; records of earlier versions hash the files' bytes."""
        return recorded == self.sha256 or recorded == self._file_sha256

    @cached_property
    def _file_sha256(self) -> str | None:
        try:
            return _bytes_sha256(self.path)
        except (OSError, SyntaxError, ValueError):
            return None


def code_of(path: Path, module: str | None = None) -> Code:
    """Return the code of a method's file.

    Args:
        path: the file.
        module: the name under which it is imported; None for a file that is imported by its path.

    Raises:
        RequestError: it, or a file beside it that it imports, is not valid Python.
    """
    is_package = module is not None and path.name == "__init__.py"
    root = path.parents[module.count(".") + is_package] if module else path.parent
    package = module.partition(".")[0] if module and ("." in module or is_package) else None
    sources, digest = [path], hashlib.sha256()
    for source in sources:  # grows during the loop
        try:
            text, imports = _parsed(read_bytes(source))
            others = list(_imported(imports, source, root, package))
        except (OSError, SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise RequestError(f"{source}: cannot be read as Python: {error or type(error).__name__}") from error
        sources += [other for other in dict.fromkeys(others) if other not in sources]
        digest.update(text.encode() + b"\0")
    return Code(path, tuple(sources[1:]), digest.hexdigest(), path.parent == OWN, module is None)


@lru_cache(maxsize=256)  # a plan, an import and a report each ask for the code of the same files
def _parsed(content: bytes) -> tuple[str, tuple[ast.Import | ast.ImportFrom, ...]]:
    """Return the code of a file as text that is hashed, and its imports."""
    tree = ast.parse(content)
    imports = tuple(node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom))
    return _text(_without_search_space(_without_docstrings(tree))), imports


def _bytes_sha256(path: Path) -> str:
    """Return the hash that earlier versions recorded: of the bytes of a file and of what it imports from `methods`."""
    sources = [path]
    for source in sources:
        for node in ast.walk(ast.parse(source.read_bytes())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("methods."):
                other = OWN / f"{str(node.module).removeprefix('methods.')}.py"
                if other.stem not in NOT_METHODS and other not in sources:
                    sources.append(other)
    return hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()


def _imported(
    imports: Iterable[ast.Import | ast.ImportFrom], source: Path, root: Path, package: str | None
) -> Iterator[Path]:
    """Yield the files that a file imports and whose code counts.

    Args:
        imports: the file's imports.
        source: the file.
        root: where absolute imports of the method's own modules begin.
        package: the method's package; None if it has none: then any module at `root` counts.
    """
    for node in imports:
        if isinstance(node, ast.Import):
            names, folder = [alias.name for alias in node.names], root
        else:
            base = node.module or ""
            names = [base, *(f"{base}.{alias.name}".lstrip(".") for alias in node.names)]
            above = [folder for folder in source.parents if folder.is_relative_to(root)]
            if node.level > len(above):
                continue  # Python finds nothing above where the imports begin
            folder = above[node.level - 1] if node.level else root
        for parts in (name.split(".") for name in names if name):
            relative = isinstance(node, ast.ImportFrom) and node.level > 0
            if not relative and parts[0] == "methods":
                own = OWN.joinpath(*parts[1:]).with_suffix(".py")
                if len(parts) == 2 and own.is_file() and own.stem not in NOT_METHODS and own.stem[0] != "_":
                    yield own
            elif relative or (parts[0] != "bench" and package in (None, parts[0])):
                whole = folder.joinpath(*parts)
                yield from (file for file in (whole.with_suffix(".py"), whole / "__init__.py") if file.is_file())


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            match node.body:
                case [ast.Expr(ast.Constant(str())), *others]:
                    node.body = others or [ast.Pass()]
    return tree


def _without_search_space(tree: ast.Module) -> ast.Module:
    """Return code without `@register(..., space=)`, which says where to search and changes no run."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            for call in node.decorator_list:
                if isinstance(call, ast.Call):
                    call.keywords = [keyword for keyword in call.keywords if keyword.arg != "space"]
    return tree


def _text(value: object) -> str:
    """Return a syntax tree as ASCII text, equal in all versions of Python: without positions and what is empty."""
    if isinstance(value, list):
        return f"[{','.join(map(_text, value))}]"
    if not isinstance(value, ast.AST):
        return ascii(value)
    if isinstance(value, ast.Constant):
        return f"Constant({value.value!a})"  # without `kind`, which is of the spelling
    if isinstance(value, ast.JoinedStr):  # versions divide the text between its values differently
        parts: list[Any] = [""]
        for part in value.values:
            if isinstance(part, ast.Constant):
                parts[-1] += part.value
            else:
                parts += [part, ""]
        return f"JoinedStr{_text(parts)}"
    fields = [f"{name}={_text(field)}" for name, field in ast.iter_fields(value) if field is not None and field != []]
    return f"{type(value).__name__}({','.join(fields)})"
