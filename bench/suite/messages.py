"""Turns the errors that pydantic finds in a suite file into one message per key, with a fix. Imports no torch."""

import json
import math
import re
from collections.abc import Iterator, Sequence
from typing import get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from bench.suite.yaml_positions import KeyPath, Positions, dotted
from bench.text import shortened
from bench.types import suggest

EXPECTED = {  # the value that a key needs, by the type of pydantic's error
    "int_type": "a whole number",
    "float_type": "a number",
    "string_type": "text",
    "bool_type": "true or false",
    "model_type": "a mapping of keys to values",
    "dict_type": "a mapping of keys to values",
    "tuple_type": "a list",
    "finite_number": "a finite number",
}
SCALARS = ("bool", "int", "float", "str")  # names of branches of unions
LIST_ERRORS = {*EXPECTED, "too_short", "too_long"}


class ProblemsError(ValueError):
    """Several things that are wrong with one value, each of which may begin with the key that it is about."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


def messages(error: ValidationError, positions: Positions, model: type[BaseModel]) -> Iterator[str]:
    """Yield one message per wrong key or item of a document validated against a model, in pydantic's order."""
    by_key: dict[KeyPath, list[ErrorDetails]] = {}
    for item in error.errors():
        key_path = _key_path(item["loc"], positions)
        if item["type"] == "extra_forbidden" and key_path[-1:] != item["loc"][-1:]:
            key_path = (*key_path, item["loc"][-1])  # an unknown key that is not an identifier
        by_key.setdefault(key_path, []).append(item)
    for key_path, items in by_key.items():
        # every branch of a union reports errors: if items of a list or mapping are wrong, only their errors are helpful
        has_wrong_items = any(other[: len(key_path)] == key_path and other != key_path for other in by_key)
        if has_wrong_items and all(
            isinstance(item["input"], tuple | dict) and item["type"] in LIST_ERRORS for item in items
        ):
            continue
        inner = key_path
        while inner and inner not in positions:
            inner = inner[:-1]
        key = f"{shown}: " if (shown := dotted(key_path)) else ""  # a key may be empty
        reason = reason_of(items, model)
        if inner != key_path or items[0]["type"] != "value_error":
            place = str(positions[inner]) if inner != key_path else _place(key_path, positions)
            yield f"{place}: {key}{reason}"
            continue
        reasons: dict[KeyPath, list[str]] = {}
        for problem in getattr(items[0]["ctx"]["error"], "problems", [reason]):
            reasons.setdefault(_begun_with(problem, key_path, positions), []).append(problem)
        for part, problems in reasons.items():
            yield f"{_place(part, positions)}: {key}{'; '.join(problems)}"


def _begun_with(problem: str, key_path: KeyPath, positions: Positions) -> KeyPath:
    """Return the path of the key within a value that a problem begins with, such as `space.lr: ` or `'label' is `."""
    inner = {dotted(path[len(key_path) :]): path for path in positions if path[: len(key_path)] == key_path != path}
    for name in sorted(filter(None, inner), key=len, reverse=True):
        if begin := re.match(rf"(parameter )?'?{re.escape(name)}('?: |'? (is|are|of) |'?[.\[])", problem):
            return _begun_with(problem[begin.end() :], inner[name], positions)
    return key_path


def _place(key_path: KeyPath, positions: Positions) -> str:
    """Return where a value is, and which parts of it the command line has set."""
    if not key_path:  # of the whole file, all that the command line sets is a part
        return str(positions[key_path])
    parts = {place for path, place in positions.items() if path[: len(key_path)] == key_path}
    place = positions[key_path]
    overrides = sorted(str(part) for part in parts - {place} if part.is_override)
    return f"{place} with {', '.join(overrides)}" if overrides else str(place)


def _key_path(loc: KeyPath, positions: Positions) -> KeyPath:
    """Return pydantic's path without the names of branches of unions, such as `tuple[...]` or `TermsEntry`."""
    key_path: KeyPath = ()
    for part in loc:
        is_key = isinstance(part, int) or (re.fullmatch(r"[a-z_]\w*", part) and part not in SCALARS)
        if is_key or (*key_path, part) in positions:
            key_path = (*key_path, part)
    return key_path


def reason_of(items: Sequence[ErrorDetails], model: type[BaseModel] | None = None) -> str:
    """Return what is wrong with a value, what is allowed, and how to fix what YAML reads as another type.

    There are several errors at one key if its value may have several types. `model` is that of the whole document: it
    says which keys are allowed.
    """
    # if the value may have several types, a wrong range says more than a wrong type
    items = [item for item in items if item["type"] not in EXPECTED] or items
    first = items[0]
    kind, value = first["type"], first["input"]
    message = first["msg"].removeprefix("Value error, ")
    if kind == "value_error":
        return message
    if kind == "missing":
        return "is missing"
    if kind == "extra_forbidden":
        key = str(first["loc"][-1])
        return f"unknown key {key!r}. {suggest(key, _allowed_keys(model, first['loc']) if model else ())}"
    shown = shortened(json.dumps(value, default=str), 60)
    if isinstance(value, str) and kind in ("int_type", "float_type") and (number := _number(value)) is not None:
        return f"{shown} is text in YAML: write {number!r} (a decimal point, an exponent with its sign, no quotes)"
    if isinstance(value, bool) and kind == "string_type":
        return f"{shown} is a boolean in YAML (as are yes, no, on, off): put the word in quotes"
    if kind in ("too_short", "too_long") and isinstance(value, tuple):
        bound, key = ("least", "min_length") if kind == "too_short" else ("most", "max_length")
        return f"found {shown}: must hold at {bound} {first['ctx'][key]} item(s)"
    expected = dict.fromkeys(EXPECTED[item["type"]] for item in items if item["type"] in EXPECTED)
    allowed = f"must be {' or '.join(expected)}" if expected else message.replace("Input should be", "must be")
    return f"found {shown}: {allowed[0].lower()}{allowed[1:]}"


def _allowed_keys(model: type[BaseModel], loc: KeyPath) -> list[str]:
    """Return the keys that are allowed in place of an unknown one at a pydantic path."""
    models = {model.__name__: model}
    for part in loc[:-1]:
        inner = _fields(models)
        if part in models:  # the name of a branch of a union
            models = {str(part): models[str(part)]}
        elif part in inner:
            models = _models_in(inner[str(part)])
    return list(_fields(models))


def _fields(models: dict[str, type[BaseModel]]) -> dict[str, object]:
    """Return the types of the keys of some models, by the names of the keys in a file."""
    fields = [named for model in models.values() for named in model.model_fields.items()]
    return {field.alias or name: field.annotation for name, field in fields}


def _models_in(annotation: object) -> dict[str, type[BaseModel]]:
    """Return the models within a type annotation, by name."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return {annotation.__name__: annotation}
    return {name: model for argument in get_args(annotation) for name, model in _models_in(argument).items()}


def _number(text: str) -> float | None:
    """Return the finite number that a text spells, as an integer if it is whole, or None."""
    try:
        value = float(text)
    except ValueError:
        return None
    if value.is_integer():
        return int(value)
    return value if math.isfinite(value) else None
