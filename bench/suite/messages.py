"""What pydantic finds wrong with a document, as one message a place that says how to mend it. Imports no torch."""

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from bench.suite.document import Place, dotted
from bench.types import suggest

AllowedKeys = Callable[[Place], Sequence[str]]  # the keys allowed beside an unknown one, by its place


def messages(error: ValidationError, places: Mapping[Place, str], allowed_keys: AllowedKeys) -> Iterator[str]:
    """Yield a message a wrong place, in pydantic's order.

    Args:
        error: what pydantic found.
        places: where each key and item stands.
        allowed_keys: for suggestions.
    """
    found: dict[Place, list[ErrorDetails]] = {}
    for item in error.errors():
        at = _place(item["loc"], places)
        if item["type"] == "extra_forbidden" and at[-1:] != item["loc"][-1:]:
            at = (*at, item["loc"][-1])  # a key that is no word is a key all the same
        found.setdefault(at, []).append(item)
    for at, items in found.items():
        # a union complains once a branch: a list is judged as a list, all else as the other branch
        has_wrong_items = any(place[: len(at)] == at and place != at for place in found)
        if has_wrong_items and _judged_as_list(items):
            continue  # its items say what is wrong
        reason = reason_of(items, allowed_keys)
        if reason:
            key = f"{dotted(at)}: " if at else ""
            yield f"{places[_nearest(at, places)]}: {key}{reason}"


def _nearest(at: Place, places: Mapping[Place, str]) -> Place:
    """Return the innermost place around one, or itself, that stands in the file."""
    while at and at not in places:
        at = at[:-1]
    return at


def _judged_as_list(items: Sequence[ErrorDetails]) -> bool:
    of_lists = {*WANTED, "too_short", "too_long"}
    return all(isinstance(item["input"], tuple) and item["type"] in of_lists for item in items)


def _place(loc: Place, places: Mapping[Place, str]) -> Place:
    """Return a place of pydantic's without the names of the union's branches."""
    at: Place = ()
    for part in loc:
        if (*at, part) in places or _is_key(part):
            at = (*at, part)
    return at


def _is_key(part: str | int) -> bool:
    """Return whether a part of pydantic's place can be a key, rather than a union's branch such as `tuple[...]`."""
    if isinstance(part, int):
        return True
    is_word = re.fullmatch(r"[a-z_]\w*", part) is not None
    return is_word and part not in {"int", "str", "float"}


WANTED = {  # what pydantic's errors of type ask for
    "int_type": "a whole number",
    "float_type": "a number",
    "string_type": "text",
    "bool_type": "true or false",
    "model_type": "a mapping of keys to values",
    "dict_type": "a mapping of keys to values",
    "tuple_type": "a list",
    "finite_number": "a finite number",
}


def reason_of(items: Sequence[ErrorDetails], allowed_keys: AllowedKeys = lambda place: ()) -> str:
    """Return what is wrong with a value, what is allowed, and how to mend YAML's traps.

    Args:
        items: pydantic's errors at one place; several where the value may be of several types.
        allowed_keys: for suggestions.
    """
    items = [item for item in items if item["type"] not in WANTED] or items  # of a type, but out of range, comes first
    first = items[0]
    kind = first["type"]
    found = first["input"]
    message = first["msg"].removeprefix("Value error, ")
    if kind == "value_error":
        return message
    if kind == "missing":
        return "is missing"
    if kind == "extra_forbidden":
        at = first["loc"]
        return f"unknown key {at[-1]!r}. {suggest(str(at[-1]), allowed_keys(at))}"
    shown = json.dumps(found, default=str)
    if len(shown) > 60:
        shown = f"{shown[:57]}..."
    if isinstance(found, str) and kind in ("int_type", "float_type"):
        number = _number(found)
        if number is not None:
            return f"{shown} is text to YAML: write {number!r} (a decimal point, an exponent with its sign, no quotes)"
    if isinstance(found, bool) and kind == "string_type":
        return f"{shown} is a truth value to YAML (as are yes, no, on, off): put the word in quotes"
    if kind == "too_short" and isinstance(found, tuple):
        return f"found {shown}: must hold at least {first['ctx']['min_length']} item(s)"
    if kind == "too_long" and isinstance(found, tuple):
        return f"found {shown}: must hold at most {first['ctx']['max_length']} item(s)"
    wanted = dict.fromkeys(WANTED[item["type"]] for item in items if item["type"] in WANTED)
    allowed = f"must be {' or '.join(wanted)}" if wanted else message.replace("Input should be", "must be")
    return f"found {shown}: {allowed[0].lower()}{allowed[1:]}"


def _number(text: str) -> float | None:
    """Return the number that a text was meant to be, a whole one as an integer, or None."""
    try:
        value = float(text)
    except ValueError:
        return None
    if not math.isfinite(value):
        return None
    return int(value) if value.is_integer() else value
