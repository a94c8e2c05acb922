"""Protocols that a suite can state: `protocols.yaml` says what each of them fixes. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import BaseModel, PositiveInt, TypeAdapter

from bench.schedule import Strict
from bench.spec import NO_IDENTITY
from bench.suite.yaml_positions import frozen

if TYPE_CHECKING:
    from bench.suite.schema import Suite


class Protocol(Strict):
    """What the results of suites that state a protocol have in common."""

    source: str
    """Where it comes from."""
    seeds: PositiveInt
    """The least number of runs per row."""
    fixes: dict[str, Any]
    """Keys of a suite file with their values."""
    tests: str
    """How rows are compared."""


@cache
def protocols() -> Mapping[str, Protocol]:
    """Return the known protocols by name and version."""
    text = (files("bench.suite") / "protocols.yaml").read_text(encoding="utf-8")
    return TypeAdapter(dict[str, Protocol]).validate_python(frozen(yaml.safe_load(text)))


def differences(suite: Suite) -> list[str]:
    """Return the keys in which a suite differs from the protocol that it states, with both values; none without one."""
    if suite.protocol is None:
        return []
    protocol = protocols()[suite.protocol]
    differing = [
        f"{key} {_shown(value)}, not {_shown(fixed)}"
        for key, value, fixed in _compared(suite, protocol.fixes)
        if value != fixed
    ]
    if suite.runs_per_row < protocol.seeds:
        differing.append(f"seeds {suite.runs_per_row}, not {protocol.seeds} or more")
    return differing


def _compared(suite: Suite, fixes: Mapping[str, Any]) -> Iterator[tuple[str, object, object]]:
    """Yield keys, each with the suite's value and the protocol's."""
    networks = {one.network for pair in suite.pairs for one in (*pair.members, pair.student)}
    for key, stated in fixes.items():
        if key == "lr_by_network":
            yield key, suite.lr_by_network, {name: lr for name, lr in stated.items() if name in networks}
            continue
        value, fixed = getattr(suite, key), stated
        if isinstance(value, BaseModel) and isinstance(stated, dict):
            own, others = value.model_dump(), type(value).model_validate(stated).model_dump()
            ignored = NO_IDENTITY["schedule"] if key == "training" else set()
            yield from ((f"{key}.{name}", own[name], others[name]) for name in own if name not in ignored)
        else:
            yield key, value, fixed


def _shown(value: object) -> str:
    if value is None:
        return "left out"
    if isinstance(value, BaseModel):
        return str(value.model_dump(exclude_unset=True))
    return str(list(value) if isinstance(value, tuple) else value)
