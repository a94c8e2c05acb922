"""The rows of a table: expands the grids of a suite file and labels the rows. Imports no torch."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.suite.entries import NONE, Combine, MethodEntry, TermEntry, TermsEntry, listed
from bench.suite.pairs import repeated
from bench.suite.schema import Suite
from methods import Method

LOGITS = "logits"  # the family of methods that read nothing else of a teacher
MAX_ROWS = 1_000  # rows of a table; a few lists can span a grid of billions


@dataclass(frozen=True)
class Row:
    """One row of the table: an entry with one value for each parameter."""

    label: str  # as printed
    method: str  # registered names, joined by `+` where several terms were listed
    terms: tuple[tuple[str, dict[str, Any]], ...] = ()
    """(method, settings given) of each term, including the KD term added to a method; see `TermEntry.settings`."""
    task_weight: float | None = None  # of the cross-entropy, or None for the default of the method
    combine: Combine = "sum"  # of the terms of several teachers
    overrides: str = ""  # settings of the row that differ from the defaults, for captions
    standard: str = ""  # the method's name in published tables, such as CRD+KD; "" for several terms
    in_grid: bool = False  # whether the entry lists several values for a parameter
    variant: str = ""  # whose formula it has, `reference` or `paper`, where the two differ; of several terms, with `+`
    published: str = ""  # the row of the published table that the suite names; "" if it names none


def rows(suite: Suite, methods: Mapping[str, Method], pair: str = "") -> list[Row]:
    """Return the rows of the table in order, without `none`, with the settings of the pair of that name."""
    return [row for entry in suite.methods for row in rows_of(entry, methods, pair)]


def check_rows(entries: Sequence[MethodEntry | TermsEntry], methods: Mapping[str, Method]) -> None:
    """Raise a `ValueError` if entries span too many rows, share a label, or combine teachers as they cannot."""
    values = [[listed(value) for term in _terms(entry) for value in term.settings.values()] for entry in entries]
    count = sum(math.prod(map(len, lists)) for lists in values)
    if count > MAX_ROWS:
        raise ValueError(f"span a grid of {count} rows; a table has at most {MAX_ROWS}")
    for entry in entries:
        others = [
            term.method for term in _terms(entry) if term.method != NONE and methods[term.method].family != LOGITS
        ]
        if entry.combine == "probabilities" and others:
            raise ValueError(
                f"combine: probabilities is for methods of the family {LOGITS}, and {', '.join(others)} read more of a "
                "teacher than its probabilities. Use sum, mean or one"
            )
    undistilled = [NONE for entry in entries if _is_none(entry)]
    if twice := repeated([*undistilled, *(row.label for entry in entries for row in rows_of(entry, methods))]):
        raise ValueError(
            f"the same method twice: {', '.join(twice)}. "
            "Leave one out, or give each its own 'label' if their settings differ"
        )


def rows_of(entry: MethodEntry | TermsEntry, methods: Mapping[str, Method], pair: str = "") -> Iterator[Row]:
    """Yield one row per combination of the values that an entry lists; no row for `none`.

    The rows have the settings that `by_pair` gives to the pair of that name. Labels are the same for all pairs.
    """
    if _is_none(entry):
        return
    terms = _terms(entry)
    several = isinstance(entry, TermsEntry)
    kd = [] if entry.kd is None else [("kd", {"weight": entry.kd, "temperature": entry.kd_temperature})]
    of_pair = entry.by_pair[pair].settings if isinstance(entry, MethodEntry) and pair in entry.by_pair else {}
    title = "+".join([*(methods[term.method].title for term in terms), *("KD" for _ in kd)])
    task_weight = 1.0 if several else methods[terms[0].method].task_weight
    defaults = {"kd": 1.0, "kd_temperature": 4.0, "task_weight": task_weight, "combine": "sum"}
    of_row = {key: getattr(entry, key) for key in defaults}
    row_settings = [_setting(key, value) for key, value in of_row.items() if value not in (None, defaults[key])]
    varied = [{key for key, value in term.settings.items() if len(listed(value)) > 1} for term in terms]
    grids = [itertools.product(*map(listed, term.settings.values())) for term in terms]
    for combination in itertools.product(*grids):
        chosen: list[tuple[str, dict[str, Any]]] = []
        differing: list[str] = []
        labelled: list[str] = []  # differs from the default, or is varied by the grid
        for term, values, varied_keys in zip(terms, combination, varied, strict=True):
            settings = dict(zip(term.settings, values, strict=True))
            used = settings | of_pair
            chosen.append((term.method, used))
            default_of = methods[term.method].default
            differing += [_setting(key, value) for key, value in used.items() if value != default_of(key)]
            for key, value in settings.items():
                if value != default_of(key) or key in varied_keys:
                    labelled.append(_setting(key, value))
        label = entry.label or title
        if any(varied) or not entry.label:
            label = f"{label} {', '.join([*labelled, *row_settings])}".strip()
        yield Row(
            label=label,
            method="+".join(term.method for term in terms),
            terms=(*chosen, *kd),
            task_weight=1.0 if several and entry.task_weight is None else entry.task_weight,
            combine=entry.combine,
            overrides=", ".join([*differing, *row_settings]),
            standard="" if several else title,  # several terms have their own weights, not the paper's
            in_grid=any(varied),
            variant="+".join(dict.fromkeys(filter(None, (methods[name].variant_of(used) for name, used in chosen)))),
            published=(entry.published or "") if isinstance(entry, MethodEntry) else "",
        )


def _is_none(entry: MethodEntry | TermsEntry) -> bool:
    return isinstance(entry, MethodEntry) and entry.method == NONE


def _terms(entry: MethodEntry | TermsEntry) -> Sequence[TermEntry]:
    return entry.terms if isinstance(entry, TermsEntry) else (entry,)


def _setting(key: str, value: object) -> str:
    return f"{key}={value:g}" if isinstance(value, float) else f"{key}={value}"
