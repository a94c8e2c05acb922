"""Reads YAML with the position of every value, and applies `--set KEY=VALUE`. Imports no torch."""

import json
import re
from pathlib import Path
from typing import Any

import yaml

from bench.types import RequestError, suggest

MAX_FILE_BYTES = 1_000_000
MAX_VALUES = 100_000  # with aliases expanded: a few lines of YAML can expand to billions

KeyPath = tuple[str | int, ...]  # the keys and indices that lead to a value of the document
Positions = dict[KeyPath, str]  # where messages say that a value is: `FILE:LINE` or `--set KEY=VALUE`


def read_yaml(path: Path) -> tuple[dict[str, Any], Positions]:
    """Return the mapping of a YAML file, and the position `FILE:LINE` of each key and item, lines counted from 1.

    Raises:
        RequestError: the file is missing, invalid or too large, has a key twice, or is not plain data.
    """
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise RequestError(f"{path}: larger than {MAX_FILE_BYTES} bytes; a suite file is about a page of text")
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        similar = suggest(path.name, [file.name for file in path.parent.glob("*.yaml")]) if path.parent.is_dir() else ""
        raise RequestError(f"{path}: there is no such file. {similar}".strip()) from None
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"{path}: cannot be read: {error}") from None
    positions: Positions = {}
    document = _parse(text, str(path), (), positions, numbered=True)
    if not isinstance(document, dict):
        kind = "an empty file" if document is None else f"one {type(document).__name__}"
        raise RequestError(f"{path}: found {kind}, not a mapping of keys to values; see the example in the README")
    return document, positions


def _parse(text: str, where: str, key_path: KeyPath, positions: Positions, numbered: bool = False) -> object:
    """Return the plain data of a YAML text, and add the positions of its keys and items: `where`, maybe with a line."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        if root is None:
            return None
        _note_positions(root, where, key_path, positions, numbered)  # before `safe_load`, which expands every alias
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RequestError(f"{where}: is not valid YAML, or not plain data: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise RequestError(f"{where}: is nested too deeply") from None
    except (ValueError, AttributeError, TypeError, KeyError) as error:  # such as `!!int x`
        raise RequestError(f"{where}: a value does not fit its tag: {error}") from None


def _note_positions(node: yaml.Node, where: str, key_path: KeyPath, positions: Positions, numbered: bool) -> None:
    here = f"{where}:{node.start_mark.line + 1}" if numbered else where
    positions.setdefault(key_path, here)
    if len(positions) > MAX_VALUES:
        raise RequestError(f"{where}: expands to more than {MAX_VALUES} values")
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            inner = (*key_path, str(key.value))
            at_key = f"{where}:{key.start_mark.line + 1}" if numbered else where
            _check_printable(str(key.value), at_key)
            if inner in positions:
                raise RequestError(f"{at_key}: {dotted(inner)}: the same key twice, first at {positions[inner]}")
            positions[inner] = at_key
            _note_positions(key, where, inner, positions, numbered)
            _note_positions(value, where, inner, positions, numbered)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            _note_positions(item, where, (*key_path, index), positions, numbered)
    else:
        _check_printable("".join(node.value.split()), here)


def _check_printable(text: str, position: str) -> None:
    if not text.isprintable():
        raise RequestError(f"{position}: found {json.dumps(text)[:60]}: control characters are not allowed")


def override(document: dict[str, Any], positions: Positions, change: str) -> None:
    """Apply a change `KEY=VALUE`, with a dotted key and a YAML value, to a document and its positions."""
    key, equals, text = change.partition("=")
    shown = change if len(change) <= 100 else f"{change[:97]}..."
    where = f"--set {shown}"
    if not equals or not re.fullmatch(r"\w+(\.\w+)*", key):
        raise RequestError(f"{where}: write it as KEY=VALUE, for example --set training.epochs=2")
    key_path = tuple(key.split("."))
    for other in list(positions):
        if other[: len(key_path)] == key_path:
            del positions[other]
    value = _parse(text, where, key_path, positions)
    *parents, last = key_path
    for depth, parent in enumerate(parents, start=1):
        document = document.setdefault(parent, {})
        if not isinstance(document, dict):
            whole = f"--set '{dotted(key_path[:depth])}=...'"
            raise RequestError(f"{where}: {parent!r} is not a mapping in the suite file; set it as a whole: {whole}")
        positions.setdefault(key_path[:depth], where)
    positions.setdefault(key_path, where)
    document[last] = value


def frozen(value: object) -> object:
    """Return plain data with tuples instead of lists and text as keys, which the strict models require."""
    if isinstance(value, dict):
        return {str(key): frozen(item) for key, item in value.items()}
    if isinstance(value, list):
        return tuple(frozen(item) for item in value)
    return value


def dotted(key_path: KeyPath) -> str:
    """Return a key path as text, such as `methods[2].weight`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in key_path).lstrip(".")
