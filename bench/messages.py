"""What pydantic finds wrong with a document, as one message a place that says how to mend it. Imports no torch."""

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from bench.document import Place, dotted
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
        if any(place[: len(at)] == at and place != at for place in found) and _judged_as_list(items):
            continue  # its items say what is wrong
        if reason := reason_of(items, allowed_keys):
            known = at
            while known and known not in places:
                known = known[:-1]
            yield f"{places[known]}: {dotted(at) + ': ' if at else ''}{reason}"


def _judged_as_list(items: Sequence[ErrorDetails]) -> bool:
    return all(
        isinstance(item["input"], tuple) and item["type"] in (*WANTED, "too_short", "too_long") for item in items
    )


def _place(loc: Place, places: Mapping[Place, str]) -> Place:
    """Return a place of pydantic's without the names of the union's branches."""
    at: Place = ()
    for part in loc:
        if (*at, part) in places or _is_key(part):
            at = (*at, part)
    return at


def _is_key(part: str | int) -> bool:
    """Return whether a part of pydantic's place can be a key, rather than a union's branch such as `tuple[...]`."""
    return isinstance(part, int) or (
        re.fullmatch(r"[a-z_]\w*", part) is not None and part not in {"int", "str", "float"}
    )


WANTED = {  # what pydantic's errors of type ask for
    **{"int_type": "a whole number", "float_type": "a number", "string_type": "text", "bool_type": "true or false"},
    **{"model_type": "a mapping of keys to values", "dict_type": "a mapping of keys to values"},
    **{"tuple_type": "a list", "finite_number": "a finite number"},
}


def reason_of(items: Sequence[ErrorDetails], allowed_keys: AllowedKeys = lambda place: ()) -> str:
    """Return what is wrong with a value, what is allowed, and how to mend YAML's traps.

    Args:
        items: pydantic's errors at one place; several where the value may be of several types.
        allowed_keys: for suggestions.
    """
    items = [item for item in items if item["type"] not in WANTED] or items  # of a type, but out of range, comes first
    kind, found, message = items[0]["type"], items[0]["input"], items[0]["msg"].removeprefix("Value error, ")
    if kind == "value_error":
        return message
    if kind == "missing":
        return "is missing"
    if kind == "extra_forbidden":
        at = items[0]["loc"]
        return f"unknown key {at[-1]!r}. {suggest(str(at[-1]), allowed_keys(at))}"
    shown = json.dumps(found, default=str)
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    if isinstance(found, str) and kind in ("int_type", "float_type") and (number := _number(found)) is not None:
        return f"{shown} is text to YAML: write {number!r} (a decimal point, an exponent with its sign, no quotes)"
    if isinstance(found, bool) and kind == "string_type":
        return f"{shown} is a truth value to YAML (as are yes, no, on, off): put the word in quotes"
    if kind in ("too_short", "too_long") and isinstance(found, tuple):
        bound, length = ("least", "min_length") if kind == "too_short" else ("most", "max_length")
        return f"found {shown}: must hold at {bound} {items[0]['ctx'][length]} item(s)"
    wanted = " or ".join(dict.fromkeys(WANTED[item["type"]] for item in items if item["type"] in WANTED))
    allowed = f"must be {wanted}" if wanted else message.replace("Input should be", "must be")
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
