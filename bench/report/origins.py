"""The origin of a suite's numbers: the command, and the machines, versions and dates of its runs."""

import os
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bench.plan import Plan
from methods import own_files

ORIGIN = ("commit", "host", "device", "threads", "versions")  # runs with equal values form a group
UNKNOWN = "—"


def command(plan: Plan, *options: str) -> str:
    """Return the command line that trains a plan, or a part of it."""
    words = ["python", "run_suite.py", _from_here(plan.file), *options]
    words += [f"--set={change}" for change in plan.changes]
    used = {term.method for run in plan.runs.values() for term in run.terms}
    own = {path.stem for path in own_files()}
    words += [f"--plugin={name}.py" for name in sorted(used - own)]
    return shlex.join(words)


def _from_here(path: Path) -> str:
    """Return a path relative to the working folder; outside it only the name, since pages are published."""
    relative = os.path.relpath(path)
    return path.name if relative.startswith(os.pardir) else relative


def origins(records: Iterable[Mapping[str, Any]]) -> dict[tuple[str, ...], dict[str, str]]:
    """Return the groups of finished runs with the same origin: commit, machine, versions, dates and number of runs."""
    groups: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for record in records:
        groups.setdefault(origin_of(record), []).append(record)
    return {
        origin: {
            **dict(zip(ORIGIN, origin, strict=True)),
            "date": _days({record["date"] for record in alike if "date" in record}),
            "runs": str(len(alike)),
        }
        for origin, alike in groups.items()
    }


def _days(dates: set[str]) -> str:
    if not dates:
        return UNKNOWN
    first, last = min(dates), max(dates)
    return first if first == last else f"{first} to {last}"


def origin_of(record: Mapping[str, Any]) -> tuple[str, ...]:
    """Return a record's `ORIGIN`."""
    commit = record.get("commit") or "not recorded"
    if record.get("dirty"):
        commit = f"{commit} with changes beside it"
    host, device, threads = (str(record.get(name, UNKNOWN)) for name in ("host", "device", "threads"))
    versions = ", ".join(f"{name} {version}" for name, version in record.get("versions", {}).items())
    return commit, host, device, threads, versions or UNKNOWN
