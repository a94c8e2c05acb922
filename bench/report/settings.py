"""The settings that differ between two results, and facts of their records. Imports no torch."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from bench.report.sides import Matched, Measured
from bench.spec import canonical_document
from bench.store import Store

FACTS = ("device", "host", "threads", "commit", "dirty", "versions", "methods_sha256")  # of a record, beside the spec


@dataclass(frozen=True)
class Setting:
    """A setting or a fact that differs, and the rows in which it does; "" where a side has none."""

    # as in `spec.json`; settings of teachers and of evaluated runs begin with `teacher.` and `source.`, facts of a
    # record with `record.`
    key: str
    a: str
    b: str
    rows: Sequence[str]  # `pair: label`, after the suite's name if there are several


def differing_settings(
    matched: Sequence[Matched], store_a: Store | None, store_b: Store | None
) -> tuple[list[Setting], list[str]]:
    """Return the settings that differ, and the rows whose settings are not known on both sides.

    Args:
        matched: the cells with a number on both sides.
        store_a: has the runs of one side; None if there are only files of a report.
        store_b: has the runs of the other side.
    """
    with_runs = {one.row: one for one in reversed(matched) if one.a.runs and one.b.runs}
    differing: dict[tuple[str, str, str], list[str]] = {}
    unknown: list[str] = []
    for row in dict.fromkeys(one.row for one in matched):
        one = with_runs.get(row)
        facts_a, facts_b = (_facts(one.a, store_a), _facts(one.b, store_b)) if one else ({}, {})
        if facts_a and facts_b:
            for key in {**facts_a, **facts_b}:
                a, b = facts_a.get(key, ""), facts_b.get(key, "")
                if a != b:
                    differing.setdefault((key, a, b), []).append(row)
        elif one is None or one.a.runs != one.b.runs:  # equal ids stand for equal settings
            unknown.append(row)
    settings = [Setting(*key, rows) for key, rows in differing.items()]
    return sorted(settings, key=lambda one: one.key.startswith("record.")), unknown


def _facts(one: Measured, store: Store | None) -> dict[str, str]:
    """Return the settings and facts of a cell's finished runs by key; nothing if they are not in the store.

    Where the values of several seeds differ, all of them are listed.
    """
    if store is None:
        return {}
    facts: dict[str, set[str]] = {}
    for run_id in one.runs.values():
        for key, value in _of_run(store, run_id):
            facts.setdefault(key, set()).add(value)
    return {key: ", ".join(sorted(values)) for key, values in facts.items()}


def _of_run(store: Store, run_id: str, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield the settings of a run without its seeds, those of the runs that it needs, and the facts of its record."""
    spec = store.spec(run_id)
    if spec is None:
        return
    document = canonical_document(spec)
    for name in ("teachers", "source", "seed", "order_seed"):
        document.pop(name, None)
    yield from _flat(document, prefix)
    for teacher in spec.teachers:
        yield from _of_run(store, teacher, f"{prefix}teacher.")
    if spec.source is not None:
        yield from _of_run(store, spec.source, f"{prefix}source.")
    record = store.record(run_id) or {}
    if not prefix:
        yield from _flat({key: record[key] for key in FACTS if record.get(key) is not None}, "record.")


def _flat(document: object, prefix: str) -> Iterator[tuple[str, str]]:
    """Yield the leaves of a JSON document with their dotted keys; a list of scalars is one leaf."""
    if isinstance(document, Mapping):
        for key, value in document.items():
            yield from _flat(value, f"{prefix}{key}.")
    elif isinstance(document, list | tuple) and any(isinstance(value, Mapping) for value in document):
        for number, value in enumerate(document):
            yield from _flat(value, f"{prefix.removesuffix('.')}[{number}].")
    else:
        text = ", ".join(map(str, document)) if isinstance(document, list | tuple) else str(document)
        yield prefix.removesuffix("."), text
