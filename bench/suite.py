"""The suite file: what it may say, and one message with every error of it. Imports no torch."""

import csv
import itertools
import json
import math
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from annotated_types import Ge, Le, Len
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails

from bench.data import DATASETS, IMAGEFOLDER, DataChoice
from bench.models import NETWORKS
from bench.spec import NetworkSpec, Schedule, Strict
from bench.types import RequestError, suggest
from methods.catalog import Method, own_files

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")  # a suite's name is a folder below the results
RESERVED = {"runs"}  # the results folder holds the runs beside the suites
LARGEST_FILE = 1_000_000  # bytes
LARGEST_DOCUMENT = 100_000  # values, aliases followed: a few lines of YAML can expand to billions
MOST_ROWS = 1_000  # of a table: a few lists can span a grid of billions
MOST_SEEDS = 1_000
NONE = "none"  # the undistilled student
TEACHER = "teacher"

Place = tuple[str | int, ...]  # the keys and indices that lead to a value of the document


class Network(NetworkSpec):
    """A network of a pair; a bare name stands for `{network: NAME}`."""

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: object) -> object:
        return {"network": value} if isinstance(value, str) else value

    @field_validator("network")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in NETWORKS and not name.startswith("torchvision."):
            raise ValueError(f"unknown network {name!r}. {suggest(name, NETWORKS)}, torchvision.NAME")
        return name

    @model_validator(mode="after")
    def _stages_named(self) -> "Network":
        hooked = self.network.startswith("torchvision.")
        if hooked and not self.stages:
            raise ValueError(f"{self.network} needs 'stages': the paths of the modules whose outputs are its stages")
        if not hooked and (self.stages or self.classifier):
            raise ValueError(f"'stages' and 'classifier' are for torchvision.NAME; {self.network} has its own")
        return self


class Teacher(Network):
    """A pair's teacher: trained here, or read from a checkpoint file.

    Attributes:
        checkpoint: path of the weights, absolute or relative to the suite file.
        accuracy: top-1 in percent that the checkpoint must reach on the data's test split, within 0.1 points.
    """

    checkpoint: str | None = None
    accuracy: Annotated[float, Field(ge=0, le=100)] | None = None

    @model_validator(mode="after")
    def _accuracy_of_a_checkpoint(self) -> "Teacher":
        if self.accuracy is not None and self.checkpoint is None:
            raise ValueError("'accuracy' is checked against a checkpoint; name one or leave it out")
        return self

    @property
    def spec(self) -> NetworkSpec:
        """Return the network alone."""
        return NetworkSpec(network=self.network, stages=self.stages, classifier=self.classifier)


class Pair(Strict):
    """A teacher and the student it teaches."""

    teacher: Teacher
    student: Network

    @property
    def name(self) -> str:
        """Return `<teacher>-><student>`."""
        return f"{self.teacher.network}->{self.student.network}"


