"""A YAML file as plain data, with the place of every value, and dotted keys that change it. Imports no torch."""

import json
import re
from pathlib import Path
from typing import Any

import yaml

from bench.types import RequestError, suggest

LARGEST_FILE = 1_000_000  # bytes
LARGEST_DOCUMENT = 100_000  # values, aliases followed: a few lines of YAML can expand to billions

Place = tuple[str | int, ...]  # the keys and indices that lead to a value of the document


def read_yaml(path: Path) -> tuple[dict[str, Any], dict[Place, str]]:
    """Return a YAML file's mapping, and where each key and item stands: `FILE:LINE`, lines counted from 1.

    Raises:
        RequestError: the file is missing, broken, too large, holds a key twice, or anything but plain data.
    """
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise RequestError(f"{path}: larger than {LARGEST_FILE} bytes; a suite file is a page of text")
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        near = ""
        if path.parent.is_dir():
            near = suggest(path.name, [file.name for file in path.parent.glob("*.yaml")])
        raise RequestError(f"{path}: there is no such file. {near}".strip()) from None
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"{path}: cannot be read: {error}") from None
    places: dict[Place, str] = {}
    document = _parse(text, str(path), (), places, numbered=True)
    if not isinstance(document, dict):
        found = "an empty file" if document is None else f"one {type(document).__name__}"
        raise RequestError(f"{path}: found {found}, not a mapping of keys to values; see the README's example")
    return document, places


def _parse(text: str, where: str, at: Place, places: dict[Place, str], numbered: bool = False) -> object:
    """Return the plain data of a YAML text, and add where its keys and items stand.

    Args:
        text: the text.
        where: what to call it in messages.
        at: the place of the whole.
        places: is filled.
        numbered: whether lines are worth naming.

    Raises:
        RequestError: it is broken, too large, holds a key twice, or anything but plain data.
    """
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        if root is None:
            return None
        _note_places(root, where, at, places, numbered)  # before the data is made: that would follow every alias
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RequestError(f"{where}: is no YAML of plain data: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise RequestError(f"{where}: is nested too deeply") from None
    except (ValueError, AttributeError, TypeError, KeyError) as error:  # a tag at odds with its value: `!!int x`
        raise RequestError(f"{where}: a value is not what its tag says: {error}") from None


def _note_places(node: yaml.Node, where: str, at: Place, places: dict[Place, str], numbered: bool) -> None:
    here = f"{where}:{node.start_mark.line + 1}" if numbered else where
    places.setdefault(at, here)
    if len(places) > LARGEST_DOCUMENT:
        raise RequestError(f"{where}: expands to more than {LARGEST_DOCUMENT} values")
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            inner = (*at, str(key.value))
            place = f"{where}:{key.start_mark.line + 1}" if numbered else where
            _check_printable(str(key.value), place)
            if inner in places:
                raise RequestError(f"{place}: {dotted(inner)}: the same key twice, first at {places[inner]}")
            places[inner] = place
            _note_places(key, where, inner, places, numbered)
            _note_places(value, where, inner, places, numbered)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            _note_places(item, where, (*at, index), places, numbered)
    else:
        _check_printable("".join(node.value.split()), here)


def _check_printable(text: str, where: str) -> None:
    if not text.isprintable():
        raise RequestError(f"{where}: found {json.dumps(text)[:60]}: control characters have no place here")


def override(document: dict[str, Any], places: dict[Place, str], change: str) -> None:
    """Change a document as `--set` says.

    Args:
        document: a mapping that `read_yaml` returned.
        places: its places; the changed ones then name the option.
        change: `KEY=VALUE`, the key dotted, the value YAML.

    Raises:
        RequestError: the change is not of that form.
    """
    key, equals, text = change.partition("=")
    shown = change if len(change) <= 100 else f"{change[:97]}..."
    where = f"--set {shown}"
    if not equals or not re.fullmatch(r"\w+(\.\w+)*", key):
        raise RequestError(f"{where}: write it as KEY=VALUE, for example --set training.epochs=2")
    at = tuple(key.split("."))
    *parents, last = at
    for place in list(places):
        if place[: len(at)] == at:
            del places[place]
    value = _parse(text, where, at, places)
    for depth, parent in enumerate(parents, start=1):
        document = document.setdefault(parent, {})
        if not isinstance(document, dict):
            whole = f"--set '{dotted(at[:depth])}=...'"
            raise RequestError(f"{where}: {parent!r} is no mapping in the suite file; set all of it: {whole}")
        places.setdefault(at[:depth], where)
    places.setdefault(at, where)
    document[last] = value


def frozen(value: object) -> object:
    """Return plain data with tuples for lists and text for keys, as the strict types take them."""
    if isinstance(value, dict):
        return {str(key): frozen(item) for key, item in value.items()}
    if isinstance(value, list):
        return tuple(frozen(item) for item in value)
    return value


def dotted(at: Place) -> str:
    """Return a key's place as text: `methods[2].weight`."""
    text = ""
    for part in at:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.lstrip(".")
