"""Output of `list`: methods, networks, data sets and suites. Imports no torch."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

from rich.table import Table

from bench.data import DATASETS, IMAGEFOLDER, IMAGEFOLDER_SUMMARY
from bench.data.named import NamedData
from bench.models import NETWORKS, known, library
from bench.models.own import add_networks, file_of
from bench.models.torchvision_stages import torchvision_stages
from bench.reading import read_bytes
from bench.suite import packaged_suites
from bench.suite.yaml_positions import read_yaml
from bench.terminal.markup import escape
from bench.text import plural
from bench.types import RequestError, suggest
from methods import Method, by_family, catalog, costs

IMAGEFOLDER_EXAMPLE = "data: {name: imagefolder, path: DIR}"

FROM_ELSEWHERE = {  # networks that are known by the form of their names
    "torchvision.NAME": f"one of torchvision's classifiers: {', '.join(torchvision_stages())}",
    "timm.NAME": "one of timm's classifiers; needs the extra `timm`",
    "MODULE:FACTORY": "a function of a Python module that takes num_classes and in_channels",
}
COMPARED = "compared with a training step without a teacher (resnet32x4 to resnet8x4, 64 images of CIFAR-100)"
CLASSES = 100  # for which a network is described
PIXELS, PIXELS_OF_LIBRARIES = 32, 224  # height and width of the images for which it is described
OF_MODULE = "MODULE:FACTORY"


def entries(kind: str, plugins: Iterable[Path]) -> dict[str, dict[str, Any]]:
    """Return all methods, models, datasets or suites by name, each as the object that `list --json` prints.

    Each has `name` and `description`, and further keys by kind:

    - methods: `documentation`, `family`, `year`, `reads`, `title` (in tables), `weight`, `task_weight`, `warmup`,
      `version`, `initial_stage`, `variant` (how the formula differs from the paper's), `cost` (see
      `methods.catalog.Cost`; null for a plug-in), and `parameters`, a list of {name, type, default}; the methods are
      sorted by family
    - datasets: `where`, `train` and `test` (numbers of images), `classes`, `height`, `width`, `mean`, `std`, `augment`
      and `views`; image folders have none of them
    - suites: `file`, its path
    """
    if kind == "methods":
        families = by_family(catalog(plugins).values())
        listed = {one.name: _method_entry(one, family) for family, members in families.items() for one in members}
    elif kind == "models":
        add_networks(plugins, NETWORKS)
        listed = {name: {"description": summary} for name, summary in known().items()}
        listed |= {name: {"description": summary} for name, summary in FROM_ELSEWHERE.items()}
    elif kind == "datasets":
        listed = {name: _dataset_entry(data) for name, data in DATASETS.items()}
        listed[IMAGEFOLDER] = {"description": IMAGEFOLDER_SUMMARY}
    else:
        listed = {name: {"description": _title(path), "file": str(path)} for name, path in packaged_suites().items()}
    return {name: {"name": name, **entry} for name, entry in listed.items()}


def entry_of(listed: Mapping[str, dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    """Return the entry of a name; raise a `RequestError` if there is none.

    That of a network also has `pixels`, the height and width of the images for which it is described, `stages`, each as
    [channels, height, width], their `names` if they have some, the width of the `embedding`, the number of
    `parameters`, and whether it gives a `final` map and a `linear` classifier.
    """
    if kind == "models" and name not in FROM_ELSEWHERE:
        return _network_entry(listed, name)
    if name not in listed:
        raise RequestError(f"list {kind} {name}: there is no such name. {suggest(name, listed)}")
    return listed[name]


def listing(kind: str, name: str | None, plugins: Iterable[Path]) -> Iterator[Any]:
    """Yield all methods, models, datasets or suites, or the description of the one with the given name.

    Methods are a table per family, others one table.

    Raises:
        RequestError: no entry has that name.
    """
    listed = entries(kind, plugins)
    if name is None and kind == "methods":
        yield from _methods(listed)
        return
    if name is None:
        table = Table("name", "description", title=kind)
        for known, entry in listed.items():
            place = f"; {entry['where']}" if "where" in entry else ""
            table.add_row(escape(known), escape(entry["description"] + place))
        yield table
        return
    entry = entry_of(listed, kind, name)
    if kind == "methods":
        yield from _method(entry)
    elif "where" in entry:
        yield from _dataset(entry)
    elif "stages" in entry:
        yield from _network(entry)
    elif kind == "suites":
        yield escape(read_bytes(Path(entry["file"])).decode(errors="backslashreplace"))
    else:
        yield escape(f"{name}: {entry['description']}")
        if name == IMAGEFOLDER:
            yield escape(IMAGEFOLDER_EXAMPLE)


def _title(path: Path) -> str:
    try:
        return str(read_yaml(path)[0].get("title", ""))
    except RequestError as error:
        return str(error)  # it names the file


def _methods(listed: Mapping[str, dict[str, Any]]) -> Iterator[Any]:
    """Yield a table of the methods of each family, what their costs are, and whose formula is not the paper's."""
    for family, members in groupby(listed.items(), key=lambda one: one[1]["family"]):
        heads = ("name", "year", "description", "reads", "initial\nstage", "cost\n(%)")
        table = Table(*heads, title=f"methods: {family}", pad_edge=False)  # at 80 columns, the longest word has room
        for name, entry in members:
            initial = "yes" if entry["initial_stage"] else ""
            cost = f"{entry['cost']['arithmetic_percent']:.3g}" if entry["cost"] else ""
            facts = (name, str(entry["year"] or ""), entry["description"], entry["reads"], initial, cost)
            table.add_row(*map(escape, facts))
        yield table
    yield escape(f"cost: the arithmetic of the main stage that a method adds, {COMPARED}. `cost` measures times.")
    others = ", ".join(name for name, entry in listed.items() if entry["variant"])
    if others:
        yield escape(f"variant: by default, {others} have the formula of the published tables' code, not the paper's.")


