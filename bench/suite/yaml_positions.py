"""Reads YAML with the position of every value and applies `--set KEY=VALUE`. Imports no torch."""

import json
import re
from io import BytesIO, TextIOWrapper
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from bench.reading import check_regular
from bench.text import printable, shortened
from bench.types import RequestError, suggest

MAX_FILE_BYTES = 1_000_000
MAX_VALUES = 100_000  # with aliases expanded: a few lines of YAML can expand to billions
MAX_DEPTH = 20  # keys and indices that lead to a value; the keys of a suite need 7
TOO_DEEP = f"is nested too deeply: at most {MAX_DEPTH} levels"
TAG = "tag:yaml.org,2002:"  # what `!!` stands for
SCALARS = ("str", "int", "float", "bool", "null", "timestamp")  # a time is read, and refused as neither text nor number
PLAIN_INT = "[-+]?(0|[1-9][0-9]*)"  # YAML 1.1 reads 010 as 8, 1:30 as 90, and 0x10, 0b10 and 1_0 as numbers
PLAIN_FLOAT = r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[-+]?[0-9]+)?|[-+]?\.?(inf|nan)"

NUMBERED = ("tuning", "rungs")  # the mapping whose keys are numbers
KeyPath = tuple[str | int, ...]  # the keys and indices that lead to a value of the document


class Position(NamedTuple):
    """Where messages say that a value is."""

    text: str  # `FILE:LINE` or `--set KEY=VALUE`
    is_override: bool  # whether the command line sets it

    def __str__(self) -> str:
        return self.text


Positions = dict[KeyPath, Position]


def read_yaml(path: Path) -> tuple[dict[str, Any], Positions, str]:
    """Return the mapping of a YAML file, the position `FILE:LINE` of each key and item from line 1, and the text.

    Raises:
        RequestError: the file is missing, invalid or too large, has a key twice, or is not plain data.
    """
    try:
        check_regular(path)
        if path.stat().st_size > MAX_FILE_BYTES:
            raise RequestError(f"{path}: larger than {MAX_FILE_BYTES} bytes; a suite file is about a page of text")
        content = path.read_bytes()
        text = TextIOWrapper(BytesIO(content), encoding="utf-8-sig").read()
    except FileNotFoundError:
        others = [file.name for file in path.parent.glob("*.yaml")] if path.parent.is_dir() else []
        similar = f" {suggest(path.name, others)}" if others else ""
        raise RequestError(f"{path}: there is no such file.{similar}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"{path}: cannot be read: {error}") from None
    positions: Positions = {}
    document = _parse(text, str(path), (), positions, numbered=True)
    if not isinstance(document, dict):
        kind = "an empty file" if document is None else f"one {type(document).__name__}"
        example = "see the example in docs/getting-started.md"
        raise RequestError(f"{path}: found {kind}, not a mapping of keys to values; {example}")
    return document, positions, content.decode()


def _parse(text: str, where: str, key_path: KeyPath, positions: Positions, numbered: bool = False) -> object:
    """Return the plain data of a YAML text, and add the positions of its keys and items: `where`, maybe with a line."""
    loader = None
    try:
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
        if root is None:
            return None
        # before the data is made, which expands every alias
        _note_positions(loader, root, where, key_path, positions, numbered)
        return loader.construct_document(root)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line if mark else 0
        fault = f"is not valid YAML, or not plain data: {' '.join(filter(None, [error.context, error.problem]))}"
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position)
        fault = f"is not valid YAML, or not plain data: {error.reason} (character #x{ord(text[error.position]):04x})"
    except RecursionError:
        line, fault = loader.line if loader else 0, TOO_DEEP
    raise RequestError(f"{where}:{line + 1}: {fault}" if numbered else f"{where}: {fault}")


