"""Reading a suite file: `--set`, all errors in one message, and a transfer suite merged with its source.

Imports no torch.
"""

import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from bench.suite.messages import messages
from bench.suite.rows import check_rows, rows_of
from bench.suite.schema import FILE_NAME, TRANSFER, MethodEntry, Suite, TransferSuite
from bench.suite.yaml_positions import frozen, override, read_yaml
from bench.tasks import TASKS
from bench.types import RequestError, suggest
from methods import Method

RESERVED = {"runs"}  # the results folder holds the runs beside the suites
T = TypeVar("T")


def load(path: Path, methods: Mapping[str, Method], overrides: Sequence[str] = ()) -> Suite:
    """Return the suite that a file describes.

    Args:
        path: the YAML file.
        methods: the known methods, by name.
        overrides: `KEY=VALUE` with dotted keys, as `--set` takes them.

    Raises:
        RequestError: with every error of the file, a line each.
    """
    suite = _read(path, methods, overrides)
    return suite if isinstance(suite, Suite) else _with_source(suite, path, methods)


def check_name(path: Path) -> None:
    """Check that the stem of a suite file can name a folder of the results.

    Raises:
        RequestError: it cannot.
    """
    if not re.fullmatch(FILE_NAME, path.stem) or path.stem in RESERVED:
        raise RequestError(
            f"{path}: the file's name, {path.stem!r}, cannot name a folder of the results: "
            "letters, digits, '.', '_' and '-', the first a letter or digit, and not 'runs'. Rename the file"
        )


def _read(path: Path, methods: Mapping[str, Method], overrides: Sequence[str] = ()) -> Suite | TransferSuite:
    """Return what a file states, as `load` does, but a transfer suite without its source."""
    check_name(path)
    document, positions = read_yaml(path)
    model: type[Suite | TransferSuite] = TransferSuite if document.get("task") == TRANSFER else Suite
    for change in overrides:
        is_of_source = model is TransferSuite and change.startswith("seeds=")
        override(document, positions, f"from.{change}" if is_of_source else change)
    try:
        suite = model.model_validate(frozen(document), context={"methods": methods})
    except ValidationError as error:
        raise RequestError("\n".join(messages(error, positions, model))) from None
    if isinstance(suite, Suite):
        try:
            check_rows(suite.methods, methods)
        except ValueError as error:
            raise RequestError(f"{positions['methods',]}: methods: {error}") from None
    return suite


def _with_source(transfer: TransferSuite, path: Path, methods: Mapping[str, Method]) -> Suite:
    """Return the suite whose networks are evaluated, with the chosen pairs, rows and seeds, and how they are evaluated.

    Its task stays that of its runs.

    Raises:
        RequestError: that suite has errors, a task without transfer, or none of the pairs or methods named.
    """
    file = path.with_name(f"{transfer.source.suite}.yaml")
    try:
        source = _read(file, methods)
    except RequestError as error:
        raise RequestError("\n".join(f"{path}: from.suite: {line}" for line in str(error).splitlines())) from None
    if isinstance(source, TransferSuite) or not TASKS[source.task].allows_transfer:
        allowed = " or ".join(name for name, task in TASKS.items() if task.allows_transfer)
        raise RequestError(f"{path}: from.suite: {file} is a suite of task {source.task}; it must be of task {allowed}")
    pair_names = [(pair, [pair.name]) for pair in source.pairs]
    row_names = []
    for entry in source.methods:
        names = [row.label for row in rows_of(entry, methods)]
        if isinstance(entry, MethodEntry):
            names.append(entry.method)
        row_names.append((entry, names))
    changes = {key: value for key, value in transfer if value is not None and key not in ("task", "source")}
    changes["published"] = transfer.published  # not the numbers of the other suite
    changes["pairs"] = _matching(pair_names, transfer.source.pairs, f"{path}: from.pairs: {file}")
    changes["methods"] = _matching(row_names, transfer.source.methods, f"{path}: from.methods: {file}")
    changes["seeds"] = transfer.source.seeds or source.seeds
    return source.model_copy(update=changes)


def _matching(named: Sequence[tuple[T, list[str]]], patterns: Sequence[str] | None, where: str) -> tuple[T, ...]:
    """Return what has a name that matches one of some patterns, whatever the case; all if there are no patterns."""

    def matches(names: Sequence[str], pattern: str) -> bool:
        return any(fnmatchcase(name.lower(), pattern.lower()) for name in names)

    if patterns is None:
        return tuple(one for one, _ in named)
    for pattern in patterns:
        if not any(matches(names, pattern) for _, names in named):
            known = {name for _, names in named for name in names}
            raise RequestError(f"{where} has no {pattern!r}. {suggest(pattern, known)}")
    return tuple(one for one, names in named if any(matches(names, pattern) for pattern in patterns))
