"""Output of `list`: methods, networks, data sets and suites. Imports no torch."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml
from rich.markup import escape
from rich.table import Table

from bench.data import DATASETS, IMAGEFOLDER, IMAGEFOLDER_SUMMARY
from bench.models import NETWORKS
from bench.types import RequestError, suggest
from methods import Method, catalog

SUITES = Path("suites")


def listing(kind: str, name: str | None, plugins: Iterable[Path]) -> Iterator[Any]:
    """Yield a table of all methods, models, datasets or suites, or the description of the one with the given name.

    Raises:
        RequestError: no entry has that name.
    """
    summaries, detail = _kinds(plugins)[kind]()
    if name is None:
        table = Table(title=kind)
        table.add_column("name")
        table.add_column("description")
        for known, summary in summaries.items():
            table.add_row(escape(known), escape(summary))
        yield table
    elif name in summaries:
        yield from detail(name)
    else:
        raise RequestError(f"list {kind} {name}: there is no such name. {suggest(name, summaries)}")


Kind = tuple[dict[str, str], Callable[[str], Iterator[Any]]]


def _kinds(plugins: Iterable[Path]) -> dict[str, Callable[[], Kind]]:
    def methods() -> Kind:
        known = catalog(plugins)
        summaries = {name: method.summary.partition("\n")[0] for name, method in known.items()}
        return summaries, lambda name: _method(known[name])

    def models() -> Kind:
        known = {name: entry.summary for name, entry in NETWORKS.items()}
        return known, lambda name: iter([escape(f"{name}: {known[name]}")])

    def datasets() -> Kind:
        known = {name: f"{data.summary}; {data.where}" for name, data in DATASETS.items()}
        known[IMAGEFOLDER] = IMAGEFOLDER_SUMMARY
        return known, _dataset

    def suites() -> Kind:
        paths = {path.stem: path for path in sorted(SUITES.rglob("*.yaml"))}
        titles = {name: _title(path) for name, path in paths.items()}
        return titles, lambda name: iter([escape(paths[name].read_text("utf-8"))])

    return {"methods": methods, "models": models, "datasets": datasets, "suites": suites}


def _title(path: Path) -> str:
    try:
        return str((yaml.safe_load(path.read_text(encoding="utf-8")) or {}).get("title", ""))
    except (yaml.YAMLError, UnicodeDecodeError, AttributeError):
        return "is not a valid suite"


def _method(method: Method) -> Iterator[Any]:
    yield escape(method.summary)
    yield f"\nweight {method.weight:g}, cross-entropy weight {method.task_weight:g}, version {method.version}"
    table = Table("parameter", "type", "default")
    for name, parameter in method.parameters.items():
        table.add_row(name, escape(parameter.annotation), escape(repr(parameter.default)))
    yield table if method.parameters else "no parameters"


def _dataset(name: str) -> Iterator[Any]:
    if name == IMAGEFOLDER:
        yield escape(f"{name}: {IMAGEFOLDER_SUMMARY}")
        text = "data: {name: imagefolder, path: DIR, mean: [m, m, m], std: [s, s, s], augment: crop_flip, resize: 32}"
        yield escape(text)
        return
    data = DATASETS[name]
    height, width = data.size
    yield f"{name}: {data.summary}"
    yield f"{data.train} training and {data.test} test images, {data.classes} classes, {height}x{width} pixels"
    yield escape(f"mean {list(data.mean)}, std {list(data.std)}, augmentation {data.augment}")
    yield data.where
    if data.views:
        yield f"views: {', '.join(data.views)}"