class Term(BaseModel):
    """A method with its parameters; a bare name stands for `{method: NAME}`. A list of values spans a grid.

    Attributes:
        method: a name of `run_suite.py list methods`; its own parameters stand beside it.
        weight: factor of the term in the total loss; the method's own if not given.
    """

    model_config = ConfigDict(extra="allow", frozen=True, strict=True, allow_inf_nan=False)

    method: str
    weight: NonNegativeFloat | tuple[NonNegativeFloat, ...] | None = None

    @property
    def grid(self) -> Iterator[tuple[float | None, dict[str, Any]]]:
        """Yield (weight, parameters) for every combination of the values listed."""
        for values in itertools.product(*map(listed, self.settings.values())):
            chosen = dict(zip(self.settings, values, strict=True))
            yield chosen.pop("weight"), chosen

    @property
    def grid_size(self) -> int:
        """Return the number of combinations."""
        return math.prod(len(listed(value)) for value in self.settings.values())

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: object) -> object:
        return {"method": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _known(self, info: ValidationInfo) -> "Term":
        self._check_method(info)
        return self

    def _check_method(self, info: ValidationInfo) -> None:
        methods: Mapping[str, Method] = (info.context or {}).get("methods", {})
        if self.method == NONE:
            if self.parameters or self.weight is not None:
                raise ValueError("'none' is the undistilled student: it takes no parameters")
            return
        if self.method not in methods:
            raise ValueError(f"unknown method {self.method!r}. {suggest(self.method, [*methods, NONE])}")
        allowed = [*methods[self.method].parameters, *(key for key in type(self).model_fields if key != "terms")]
        if problems := list(self._problems(methods[self.method], allowed)):
            raise ValueError("; ".join(problems))

    def _problems(self, method: Method, allowed: Sequence[str]) -> Iterator[str]:
        """Yield what is wrong with the parameters."""
        for name, value in self.parameters.items():
            if name not in method.parameters:
                yield f"{self.method} has no parameter {name!r}. {suggest(name, allowed)}"
                continue
            for one in listed(value):
                try:
                    method.parameters[name].adapter.validate_python(one)
                except ValidationError as error:
                    yield f"parameter {name!r} of {self.method}: {_reason(error.errors())}"
        for name, value in self.settings.items():
            if value == ():
                yield f"{name!r} of {self.method} is an empty list: a grid needs a value"

    @property
    def parameters(self) -> dict[str, Any]:
        """Return the method's own parameters, as far as they are given."""
        return dict(self.model_extra or {})

    @property
    def settings(self) -> dict[str, Any]:
        """Return weight and parameters, lists being values to take in turn."""
        return {"weight": self.weight, **self.parameters}


class Entry(Term):
    """One row of the table: a method, or several terms together.

    Attributes:
        terms: several methods whose terms are added; takes the place of `method`.
        kd: weight of Hinton's KD term beside the method.
        kd_temperature: its temperature.
        task_weight: weight of the cross-entropy; the method's own if not given, 1 for several terms.
        combine: whether the terms of several teachers are summed or averaged.
        label: the row's name, unique in the suite.
    """

    method: str = ""
    terms: Annotated[tuple[Term, ...], Len(1)] | None = None
    kd: NonNegativeFloat | None = None
    kd_temperature: PositiveFloat = 4.0
    task_weight: NonNegativeFloat | None = None
    combine: Literal["sum", "mean"] = "sum"
    label: Annotated[str, Len(1, 60)] | None = None

    @field_validator("label")
    @classmethod
    def _one_line(cls, label: str | None) -> str | None:
        if label is not None and label != " ".join(label.split()):
            raise ValueError(f"found {json.dumps(label)}: a label is one line, its words a single space apart")
        if label is not None and label.lower() in (NONE, TEACHER):
            raise ValueError(f"{label!r} names a row that is always there: choose another label")
        return label

    @model_validator(mode="after")
    def _known(self, info: ValidationInfo) -> "Entry":
        if self.terms is None:
            if not self.method:
                found = f"; found {', '.join(map(repr, self.parameters))}" if self.parameters else ""
                raise ValueError(f"names no method: write {{method: NAME}} or {{terms: [...]}}{found}")
            if self.method == NONE and self.model_fields_set != {"method"}:
                raise ValueError("'none' is the undistilled student: it takes no parameters and no label")
            self._check_method(info)
        elif self.method or self.weight is not None:
            raise ValueError("with 'terms', each term has its own method, weight and parameters")
        elif self.parameters:
            allowed = set(Entry.model_fields) - {"method", "weight"}
            unknown = (f"unknown key {name!r}. {suggest(name, allowed)}" for name in self.parameters)
            raise ValueError(f"{'; '.join(unknown)}. With 'terms', a method's parameters stand in its term")
        elif any(term.method == NONE for term in self.terms):
            raise ValueError("'none' cannot be one of several terms")
        if self.kd is None and "kd_temperature" in self.model_fields_set:
            raise ValueError("'kd_temperature' is for the KD term beside a method: give its weight, 'kd', too")
        return self

    @property
    def rows(self) -> int:
        """Return the number of rows that the grids of all terms span."""
        return math.prod(term.grid_size for term in self.terms or (self,))


class Published(Strict):
    """Where the published numbers to compare with stand.

    Attributes:
        source: the paper.
        table: its table, as in `bench/published.csv`.
    """

    source: str
    table: int | str

    @field_validator("table")
    @classmethod
    def _known(cls, table: int | str) -> int | str:
        with (files("bench") / "published.csv").open(encoding="utf-8") as file:
            known = {row["table"] for row in csv.DictReader(file)}
        if str(table) not in known:
            raise ValueError(f"unknown table {table!r}. {suggest(str(table), known)}")
        return table


class Slurm(BaseModel):
    """The resources of a job; further keys are passed on as `slurm_*`."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)

    partition: str | None = None
    gpus_per_node: NonNegativeInt | None = None
    cpus_per_task: PositiveInt | None = None
    mem_gb: PositiveFloat | None = None
    timeout_min: PositiveInt | None = None
    max_parallel: PositiveInt | None = None


class Data(DataChoice):
    """A suite's data; a bare name stands for `{name: NAME}`."""

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: object) -> object:
        return {"name": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _sound(self) -> "Data":
        if problems := self.problems():
            raise ValueError("; ".join(problems))
        return self


class TeacherTraining(Schedule):
    """What differs for teachers that are trained here; a key that is not given is `training`'s."""


class Suite(Strict):
    """One table or figure: pairs, methods, seeds and how to train.

    Attributes:
        title: what the table shows.
        task: what the views and the evaluation are.
        data: what students train on and all are evaluated on.
        teacher_data: what teachers train on, where it is other data of the same classes.
        pairs: teachers and students, a column each.
        methods: the rows; `teacher` and `none` are always there.
        seeds: their number (1 to n), or a list of them.
        teacher_seeds: `fixed`: one teacher with seed 0 serves all students; `paired`: each seed has its own.
        training: how students train, and teachers unless said otherwise.
        teacher_training: what differs for teachers.
        lr_by_network: learning rates of single networks.
        published: published numbers to print beside.
        threads: CPU threads of the arithmetic; two counts round differently.
        workers: processes that decode images which do not fit into memory.
        slurm: resources of a job on a cluster.
    """

    title: Annotated[str, Len(1)]
    task: Literal["compression"] = "compression"
    data: Data
    teacher_data: Data | None = None
    pairs: Annotated[tuple[Pair, ...], Len(1)]
    methods: Annotated[tuple[Entry, ...], Len(1)]
    seeds: Annotated[int, Ge(1), Le(MOST_SEEDS)] | Annotated[tuple[NonNegativeInt, ...], Len(1, MOST_SEEDS)] = 1
    teacher_seeds: Literal["fixed", "paired"] = "fixed"
    training: Schedule = Schedule()
    teacher_training: TeacherTraining | None = None
    lr_by_network: dict[str, PositiveFloat] = Field(default_factory=dict)
    published: Published | None = None
    threads: PositiveInt = 2
    workers: NonNegativeInt = 2
    slurm: Slurm | None = None

    @field_validator("title")
    @classmethod
    def _one_line(cls, title: str) -> str:
        if not (words := title.split()):
            raise ValueError("a title needs a word")
        return " ".join(words)

    @field_validator("lr_by_network")
    @classmethod
    def _rates_of_networks(cls, rates: dict[str, float]) -> dict[str, float]:
        for name in rates:
            if name not in NETWORKS and not name.startswith("torchvision."):
                raise ValueError(f"unknown network {name!r}. {suggest(name, NETWORKS)}")
        return rates

    @field_validator("pairs")
    @classmethod
    def _distinct_pairs(cls, pairs: tuple[Pair, ...]) -> tuple[Pair, ...]:
        names = [pair.name for pair in pairs]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"the same pair twice: {', '.join(twice)}")
        return pairs

    @field_validator("seeds")
    @classmethod
    def _distinct_seeds(cls, seeds: int | tuple[int, ...]) -> int | tuple[int, ...]:
        if isinstance(seeds, tuple) and len(set(seeds)) < len(seeds):
            raise ValueError("the same seed twice")
        return seeds

    @field_validator("methods")
    @classmethod
    def _distinct_rows(cls, entries: tuple[Entry, ...], info: ValidationInfo) -> tuple[Entry, ...]:
        if (count := sum(entry.rows for entry in entries)) > MOST_ROWS:
            raise ValueError(f"span a grid of {count} rows; at most {MOST_ROWS} make a table")
        labels = [row.label for row in _rows(entries, (info.context or {}).get("methods", {}))]
        labels += [NONE for entry in entries if entry.method == NONE]
        if twice := sorted({label for label in labels if labels.count(label) > 1}):
            raise ValueError(
                f"the same method twice: {', '.join(twice)}. "
                "Leave one out, or give each its own 'label' if their settings differ"
            )
        return entries

    @property
    def seed_list(self) -> tuple[int, ...]:
        """Return the seeds."""
        return self.seeds if isinstance(self.seeds, tuple) else tuple(range(1, self.seeds + 1))

    @property
    def teacher_schedule(self) -> Schedule:
        """Return how teachers train: `training` with what `teacher_training` sets."""
        differs = self.teacher_training.model_dump(exclude_unset=True) if self.teacher_training else {}
        return self.training.model_copy(update=differs)


