"""What the store's files hold, checked when they are read: records, failures and rows of epochs. Imports no torch."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, NonNegativeInt, TypeAdapter

from bench.store.files import AGAIN, checked, incompatible, parsed, read_json
from bench.types import RequestError

RECORD = "record.json"
FILES = "files_sha256"  # key of a record: hashes by name, of the files that the run has left
CHECKSUM = "checksum"  # key of a record


def is_number(value: object) -> bool:
    """Return whether a value is a number that a float can hold, or NaN."""
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and not math.isinf(value)
    except OverflowError:  # an integer that is too large
        return False


def _number(value: object) -> object:
    if not is_number(value):
        raise ValueError("is neither a finite number nor NaN")
    return value


def _finite(value: object) -> object:
    if math.isnan(_number(value)):  # type: ignore[arg-type]  # a number
        raise ValueError("is not a finite number")
    return value


Numbers = dict[str, Annotated[Any, AfterValidator(_number)]]  # by name
FiniteNumbers = dict[str, Annotated[Any, AfterValidator(_finite)]]
Texts = dict[str, str]  # by name


class Record(BaseModel):
    """What readers rely on in a record; it holds more."""

    model_config = ConfigDict(extra="allow")

    metrics: Numbers
    best: Numbers | None = None
    epochs: NonNegativeInt | None = None
    wall_s: Annotated[Any, AfterValidator(_finite)] = 0.0
    date: str = ""
    commit: str | None = None
    dirty: bool | None = None
    versions: Texts = {}
    methods_sha256: Texts = {}
    teachers_sha256: Texts = {}
    source_sha256: str = ""
    files_sha256: Texts = {}
    accepted: list[dict[str, Any]] = []
    scores: FiniteNumbers = {}
    to_teacher: dict[str, FiniteNumbers] = {}
    class_accuracy: dict[str, list[Annotated[Any, AfterValidator(_number)] | None]] = {}
    checksum: str = ""


RECORDS = TypeAdapter(Record)


def record_in(path: Path) -> dict[str, Any] | None:
    """Return the record in a file, without its checksum, or None if there is no such file.

    Raises:
        RequestError: the file cannot be read, is damaged or does not hold a record.
    """
    document = read_json(path)
    if document is None:
        return None
    checked(RECORDS, document, path)
    recorded = document.pop(CHECKSUM, None)
    if recorded not in (None, checksum(document)):
        raise RequestError(f"{path}: is damaged: its content does not match its checksum. {AGAIN}")
    return document


def checksum(record: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a record's JSON with sorted keys, as hex digits."""
    return sha256(json.dumps(json.loads(json.dumps(record)), sort_keys=True).encode()).hexdigest()


def number_in(record: Mapping[str, Any], name: str, folder: Path, best: bool = False) -> float | None:
    """Return a number of the record of a run's `folder`, of the last or the best epoch; None if there is no best one.

    Raises:
        RequestError: the record lacks it, or it is NaN, of which there is no mean.
    """
    numbers = record.get("best" if best else "metrics") or {}
    if best and not numbers:
        return None
    if name not in numbers:
        raise incompatible(folder / RECORD, f"it has no {name}{' of the best epoch' if best else ''}")
    if math.isnan(numbers[name]):
        raise incompatible(folder / RECORD, f"its {name}{' of the best epoch' if best else ''} is NaN")
    return numbers[name]


@dataclass(frozen=True)
class Failure:
    """Why a run has no record."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")
    status: Literal["failed", "diverged", "inapplicable"]
    reason: str  # one line
    details: str = ""  # a traceback


FAILURES = TypeAdapter(Failure)


def rows_of(content: bytes, path: Path, is_finished: bool) -> list[dict[str, Any]]:
    """Return the rows of a file of epochs; without `is_finished`, a torn last line is ignored.

    Raises:
        RequestError: a line is not a row: a mapping with a stage, an epoch and numbers.
    """
    *lines, last = content.split(b"\n")
    rows = [_row(line, path, number) for number, line in enumerate(lines, start=1)]
    if last and (is_finished or _is_row(last)):
        rows.append(_row(last, path, len(lines) + 1))
    return rows


def _is_row(line: bytes) -> bool:
    try:
        return _fault(parsed(line)) is None
    except (ValueError, RecursionError):
        return False


def _row(line: bytes, path: Path, number: int) -> dict[str, Any]:
    try:
        row = parsed(line)
        fault = _fault(row)
    except (ValueError, RecursionError) as error:
        row, fault = None, f"is not valid JSON ({error})"
    if fault is not None:
        raise incompatible(path, f"line {number} {fault}")
    return row


def _fault(row: object) -> str | None:
    """Return why a value is not a row of epochs, or None if it is one."""
    if not isinstance(row, dict):
        return f"is a {type(row).__name__}, not a mapping"
    if row.get("stage") not in ("initial", "main"):
        return f"has the stage {row.get('stage')!r}, which is neither initial nor main"
    if type(row.get("epoch")) is not int or not 0 < row["epoch"] < 10**9:
        return f"has the epoch {row.get('epoch')!r}, which is not a whole number from 1"
    others = (name for name, value in row.items() if type(value) is not float or math.isinf(value))
    wrong = [name for name in others if name != "stage" and not is_number(row[name])]
    return f"has no number for {wrong[0]!r}" if wrong else None
