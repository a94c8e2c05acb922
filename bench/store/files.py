"""Reads and writes files: atomic writes, JSON, CSV, and errors that name the file. Imports no torch."""

import contextlib
import csv
import io
import json
import os
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from bench.types import RequestError

T = TypeVar("T")
TEMPORARY = ".{}.tmp"  # names of files that are being written; no reader looks at them


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file atomically, also across a power cut; raises as `writing`."""
    temporary = path.with_name(TEMPORARY.format(f"{path.name}.{uuid.uuid4().hex}"))
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                file.write(content.encode() if isinstance(content, str) else content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        descriptor = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)  # the rename itself
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an operating system's error into a `RequestError` that names the file."""
    try:
        yield
    except OSError as error:
        raise RequestError(
            f"{path}: cannot be written: {error.strerror or error}. Fix that, or name another folder with --results"
        ) from error


def csv_text(columns: Iterable[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """Return a heading and rows as comma-separated values; columns missing in a row are empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def read_text(path: Path, errors: str = "strict") -> str | None:
    """Return a file's text, or None if there is no such file; raise a `RequestError` if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors=errors)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RequestError(f"{path}: cannot be read: {error.strerror or error}") from error


def read_json(path: Path) -> dict[str, Any] | None:
    """Return a file's JSON object, or None if there is no such file.

    Raises:
        RequestError: the file cannot be read, or is not a JSON object.
    """
    try:
        text = read_text(path)
        document = None if text is None else json.loads(text)
    except ValueError as error:  # not JSON, or not UTF-8
        fault = f"is not valid JSON ({error}); the store never writes such a file"
        raise RequestError(f"{path}: {fault}. Remove it") from None
    if text is not None and not isinstance(document, dict):
        raise incompatible(path, f"it holds a {type(document).__name__}")
    return document


def read_as(kind: type[T], path: Path) -> T | None:
    """Return a file's JSON object as a dataclass, or None if there is no such file; raises as `read_json`."""
    document = read_json(path)
    try:
        return None if document is None else kind(**document)
    except TypeError as error:
        raise incompatible(path, error) from error


def incompatible(path: Path, reason: object) -> RequestError:
    """Return the error for a file that this version of the project would not have written."""
    return RequestError(f"{path}: was written by another version of this project, or by hand: {reason}. Remove it")