@dataclass(frozen=True)
class Row:
    """One row of the table: an entry with one value for each parameter.

    Attributes:
        label: as printed.
        method: registered names, joined by `+` where several terms were listed.
        terms: (method, weight or None, parameters given) of each, KD beside the method included.
        task_weight: weight of the cross-entropy, or None for the method's own.
        combine: of several teachers' terms.
        overrides: what the row sets that is not the default, for captions.
    """

    label: str
    method: str
    terms: tuple[tuple[str, float | None, dict[str, Any]], ...]
    task_weight: float | None
    combine: Literal["sum", "mean"]
    overrides: str


def rows(suite: Suite, methods: Mapping[str, Method]) -> list[Row]:
    """Return the table's rows in order, grids spread out, `none` left out."""
    return _rows(suite.methods, methods)


def _rows(entries: Sequence[Entry], methods: Mapping[str, Method]) -> list[Row]:
    return [row for entry in entries if entry.method != NONE for row in _spread(entry, methods)]


def _spread(entry: Entry, methods: Mapping[str, Method]) -> Iterator[Row]:
    terms: Sequence[Term] = entry.terms or (entry,)
    for settings in itertools.product(*(term.grid for term in terms)):
        chosen = [(term.method, weight, given) for term, (weight, given) in zip(terms, settings, strict=True)]
        said, differing = [], []
        for term, (name, weight, given) in zip(terms, chosen, strict=True):
            differs = _differing(methods[name], weight, given)
            values = {"weight": weight, **given}
            spanned = {key for key, value in term.settings.items() if len(listed(value)) > 1}
            said += [_setting(key, value) for key, value in values.items() if key in spanned | differs.keys()]
            differing += [_setting(key, value) for key, value in differs.items()]
        beside = list(_beside(entry, methods))
        overrides = ", ".join([*differing, *beside])
        plain = "+".join([*(methods[term.method].title for term in terms), *(["KD"] if entry.kd is not None else [])])
        spans = any(term.grid_size > 1 for term in terms)
        label = (
            " ".join([entry.label or plain, ", ".join([*said, *beside])]) if spans or not entry.label else entry.label
        )
        if entry.kd is not None:
            chosen.append(("kd", entry.kd, {"temperature": entry.kd_temperature}))
        yield Row(
            label=label.strip(),
            method="+".join(term.method for term in terms),
            terms=tuple(chosen),
            task_weight=entry.task_weight if entry.task_weight is not None else (1.0 if entry.terms else None),
            combine=entry.combine,
            overrides=overrides,
        )


