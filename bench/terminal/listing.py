"""Output of `list`: methods, networks, data sets and suites. Imports no torch."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml
from rich.table import Table

from bench.data import DATASETS, IMAGEFOLDER, IMAGEFOLDER_SUMMARY
from bench.models import NETWORKS
from bench.terminal.markup import escape
from bench.types import RequestError, suggest
from methods import Method, catalog

SUITES = Path("suites")
IMAGEFOLDER_EXAMPLE = (
    "data: {name: imagefolder, path: DIR, mean: [m, m, m], std: [s, s, s], augment: crop_flip, resize: 32}"
)


def listing(kind: str, name: str | None, plugins: Iterable[Path]) -> Iterator[Any]:
    """Yield a table of all methods, models, datasets or suites, or the description of the one with the given name.

    Raises:
        RequestError: no entry has that name.
    """
    methods = catalog(plugins) if kind == "methods" else {}
    suites = {path.stem: path for path in sorted(SUITES.rglob("*.yaml"))}
    if kind == "methods":
        summaries = {known: method.summary.partition("\n")[0] for known, method in methods.items()}
    elif kind == "models":
        summaries = {known: entry.summary for known, entry in NETWORKS.items()}
    elif kind == "datasets":
        summaries = {known: f"{data.summary}; {data.where}" for known, data in DATASETS.items()}
        summaries[IMAGEFOLDER] = IMAGEFOLDER_SUMMARY
    else:
        summaries = {known: _title(path) for known, path in suites.items()}
    if name is None:
        table = Table("name", "description", title=kind)
        for known, summary in summaries.items():
            table.add_row(escape(known), escape(summary))
        yield table
    elif name not in summaries:
        raise RequestError(f"list {kind} {name}: there is no such name. {suggest(name, summaries)}")
    elif kind == "methods":
        yield from _method(methods[name])
    elif kind == "datasets" and name != IMAGEFOLDER:
        yield from _dataset(name)
    elif kind == "suites":
        yield escape(suites[name].read_text("utf-8"))
    else:
        yield escape(f"{name}: {summaries[name]}")
        if name == IMAGEFOLDER:
            yield escape(IMAGEFOLDER_EXAMPLE)


def _title(path: Path) -> str:
    try:
        return str((yaml.safe_load(path.read_text(encoding="utf-8")) or {}).get("title", ""))
    except (yaml.YAMLError, UnicodeDecodeError, AttributeError):
        return "is not a valid suite"


def _method(method: Method) -> Iterator[Any]:
    yield escape(method.summary)
    warmup = f", warmup {method.warmup} epochs" if method.warmup else ""
    yield f"\nweight {method.weight:g}{warmup}, cross-entropy weight {method.task_weight:g}, version {method.version}"
    table = Table("parameter", "type", "default")
    for name, parameter in method.parameters.items():
        table.add_row(name, escape(parameter.annotation), escape(repr(parameter.default)))
    yield table if method.parameters else "no parameters"


def _dataset(name: str) -> Iterator[Any]:
    data = DATASETS[name]
    height, width = data.size
    yield f"{name}: {data.summary}"
    yield f"{data.train} training and {data.test} test images, {data.classes} classes, {height}x{width} pixels"
    yield escape(f"mean {list(data.mean)}, std {list(data.std)}, augmentation {data.augment}")
    yield data.where
    if data.views:
        yield f"views: {', '.join(data.views)}"