def _note_positions(
    loader: yaml.SafeLoader, node: yaml.Node, where: str, key_path: KeyPath, positions: Positions, numbered: bool
) -> None:
    """Add the position of a node and of all in it, and check that each value is plain, and what its tag says."""
    here = f"{where}:{node.start_mark.line + 1}" if numbered else where
    positions.setdefault(key_path, Position(here, is_override=not numbered))
    place = f"{here}: {shown}" if (shown := dotted(key_path)) else here  # a key may be empty
    if len(positions) > MAX_VALUES:
        raise RequestError(f"{where}: expands to more than {MAX_VALUES} values")
    if len(key_path) > MAX_DEPTH:
        raise RequestError(f"{here}: {TOO_DEEP}")
    if isinstance(node, yaml.ScalarNode):
        _scalar(loader, node, place)
        return
    if node.tag != TAG + ("map" if isinstance(node, yaml.MappingNode) else "seq"):
        raise RequestError(f"{place}: {_unknown_tag(node.tag)}")
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            _note_positions(loader, item, where, (*key_path, index), positions, numbered)
        return
    allowed = (str, int) if key_path == NUMBERED else str
    for key, value in node.value:
        at_key = f"{where}:{key.start_mark.line + 1}" if numbered else where
        is_scalar, is_merge = isinstance(key, yaml.ScalarNode), key.tag == f"{TAG}merge"
        if not is_scalar or not (is_merge or isinstance(_scalar(loader, key, at_key), allowed)):
            found = json.dumps(key.value) if is_scalar else "a list or mapping"
            raise RequestError(f"{at_key}: {found} as a key is not text in YAML: put it in quotes, or leave it out")
        inner = (*key_path, key.value)
        if inner in positions:
            raise RequestError(f"{at_key}: {dotted(inner)}: the same key twice, first at {positions[inner]}")
        positions[inner] = Position(at_key, is_override=not numbered)
        _note_positions(loader, value, where, inner, positions, numbered)


def _scalar(loader: yaml.SafeLoader, node: yaml.ScalarNode, place: str) -> object:
    """Return the value of a text, number or the like, if YAML reads it as people do."""
    text, kind = node.value, node.tag.removeprefix(TAG)
    _check_printable(re.sub(r"\s", " ", text), place)
    shown = shortened(text, 60)
    if kind not in SCALARS:
        raise RequestError(f"{place}: {_unknown_tag(node.tag)}")
    try:
        value = loader.construct_object(node)
        if kind == "null" and text.lower() not in ("", "~", "null"):
            raise ValueError(f"{shown!r} is not null")
    except (yaml.YAMLError, ValueError, ArithmeticError, LookupError, AttributeError, TypeError) as error:
        reason = getattr(error, "problem", error)
        raise RequestError(
            f"{place}: a value does not fit its tag: {reason} (found {json.dumps(shown)} as {kind}). "
            "Write a plain value without '!!', or put it in quotes"
        ) from None
    plain = {"int": PLAIN_INT, "float": PLAIN_FLOAT}.get(kind)
    if plain is not None and not re.fullmatch(plain, text, re.IGNORECASE):
        raise RequestError(
            f"{place}: found {shown}, which YAML reads as {value}: write {value} if that is meant, else the number "
            "without ':', '_', leading zeros or a prefix, or put text in quotes"
        )
    return value


def _unknown_tag(tag: str) -> str:
    shown = tag.replace(TAG, "!!")
    return (
        f"is not valid YAML, or not plain data: could not determine a constructor for the tag {json.dumps(shown)}: "
        "leave the tag out; a suite file holds plain mappings, lists, text and numbers"
    )


def _check_printable(text: str, position: str) -> None:
    at = next((place for place, one in enumerate(text) if not one.isprintable()), None)
    if at is not None:
        around = text[max(0, at - 20) : at + 20]
        raise RequestError(f"{position}: found {json.dumps(around)}: control characters are not allowed")


def override(document: dict[str, Any], positions: Positions, change: str) -> None:
    """Apply a change `KEY=VALUE`, with a dotted key and a YAML value, to a document and its positions."""
    key, equals, text = change.partition("=")
    shown = shortened(change, 100)
    where = f"--set {shown}"
    if not equals or not re.fullmatch(r"\w+(\.\w+)*", key):
        raise RequestError(f"{where}: write it as KEY=VALUE, for example --set training.epochs=2")
    key_path = tuple(key.split("."))
    if len(key_path) > MAX_DEPTH:
        raise RequestError(f"{where}: {TOO_DEEP}, and this key has {len(key_path)}")
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
        positions.setdefault(key_path[:depth], Position(where, is_override=True))
    positions.setdefault(key_path, Position(where, is_override=True))
    document[last] = value


def frozen(value: object) -> object:
    """Return plain data with tuples instead of lists and text as keys, which the strict models require."""
    if isinstance(value, dict):
        return {str(key): frozen(item) for key, item in value.items()}
    if isinstance(value, list):
        return tuple(frozen(item) for item in value)
    return value


def dotted(key_path: KeyPath) -> str:
    """Return a key path as one line of text, such as `methods[2].weight`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in key_path).lstrip(".")
    return printable(text, one_line=True)
