"""The origin of a suite's numbers: the command, and the machines, versions and dates of its runs."""

import os
from collections.abc import Iterable, Mapping
from typing import Any

from bench.plan import Plan
from bench.program import started_as
from bench.report.layout import MISSING
from bench.suite import command_word
from bench.text import printable

ORIGIN = ("commit", "host", "device", "threads", "versions")  # runs with equal values form a group


def training_command(plan: Plan) -> list[str]:
    """Return the words of the command line that trains a plan."""
    file = command_word(plan.file)
    if os.path.dirname(file):  # a path
        file = os.path.relpath(file)
    if file.startswith(os.pardir):  # outside the working folder: only the name, since pages are published
        file = plan.file.name
    return [*started_as().split(), printable(file), *plan.options]


def origins(records: Iterable[Mapping[str, Any]]) -> dict[tuple[str, ...], dict[str, str]]:
    """Return the groups of finished runs with the same origin: commit, machine, versions, dates and number of runs."""
    groups: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for record in records:
        groups.setdefault(origin_of(record), []).append(record)
    described = {}
    for origin, alike in groups.items():
        dates = [record["date"] for record in alike if "date" in record]
        date = " to ".join(sorted({min(dates), max(dates)})) if dates else MISSING
        described[origin] = {**dict(zip(ORIGIN, origin, strict=True)), "date": date, "runs": str(len(alike))}
    return described


def origin_of(record: Mapping[str, Any]) -> tuple[str, ...]:
    """Return a record's `ORIGIN`."""
    commit = record.get("commit") or "not recorded"
    if record.get("dirty"):
        commit = f"{commit} with uncommitted changes"
    host, device, threads = (str(record.get(name, MISSING)) for name in ("host", "device", "threads"))
    versions = ", ".join(f"{name} {version}" for name, version in record.get("versions", {}).items())
    commit, host, device, threads, versions = map(printable, (commit, host, device, threads, versions or MISSING))
    return commit, host, device, threads, versions