def listed(value: object) -> Sequence[Any]:
    """Return the values that a setting takes in turn: a list's items, or the one value."""
    return value if isinstance(value, tuple) else (value,)


def _differing(method: Method, weight: float | None, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a term that are not the method's defaults."""
    defaults = {name: parameter.default for name, parameter in method.parameters.items()}
    weights = {} if weight in (None, method.weight) else {"weight": weight}
    return weights | {name: value for name, value in given.items() if value != defaults[name]}


def _beside(entry: Entry, methods: Mapping[str, Method]) -> Iterator[str]:
    """Yield what an entry sets beside its terms that is not the default."""
    own = 1.0 if entry.terms else methods[entry.method].task_weight
    defaults = {"kd": 1.0, "kd_temperature": 4.0, "task_weight": own, "combine": "sum"}
    for key, default in defaults.items():
        if (value := getattr(entry, key)) not in (None, default):
            yield _setting(key, value)


def _setting(key: str, value: object) -> str:
    return f"{key}={value:g}" if isinstance(value, float) else f"{key}={value}"


def load(path: Path, methods: Mapping[str, Method], overrides: Sequence[str] = ()) -> Suite:
    """Return the suite a file describes.

    Args:
        path: the YAML file.
        methods: the known methods, by name.
        overrides: `KEY=VALUE` with dotted keys, as `--set` takes them.

    Raises:
        RequestError: with every error of the file, a line each.
    """
    check_name(path)
    document, places = read_yaml(path)
    for override in overrides:
        _override(document, places, override)
    try:
        return Suite.model_validate(_frozen(document), context={"methods": methods})
    except ValidationError as error:
        raise RequestError("\n".join(_messages(error, places))) from None


def check_name(path: Path) -> None:
    """Check that a suite file's stem can name a folder of its own below the results.

    Raises:
        RequestError: it cannot.
    """
    if not NAME.fullmatch(path.stem) or path.stem in RESERVED:
        raise RequestError(
            f"{path}: the file's name, {path.stem!r}, cannot name a folder of the results: "
            "letters, digits, '.', '_' and '-', the first a letter or digit, and not 'runs'. Rename the file"
        )


def read_yaml(path: Path) -> tuple[dict[str, Any], dict[Place, str]]:
    """Return a YAML file's mapping, and where each key and item stands: `FILE:LINE`, lines counted from 1.

    Raises:
        RequestError: the file is missing, broken, too large, holds a key twice, or anything but plain data.
    """
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise RequestError(f"{path}: larger than {LARGEST_FILE} bytes; a suite file is a page of text")
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        near = suggest(path.name, [p.name for p in path.parent.glob("*.yaml")]) if path.parent.is_dir() else ""
        raise RequestError(f"{path}: there is no such file. {near}".strip()) from None
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"{path}: cannot be read: {error}") from None
    places: dict[Place, str] = {}
    document = _parse(text, str(path), (), places, numbered=True)
    if not isinstance(document, dict):
        found = "an empty file" if document is None else f"one {type(document).__name__}"
        raise RequestError(f"{path}: found {found}, not a mapping of keys to values; see the README's example")
    return document, places