def _method_entry(method: Method, family: str) -> dict[str, Any]:
    same = ("year", "reads", "title", "weight", "task_weight", "warmup", "version")
    return {
        "description": method.summary.partition("\n")[0],
        "documentation": method.summary,
        "family": family,
        **{key: getattr(method, key) for key in same},
        "initial_stage": method.has_initial_stage,
        "variant": method.variant,
        "cost": cost._asdict() if (cost := costs().get(method.name)) else None,
        "parameters": [
            {"name": name, "type": one.annotation, "default": one.default} for name, one in method.parameters.items()
        ],
    }


def _method(entry: Mapping[str, Any]) -> Iterator[Any]:
    yield escape(entry["documentation"])
    warmup = f", warmup {entry['warmup']} epochs" if entry["warmup"] else ""
    weights = f"weight {entry['weight']:g}{warmup}, cross-entropy weight {entry['task_weight']:g}"
    yield f"\n{weights}, version {entry['version']}"
    if entry["variant"]:
        yield f"variant: reference: {escape(entry['variant'])}"
    if cost := entry["cost"]:
        more = plural(cost["parameters"], "more parameter")
        counted = f"{cost['arithmetic_percent']:.3g} % more arithmetic, {more}"
        yield escape(f"cost: {counted}, {COMPARED}")
    table = Table("parameter", "type", "default")
    for one in entry["parameters"]:
        table.add_row(one["name"], escape(one["type"]), escape(repr(one["default"])))
    yield table if entry["parameters"] else "no parameters"


def _network_entry(listed: Mapping[str, dict[str, Any]], name: str) -> dict[str, Any]:
    """Return the entry of a network with its shapes.

    Raises:
        RequestError: there is no such network, or it is a user's and breaks the contract of networks.
    """
    source, is_own = library(name), file_of(name) is not None
    if name not in listed and not is_own and source is None:
        raise RequestError(f"list models {name}: there is no such name. {suggest(name, listed)}")
    from bench.models.description import described  # torch takes seconds

    pixels = PIXELS if source is None else PIXELS_OF_LIBRARIES
    description = listed.get(name, {}).get("description") or FROM_ELSEWHERE[f"{source}NAME" if source else OF_MODULE]
    return {"name": name, "description": description, **described(name, CLASSES, pixels, is_own)}


def _network(entry: Mapping[str, Any]) -> Iterator[Any]:
    yield escape(f"{entry['name']}: {entry['description'].partition(':')[0]}")
    size = f"{entry['pixels']}x{entry['pixels']}"
    table = Table("stage", "name", "channels", "height", "width", title=f"for images of {size} pixels")
    for place, (name, shape) in enumerate(zip(entry["names"], entry["stages"], strict=True)):
        table.add_row(str(place), escape(name), *map(str, shape))
    yield table
    yield f"embedding: {entry['embedding']} values; parameters: {entry['parameters']:,} for {CLASSES} classes"
    yield escape(
        f"final map: {'yes' if entry['final'] else 'no'}; linear classifier: {'yes' if entry['linear'] else 'no'}"
    )


def _dataset_entry(data: NamedData) -> dict[str, Any]:
    same = {key: getattr(data, key) for key in ("where", "train", "test", "classes", "mean", "std", "augment", "views")}
    height, width = data.size
    return {"description": data.summary, **same, "height": height, "width": width}


def _dataset(entry: Mapping[str, Any]) -> Iterator[Any]:
    yield f"{entry['name']}: {entry['description']}"
    size = f"{entry['height']}x{entry['width']} pixels"
    yield f"{entry['train']} training and {entry['test']} test images, {entry['classes']} classes, {size}"
    yield escape(f"mean {list(entry['mean'])}, std {list(entry['std'])}, augmentation {entry['augment']}")
    other = "" if DATASETS[entry["name"]].folder is None else " (--data DIR names another folder than data/)"
    yield escape(f"{entry['where']}{other}")
    if entry["views"]:
        yield f"views: {', '.join(entry['views'])}"
