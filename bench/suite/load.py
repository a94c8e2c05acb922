"""Loads a suite file, applies `--set`, and merges a transfer suite with its source. Imports no torch."""

import os
import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from bench.suite.entries import MethodEntry
from bench.suite.messages import messages
from bench.suite.protocols import differences
from bench.suite.rows import check_rows, rows_of
from bench.suite.schema import FILE_NAME, TRANSFER, Suite, TransferSuite
from bench.suite.yaml_positions import frozen, override, read_yaml
from bench.tasks import TASKS
from bench.text import has_controls, printable, shortened
from bench.types import RequestError, suggest
from methods import Method

RESERVED = ("runs", "published", "tracked", "index.html")  # next to the folders of suites in the results
T = TypeVar("T")


def load(path: Path, methods: Mapping[str, Method], overrides: Sequence[str] = ()) -> Suite:
    """Return the suite that a file describes, changed by overrides `KEY=VALUE` as `--set` takes them.

    Raises:
        RequestError: the file has errors; the message has one line per error.
    """
    read, text = _read(path, methods, overrides)
    suite = read if isinstance(read, Suite) else _with_source(read, path, methods)
    vars(suite)["text"] = text  # no key of the file, so no field
    return suite


def plugins_of(path: Path) -> tuple[Path, ...]:
    """Return the files that a suite file names under `plugins`; `load` says what is wrong with the key."""
    named = read_yaml(path)[0].get("plugins")
    names = (
        [one for one in named if isinstance(one, str) and one and not has_controls(one)]
        if isinstance(named, list)
        else []
    )
    return tuple(path.parent / os.path.expanduser(name) for name in names)


def source_of(path: Path) -> Path | None:
    """Return the file of the suite whose networks a suite file of task transfer evaluates; None for other tasks."""
    document = read_yaml(path)[0]
    source = document.get("from")
    if document.get("task") != TRANSFER or not isinstance(source, dict):
        return None
    return path.with_name(f"{source.get('suite')}.yaml")


def check_name(path: Path) -> None:
    """Raise a `RequestError` if a suite file's stem cannot name a results folder, or its path is no UTF-8 text."""
    try:
        os.path.realpath(path).encode()  # as the results note it
    except UnicodeEncodeError:
        raise RequestError(
            f"{path}: a folder of its path has a name that is not UTF-8 text: rename that folder"
        ) from None
    if not re.fullmatch(FILE_NAME, path.stem) or path.stem in RESERVED:
        raise RequestError(
            f"{path}: the file's name, {path.stem!r}, cannot name a results folder: use letters, digits, '.', "
            f"'_' and '-', begin with a letter or digit, and do not use {' or '.join(map(repr, RESERVED))}. "
            "Rename the file"
        )


def _read(
    path: Path, methods: Mapping[str, Method], overrides: Sequence[str] = ()
) -> tuple[Suite | TransferSuite, str]:
    """Return the contents of a suite file, as `load` does, but without the source of a transfer suite; and its text."""
    check_name(path)
    document, positions, text = read_yaml(path)
    seeds = []  # of the source of a transfer suite; after `from`, which may be set as a whole
    for change in sorted(overrides, key=lambda change: not change.startswith("task=")):
        if re.match(r"plugins *[.=]", change):
            shown = shortened(printable(change, one_line=True), 100)
            raise RequestError(f"--set {shown}: plug-ins are read before the suite: name each with --plugin FILE.py")
        if document.get("task") == TRANSFER and change.startswith("seeds="):
            seeds.append(f"from.{change}")
        else:
            override(document, positions, change)
    for change in seeds:
        override(document, positions, change)
    model: type[Suite | TransferSuite] = TransferSuite if document.get("task") == TRANSFER else Suite
    try:
        suite = model.model_validate(frozen(document), context={"methods": methods, "folder": path.parent})
        if isinstance(suite, Suite):
            check_rows(suite.methods, methods)
    except ValidationError as error:
        raise RequestError("\n".join(messages(error, positions, model))) from None
    except ValueError as error:
        raise RequestError(f"{positions.get(('methods',), path)}: methods: {error}") from None
    if isinstance(suite, Suite) and not overrides and (differing := differences(suite)):
        raise RequestError(
            f"{positions.get(('protocol',), path)}: protocol: the suite differs from {suite.protocol}: "
            f"{'; '.join(differing)}. Change these keys, or leave 'protocol' out"
        )
    return suite, text


def _with_source(transfer: TransferSuite, path: Path, methods: Mapping[str, Method]) -> Suite:
    """Return the source suite, with the task that trains its runs, changed by what the transfer suite states."""
    file = path.with_name(f"{transfer.source.suite}.yaml")
    try:
        source, _ = _read(file, methods)
    except RequestError as error:
        raise RequestError("\n".join(f"{path}: from.suite: {line}" for line in str(error).splitlines())) from None
    if isinstance(source, TransferSuite) or not TASKS[source.task].allows_transfer:
        allowed = " or ".join(name for name, task in TASKS.items() if task.allows_transfer)
        raise RequestError(f"{path}: from.suite: {file} is a suite of task {source.task}; it must be of task {allowed}")
    pair_names = [(pair, [pair.name]) for pair in source.pairs]
    row_names = []
    for entry in source.methods:
        names = [entry.method] if isinstance(entry, MethodEntry) else []
        row_names.append((entry, [*names, *(row.label for row in rows_of(entry, methods))]))
    changes = {key: value for key, value in transfer if value is not None and key not in ("task", "source")}
    changes["published"] = transfer.published  # without it, not the numbers of the source
    changes["protocol"] = None  # likewise
    changes["pairs"] = _matching(pair_names, transfer.source.pairs, f"{path}: from.pairs: {file}")
    changes["methods"] = _matching(row_names, transfer.source.methods, f"{path}: from.methods: {file}")
    changes["seeds"] = transfer.source.seeds or source.seeds
    return source.model_copy(update=changes)


def _matching(named: Sequence[tuple[T, list[str]]], patterns: Sequence[str] | None, where: str) -> tuple[T, ...]:
    """Return the items that have a name which matches a pattern, ignoring case; without patterns, all items."""
    if patterns is None:
        return tuple(item for item, _ in named)
    known = {name for _, names in named for name in names}
    chosen: set[str] = set()
    for pattern in patterns:
        matching = {name for name in known if fnmatchcase(name.lower(), pattern.lower())}
        if not matching:
            raise RequestError(f"{where} has no {pattern!r}. {suggest(pattern, known)}")
        chosen |= matching
    return tuple(item for item, names in named if not chosen.isdisjoint(names))