def _parse(text: str, where: str, at: Place, places: dict[Place, str], numbered: bool = False) -> object:
    """Return the plain data of a YAML text, and add where its keys and items stand.

    Args:
        text: the text.
        where: what to call it in messages.
        at: the place of the whole.
        places: is filled.
        numbered: whether lines are worth naming.

    Raises:
        RequestError: it is broken, too large, holds a key twice, or anything but plain data.
    """
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        if root is None:
            return None
        _note_places(root, where, at, places, numbered)  # before the data is made: that would follow every alias
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RequestError(f"{where}: is no YAML of plain data: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise RequestError(f"{where}: is nested too deeply") from None
    except (ValueError, AttributeError, TypeError, KeyError) as error:  # a tag at odds with its value: `!!int x`
        raise RequestError(f"{where}: a value is not what its tag says: {error}") from None


def _note_places(node: yaml.Node, where: str, at: Place, places: dict[Place, str], numbered: bool) -> None:
    here = f"{where}:{node.start_mark.line + 1}" if numbered else where
    places.setdefault(at, here)
    if len(places) > LARGEST_DOCUMENT:
        raise RequestError(f"{where}: expands to more than {LARGEST_DOCUMENT} values")
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            inner = (*at, str(key.value))
            place = f"{where}:{key.start_mark.line + 1}" if numbered else where
            _check_printable(str(key.value), place)
            if inner in places:
                raise RequestError(f"{place}: {dotted(inner)}: the same key twice, first at {places[inner]}")
            places[inner] = place
            _note_places(key, where, inner, places, numbered)
            _note_places(value, where, inner, places, numbered)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            _note_places(item, where, (*at, index), places, numbered)
    else:
        _check_printable("".join(node.value.split()), here)


def _check_printable(text: str, where: str) -> None:
    if not text.isprintable():
        raise RequestError(f"{where}: found {json.dumps(text)[:60]}: control characters have no place here")


def _override(document: dict[str, Any], places: dict[Place, str], override: str) -> None:
    key, equals, text = override.partition("=")
    where = f"--set {override if len(override) <= 100 else override[:97] + '...'}"
    if not equals or not re.fullmatch(r"\w+(\.\w+)*", key):
        raise RequestError(f"{where}: write it as KEY=VALUE, for example --set training.epochs=2")
    *parents, last = at = tuple(key.split("."))
    for place in [place for place in places if place[: len(at)] == at]:
        del places[place]
    value = _parse(text, where, at, places)
    for depth, parent in enumerate(parents, start=1):
        document = document.setdefault(parent, {})
        if not isinstance(document, dict):
            raise RequestError(f"{where}: {parent!r} is no mapping in the suite file")
        places.setdefault(at[:depth], where)
    places.setdefault(at, where)
    document[last] = value


def _frozen(value: object) -> object:
    """Return plain data with tuples for lists and text for keys, as the strict types take them."""
    if isinstance(value, dict):
        return {str(key): _frozen(item) for key, item in value.items()}
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def dotted(at: Place) -> str:
    """Return a key's place as text: `methods[2].weight`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in at).lstrip(".")


def _messages(error: ValidationError, places: Mapping[Place, str]) -> Iterator[str]:
    """Yield a message a wrong place, in pydantic's order."""
    found: dict[Place, list[ErrorDetails]] = {}
    for item in error.errors():
        at = _place(item["loc"], places)
        if item["type"] == "extra_forbidden" and at[-1:] != item["loc"][-1:]:
            at = (*at, item["loc"][-1])  # a key that is no word is a key all the same
        found.setdefault(at, []).append(item)
    for at, items in found.items():
        # a union complains once a branch: a list is judged as a list, all else as the other branch
        if any(place[: len(at)] == at and place != at for place in found) and _judged_as_list(items):
            continue  # its items say what is wrong
        if reason := _reason(items):
            known = at
            while known and known not in places:
                known = known[:-1]
            yield f"{places[known]}: {dotted(at) + ': ' if at else ''}{reason}"


def _judged_as_list(items: Sequence[ErrorDetails]) -> bool:
    return all(
        isinstance(item["input"], tuple) and item["type"] in (*WANTED, "too_short", "too_long") for item in items
    )


def _place(loc: Place, places: Mapping[Place, str]) -> Place:
    """Return a place of pydantic's without the names of the union's branches."""
    at: Place = ()
    for part in loc:
        if (*at, part) in places or _is_key(part):
            at = (*at, part)
    return at


def _is_key(part: str | int) -> bool:
    """Return whether a part of pydantic's place can be a key, rather than a union's branch such as `tuple[...]`."""
    return isinstance(part, int) or (
        re.fullmatch(r"[a-z_]\w*", part) is not None and part not in {"int", "str", "float"}
    )


WANTED = {  # what pydantic's errors of type ask for
    **{"int_type": "a whole number", "float_type": "a number", "string_type": "text", "bool_type": "true or false"},
    **{"model_type": "a mapping of keys to values", "dict_type": "a mapping of keys to values"},
    **{"tuple_type": "a list", "finite_number": "a finite number"},
}


def _reason(items: Sequence[ErrorDetails]) -> str:
    """Return what is wrong with a value, what is allowed, and how to mend YAML's traps.

    Args:
        items: pydantic's errors at one place; several where the value may be of several types.
    """
    items = [item for item in items if item["type"] not in WANTED] or items  # of a type, but out of range, comes first
    kind, found, message = items[0]["type"], items[0]["input"], items[0]["msg"].removeprefix("Value error, ")
    if kind == "value_error":
        return message
    if kind == "missing":
        return "is missing"
    if kind == "extra_forbidden":
        return f"unknown key {items[0]['loc'][-1]!r}. {suggest(str(items[0]['loc'][-1]), _fields(items[0]['loc']))}"
    shown = json.dumps(found, default=str)
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    if isinstance(found, str) and kind in ("int_type", "float_type") and (number := _number(found)) is not None:
        return f"{shown} is text to YAML: write {number!r} (a decimal point, an exponent with its sign, no quotes)"
    if isinstance(found, bool) and kind == "string_type":
        return f"{shown} is a truth value to YAML (as are yes, no, on, off): put the word in quotes"
    if kind in ("too_short", "too_long") and isinstance(found, tuple):
        bound, length = ("least", "min_length") if kind == "too_short" else ("most", "max_length")
        return f"found {shown}: must hold at {bound} {items[0]['ctx'][length]} item(s)"
    wanted = " or ".join(dict.fromkeys(WANTED[item["type"]] for item in items if item["type"] in WANTED))
    allowed = f"must be {wanted}" if wanted else message.replace("Input should be", "must be")
    return f"found {shown}: {allowed[0].lower()}{allowed[1:]}"


def _number(text: str) -> float | None:
    """Return the number that a text was meant to be, a whole one as an integer, or None."""
    try:
        value = float(text)
    except ValueError:
        return None
    if not math.isfinite(value):
        return None
    return int(value) if value.is_integer() else value


INSIDE: dict[str, type[BaseModel]] = {  # the keys that hold a mapping
    **{"data": Data, "teacher_data": Data, "pairs": Pair, "teacher": Teacher, "student": Network},
    **{"training": Schedule, "teacher_training": Schedule, "published": Published, "slurm": Slurm},
}


def _fields(loc: Sequence[str | int]) -> list[str]:
    """Return the keys allowed where an unknown one was found."""
    model: type[BaseModel] = Suite
    for part in loc[:-1]:
        model = INSIDE.get(str(part), model)
    return list(model.model_fields)


def json_schema() -> dict[str, Any]:
    """Return the JSON schema of a suite file, for editors; names are offered, those of plugins allowed."""
    schema = Suite.model_json_schema()
    models = schema["$defs"]
    known = {"network": sorted(NETWORKS), "method": [*sorted(path.stem for path in own_files()), NONE]}
    for model in ("Network", "Teacher", "Term", "Entry"):
        key = "network" if "network" in models[model]["properties"] else "method"
        models[model]["properties"][key]["examples"] = known[key]
        # a bare name may stand wherever a before-validator accepts one, which pydantic cannot see
        models[model] = {"anyOf": [{"type": "string", "examples": known[key]}, models[model]]}
    names = {"enum": [*sorted(DATASETS), IMAGEFOLDER]}
    models["Data"]["properties"]["name"] |= names
    models["Data"] = {"anyOf": [{"type": "string"} | names, models["Data"]]}
    return schema


if __name__ == "__main__":
    sys.stdout.write(json.dumps(json_schema(), indent=1, ensure_ascii=False) + "\n")
