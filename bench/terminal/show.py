"""Output of `show`: one run. Imports no torch."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import yaml
from rich.console import RenderableType

from bench.plan.repeat import ENTRY, SOURCE, command
from bench.plan.status import changed
from bench.spec import RunSpec, column
from bench.store import Store
from bench.tasks import task_of
from bench.terminal.markup import copyable, escape
from bench.types import RequestError
from methods import catalog

BARS = "▁▂▃▄▅▆▇█"
CURVE_WIDTH = 60  # characters


def describe(store: Store, run: str) -> Iterator[RenderableType]:
    """Yield state, specification, curves, record or failure of a run, and how to repeat it.

    Raises:
        RequestError: no run, or more than one, has an id with that beginning.
    """
    run_id = store.run_id(run)
    spec = store.spec(run_id)
    if spec is None:
        raise RequestError(f"run {run_id} has no specification: it never started")
    yield f"[bold]run {run_id}[/bold]  {_state(spec, store)}  {escape(str(store.folder(run_id)))}"
    yield escape(_yaml(spec.model_dump(mode="json", exclude_none=True)))
    task = task_of(spec)
    losses = [column(network, "loss") for network in task.networks]
    for name in (*losses, *(task.columns(network)[0] for network in task.networks if task.metrics)):
        yield from _curve(store, run_id, name)
    if (record := store.record(run_id)) is not None:
        yield escape(_yaml(record))
    if (failure := store.failure(run_id)) is not None:
        yield escape(f"{failure.status}: {failure.reason}\n{failure.details}")
    yield "[bold]To repeat it[/bold]"
    if (content := store.content(run_id, ENTRY)) is None:
        yield "An earlier version started it, which did not store its suite: write a suite file with the settings above"
        return
    text = content.decode(errors="replace")
    yield copyable(text)
    if "\ntask: transfer\n" in text:
        yield copyable(f"# {SOURCE}\n{(store.content(run_id, SOURCE) or b'').decode(errors='replace')}")
    yield copyable(command(store.folder(run_id) / ENTRY, text))


def _state(spec: RunSpec, store: Store) -> str:
    """Return the state of a run; files given by `--plugin` are not known here."""
    record, known = store.record(spec.id), catalog()
    own = {term.method: known[term.method].code for term in spec.terms if term.method in known}
    change = None if record is None else changed(spec, record, own, store)
    return store.state(spec.id) if change is None else f"stale: {change.reason}"


def _curve(store: Store, run_id: str, name: str) -> Iterator[str]:
    """Yield a column of the epochs of the main stage as bars, if there is one."""
    values = [row[name] for row in store.epochs(run_id) if row["stage"] == "main" and name in row]
    if values:
        picked = values[:: math.ceil(len(values) / CURVE_WIDTH)]
        low = min(picked)
        height = (max(picked) - low) or 1
        bars = "".join(BARS[round((value - low) / height * (len(BARS) - 1))] for value in picked)
        yield f"{name:>5} {bars}  first {values[0]:.4g}, last {values[-1]:.4g}"


def _yaml(document: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(document), sort_keys=False, allow_unicode=True, default_flow_style=None, width=110)
