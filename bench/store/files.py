"""Writes files whole or not at all; reads JSON and CSV with errors that name the file. Imports no torch."""

import contextlib
import csv
import io
import json
import os
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from glob import escape
from hashlib import sha256
from pathlib import Path
from typing import IO, Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from bench.reading import read_bytes, unreadable
from bench.types import RequestError

T = TypeVar("T")
STARTS = tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")  # of a formula in a spreadsheet; four are wide
TEMPORARY = ".{}.tmp"  # names of files that are being written; no reader looks at them
LEFTOVER_S = 600.0  # nobody writes such a file any more
SEAL = b"\nsha256 "  # before the checksum at the end of a sealed file
DIGITS = 64  # hex digits of a checksum
SEALED = len(SEAL) + DIGITS
AGAIN = "Copy the whole run folder again, or remove the run's folder: the run is then trained again"


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file atomically, also across a power cut; raises as `writing`."""
    with whole_file(path) as file:
        file.write(content.encode(errors="backslashreplace") if isinstance(content, str) else content)


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """Yield a file to write, which is at `path` once all of it is written, and nowhere if an exception ends it.

    It gets there atomically, also across a power cut. Raises as `writing`.
    """
    temporary = path.with_name(TEMPORARY.format(f"{path.name}.{uuid.uuid4().hex}"))
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        for leftover in path.parent.glob(TEMPORARY.format(f"{escape(path.name)}.*")):  # of a writer that was killed
            with contextlib.suppress(FileNotFoundError):
                if time.time() - leftover.stat().st_mtime > LEFTOVER_S:
                    leftover.unlink()
        try:
            with temporary.open("wb") as file:
                yield file
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


def remove(path: Path) -> None:
    """Remove a file, if there is one; raises as `writing`."""
    with writing(path):
        path.unlink(missing_ok=True)


class NotWrittenError(RequestError):
    """A file cannot be written."""


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an operating system's error into a `NotWrittenError` that names the file."""
    try:
        yield
    except OSError as error:
        raise NotWrittenError(
            f"{path}: cannot be written: {error.strerror or error}. Fix that, or name another folder with --results"
        ) from error


def csv_text(columns: Iterable[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """Return a heading and rows as comma-separated values; columns missing in a row are empty."""
    columns, text = list(columns), io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    # most values are numbers, and there may be a million
    writer.writerows(
        [no_formula(value) if isinstance(value, str) else value for value in map(row.get, columns)] for row in rows
    )
    return text.getvalue()


def csv_rows(text: str) -> list[dict[str, str]]:
    """Return the rows of what `csv_text` gave, by column; values are text as it was before."""
    return [
        {name: as_written(value) for name, value in row.items() if isinstance(value, str)}
        for row in csv.DictReader(io.StringIO(text, newline=""))
    ]


def read_csv(path: Path) -> list[dict[str, str]]:
    """Return the rows of a file that `csv_text` gave, as `csv_rows` does; none if there is no such file.

    Raises:
        RequestError: the file cannot be read, or is no CSV file.
    """
    try:
        return csv_rows(read_text(path) or "")
    except csv.Error as error:
        raise incompatible(path, error) from None


def count_in(row: Mapping[str, str], column: str) -> int:
    """Return the count that a row of a CSV file has in a column; 0 if it has none."""
    text = row.get(column, "")
    return int(text) if text.isdecimal() and len(text) < 10 else 0


def no_formula(value: Any) -> Any:  # noqa: ANN401
    """Return a value of a CSV file: a text that a spreadsheet takes for a formula begins with an apostrophe."""
    return f"'{value}" if isinstance(value, str) and _is_formula(value) else value


def as_written(value: str) -> str:
    """Return a text as it was before `no_formula`."""
    return value[1:] if value.startswith("'") and _is_formula(value) else value


def _is_formula(text: str) -> bool:
    """Return whether a text, without apostrophes before it, begins as a formula does."""
    return text.lstrip("'").startswith(STARTS)


def read_text(path: Path) -> str | None:
    """Return a file's text, or None if there is no such file; raise a `RequestError` if it cannot be read."""
    try:
        return read_bytes(path).decode()
    except FileNotFoundError:
        return None
    except UnicodeDecodeError as error:
        raise unreadable(path, error) from error


def read_json(path: Path) -> dict[str, Any] | None:
    """Return a file's JSON object, or None if there is no such file.

    Raises:
        RequestError: the file cannot be read, is not a regular file, or is not a JSON object.
    """
    try:
        document = parsed(read_bytes(path))
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError) as error:  # not JSON, or not UTF-8; or nested too deep
        fault = f"is not valid JSON ({error}); the store never writes such a file"
        raise RequestError(f"{path}: {fault}. {_cure(path)}") from None
    if not isinstance(document, dict):
        raise incompatible(path, f"it holds a {type(document).__name__}")
    return document


def parsed(content: bytes) -> Any:  # noqa: ANN401
    """Return the value of a JSON text; raises ValueError or RecursionError if it is none.

    Numbers may be NaN, as a metric may be, but not infinite. Text that UTF-8 cannot express is refused.
    """
    value = DECODER.decode(content.decode())
    if b"\\ud" in content.lower():  # perhaps half of a pair of surrogates
        json.dumps(value, ensure_ascii=False).encode()
    return value


def _not_infinite(name: str) -> float:
    if name != "NaN":
        raise ValueError(f"{name} is not a number")
    return float("nan")


DECODER = json.JSONDecoder(parse_constant=_not_infinite)  # `json.loads` would make one for each of many lines


def read_as(kind: TypeAdapter[T], path: Path) -> T | None:
    """Return a file's JSON object as a value of a type, or None if there is no such file; raises as `read_json`."""
    document = read_json(path)
    return None if document is None else checked(kind, document, path)


def checked(kind: TypeAdapter[T], document: object, path: Path) -> T:
    """Return a document of the file `path` as a value of a type.

    Raises:
        RequestError: a value is missing, unknown or of another type.
    """
    try:
        return kind.validate_python(document)
    except ValidationError as error:
        raise incompatible(path, first_reason(error)) from None


def first_reason(error: ValidationError) -> str:
    """Return the key and the text of the first of the errors in a document, in one line."""
    first = error.errors()[0]
    place = ".".join(map(str, first["loc"]))
    return f"{place}: {first['msg']}" if place else first["msg"]


def sealed(content: bytes) -> bytes:
    """Return content followed by its checksum, which `unsealed` compares."""
    return content + SEAL + sha256(content).hexdigest().encode()


def unsealed(content: bytes) -> bytes:
    """Return what was sealed; content of earlier versions, which sealed nothing, is returned unchanged.

    Raises:
        ValueError: the content differs from what was sealed.
    """
    whole, seal, digest = content[:-SEALED], content[-SEALED:-DIGITS], content[-DIGITS:]
    if seal != SEAL:
        return content
    if sha256(whole).hexdigest().encode() != digest:
        raise ValueError("its content does not match its checksum")
    return whole


def incompatible(path: Path, reason: object) -> RequestError:
    """Return the error for a file that this version of the project would not have written."""
    fault = f"is damaged, or was written by another version of this project: {reason}"
    return RequestError(f"{path}: {fault}. {_cure(path)}")


def _cure(path: Path) -> str:
    return AGAIN if path.parent.parent.name == "runs" else "Copy it again, or remove it: what it says is then forgotten"
