"""Finds all methods: in this folder, in installed packages, and in files given by path. Imports no torch."""

import csv
from collections.abc import Iterable
from functools import lru_cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import NamedTuple

from bench.reading import file_of_module, read_bytes
from bench.types import RequestError
from methods._code import NOT_METHODS
from methods._description import Method
from methods._reader import has_networks_only, read

FAMILIES = ("logits", "features", "relations", "contrastive")  # what methods compare
OTHERS = "others"  # methods whose files do not name one of them
COSTS = Path(__file__).with_name("costs.csv")  # as `python -m benchmarks.counts` writes it
ENTRY_POINTS = "distillation_bench.methods"  # the group under which installed packages offer methods


class Cost(NamedTuple):
    """What a method adds to a training step of resnet8x4, which resnet32x4 teaches with 64 images of CIFAR-100.

    Attributes:
        arithmetic_percent: multiplications of products and convolutions in its main stage, in percent of those of the
            undistilled student's step.
        parameters: those that it trains beside the student, or adds to its network.
    """

    arithmetic_percent: float
    parameters: int


@lru_cache(maxsize=1)
def costs() -> dict[str, Cost]:
    """Return the costs of the methods of this folder, by name."""
    with COSTS.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file)
        return {row["method"]: Cost(float(row["arithmetic_percent"]), int(row["parameters"])) for row in rows}


def own_files() -> list[Path]:
    """Return the method files of this folder, sorted: all but `base`, `catalog` and names with an underscore."""
    files = Path(__file__).parent.glob("*.py")
    return sorted(path for path in files if path.stem not in NOT_METHODS and not path.stem.startswith("_"))


@lru_cache(maxsize=256)
def _own_method(path: Path, content: bytes) -> Method:
    """Return a method of this folder; a process reads the same content once."""
    return read(path, f"methods.{path.stem}")


def catalog(plugins: Iterable[Path] = ()) -> dict[str, Method]:
    """Return every method by name, from this folder, installed packages and the given files.

    Raises:
        RequestError: a plugin is not a file, defines no method, or uses a name that is already taken.
    """
    modules = [point.module for point in entry_points(group=ENTRY_POINTS)]
    installed = [(_entry_point_file(module), module) for module in modules]
    own = [_own_method(path, read_bytes(path)) for path in own_files()]
    methods = {method.name: method for method in own}
    for path, module in [*installed, *((path, None) for path in plugins if not has_networks_only(path))]:
        method = read(path, module)
        if method.name in methods and methods[method.name].path.resolve() != path.resolve():
            raise RequestError(f"{path}: the method name {method.name!r} is taken by {methods[method.name].path}")
        methods.setdefault(method.name, method)
    return dict(sorted(methods.items()))


def by_family(methods: Iterable[Method]) -> dict[str, list[Method]]:
    """Return methods by family, in the order of `FAMILIES`, each by year and name; others follow."""
    families: dict[str, list[Method]] = {family: [] for family in FAMILIES}
    for method in sorted(methods, key=lambda one: (one.year or 0, one.name)):
        families.setdefault(method.family if method.family in FAMILIES else OTHERS, []).append(method)
    return {family: members for family, members in families.items() if members}


def _entry_point_file(module: str) -> Path:
    path = file_of_module(module)
    if path is None:
        raise RequestError(f"entry point {module!r} of group {ENTRY_POINTS!r}: there is no such module")
    return path
