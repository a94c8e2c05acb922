"""The suite file: what it may say, and one message with every error of it. Imports no torch."""

import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from annotated_types import Len
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

from bench.data import DataChoice
from bench.models import NETWORKS
from bench.spec import NetworkSpec, Schedule, Strict
from bench.types import RequestError, suggest
from methods.catalog import Method

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")  # a suite's name is a folder below the results
RESERVED = {"runs"}  # the results folder holds the runs beside the suites
LARGEST_FILE = 1_000_000  # bytes
LARGEST_DOCUMENT = 100_000  # values, aliases followed: a few lines of YAML can expand to billions
NONE = "none"  # the undistilled student
TEACHER = "teacher"


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
        schema = methods[self.method].parameters
        for name, value in self.parameters.items():
            if name not in schema:
                allowed = [*schema, *(key for key in type(self).model_fields if key != "terms")]
                raise ValueError(f"{self.method} has no parameter {name!r}. {suggest(name, allowed)}")
            for one in value if isinstance(value, list) else [value]:
                try:
                    schema[name].adapter.validate_json(json.dumps(one))
                except ValidationError as error:
                    reason = _reason(error.errors()[0], one)
                    raise ValueError(f"parameter {name!r} of {self.method}: {reason}") from None

    @property
    def parameters(self) -> dict[str, Any]:
        """Return the method's own parameters, as far as they are given."""
        return dict(self.model_extra or {})


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

    @model_validator(mode="after")
    def _known(self, info: ValidationInfo) -> "Entry":
        if self.terms is None:
            if not self.method:
                raise ValueError("names no method: write {method: NAME} or {terms: [...]}")
            self._check_method(info)
            if self.method == NONE and self.model_fields_set - {"method", "label"}:
                raise ValueError("'none' is the undistilled student: it takes no parameters")
        elif self.method or self.parameters or self.weight is not None:
            raise ValueError("with 'terms', each term has its own method, weight and parameters")
        elif any(term.method == NONE for term in self.terms):
            raise ValueError("'none' cannot be one of several terms")
        return self


class Published(Strict):
    """Where the published numbers to compare with stand.

    Attributes:
        source: the paper.
        table: its table, as in `bench/published.csv`.
    """

    source: str
    table: int | str


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

    title: str
    task: Literal["compression"] = "compression"
    data: Data
    teacher_data: Data | None = None
    pairs: Annotated[tuple[Pair, ...], Len(1)]
    methods: Annotated[tuple[Entry, ...], Len(1)]
    seeds: PositiveInt | Annotated[tuple[NonNegativeInt, ...], Len(1)] = 1
    teacher_seeds: Literal["fixed", "paired"] = "fixed"
    training: Schedule = Schedule()
    teacher_training: TeacherTraining | None = None
    lr_by_network: dict[str, PositiveFloat] = Field(default_factory=dict)
    published: Published | None = None
    threads: PositiveInt = 2
    workers: NonNegativeInt = 2
    slurm: Slurm | None = None

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

    @model_validator(mode="after")
    def _distinct_rows(self, info: ValidationInfo) -> "Suite":
        if info.context:
            labels = [row.label for row in rows(self, info.context["methods"])]
            if twice := sorted({label for label in labels if labels.count(label) > 1}):
                raise ValueError(
                    f"methods: the same method twice: {', '.join(twice)}. "
                    "Leave one out, or give each its own 'label' if their settings differ"
                )
        return self

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
        overrides: what the row sets that is not the method's default, for captions.
    """

    label: str
    method: str
    terms: tuple[tuple[str, float | None, dict[str, Any]], ...]
    task_weight: float | None
    combine: Literal["sum", "mean"]
    overrides: str


def rows(suite: Suite, methods: Mapping[str, Method]) -> list[Row]:
    """Return the table's rows in order, grids spread out, `none` left out."""
    return [row for entry in suite.methods if entry.method != NONE for row in _spread(entry, methods)]


def _spread(entry: Entry, methods: Mapping[str, Method]) -> Iterator[Row]:
    terms: Sequence[Term] = entry.terms or (entry,)
    for settings in itertools.product(*(_grid(term) for term in terms)):
        chosen = [(term.method, weight, given) for term, (weight, given) in zip(terms, settings, strict=True)]
        said = [_overrides(name, weight, given) for name, weight, given in chosen]
        titles = [methods[name].title for name, _, _ in chosen]
        if entry.kd is not None:
            chosen.append(("kd", entry.kd, {"temperature": entry.kd_temperature}))
            titles.append("KD")
            said.append("")
        spans = len(terms) > 1 or any(isinstance(v, (list, tuple)) for v in [entry.weight, *entry.parameters.values()])
        overrides = ", ".join(text for text in said if text)
        plain = "+".join(titles)
        if entry.label is None:
            label = f"{plain} {overrides}".strip()
        else:
            label = f"{entry.label} {overrides}" if spans and not entry.terms else entry.label
        yield Row(
            label=label,
            method="+".join(name for name, _, _ in chosen[: len(terms)]),
            terms=tuple(chosen),
            task_weight=entry.task_weight if entry.task_weight is not None else (1.0 if entry.terms else None),
            combine=entry.combine,
            overrides=overrides,
        )


def _grid(term: Term) -> Iterator[tuple[float | None, dict[str, Any]]]:
    """Yield (weight, parameters) for every combination of the values listed."""
    given = {"weight": term.weight, **term.parameters}
    listed = [value if isinstance(value, (list, tuple)) else [value] for value in given.values()]
    for values in itertools.product(*listed):
        chosen = dict(zip(given, values, strict=True))
        yield chosen.pop("weight"), chosen


def _overrides(name: str, weight: float | None, given: Mapping[str, Any]) -> str:
    said = {**({} if weight is None else {"weight": weight}), **given}
    return ", ".join(
        f"{key}={value:g}" if isinstance(value, float) else f"{key}={value}" for key, value in said.items()
    )


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
    document, lines = read_yaml(path)
    for override in overrides:
        _override(document, override)
    try:
        text = json.dumps(document, default=str)
        return Suite.model_validate_json(text, context={"methods": methods})
    except ValidationError as error:
        raise RequestError("\n".join(_messages(path, error, lines, overrides))) from None


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


def read_yaml(path: Path) -> tuple[dict[str, Any], dict[tuple[str | int, ...], int]]:
    """Return a YAML file's mapping, and the line of each key and item, counted from 1.

    Raises:
        RequestError: the file is missing, broken, too large, holds a key twice, or anything but plain data.
    """
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise RequestError(f"{path}: larger than {LARGEST_FILE} bytes; a suite file is a page of text")
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        near = suggest(path.name, [p.name for p in path.parent.glob("*.yaml")]) if path.parent.is_dir() else ""
        raise RequestError(f"{path}: there is no such file. {near}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"{path}: cannot be read: {error}") from None
    lines: dict[tuple[str | int, ...], int] = {}
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        if not isinstance(root, yaml.MappingNode):
            raise RequestError(f"{path}: is no mapping of keys to values; see the README's example")
        _number_lines(path, root, (), lines)
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RequestError(f"{path}: is no YAML of plain data: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise RequestError(f"{path}: is nested too deeply") from None
    return document, lines


def _number_lines(
    path: Path, node: yaml.Node, at: tuple[str | int, ...], lines: dict[tuple[str | int, ...], int]
) -> None:
    lines.setdefault(at, node.start_mark.line + 1)
    if len(lines) > LARGEST_DOCUMENT:
        raise RequestError(f"{path}: expands to more than {LARGEST_DOCUMENT} values")
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            here = (*at, str(key.value))
            if here in lines:
                line = key.start_mark.line + 1
                raise RequestError(f"{path}:{line}: {dotted(here)}: the same key twice, first in line {lines[here]}")
            lines[here] = key.start_mark.line + 1
            _number_lines(path, value, here, lines)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            _number_lines(path, item, (*at, index), lines)


def _override(document: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    where = f"--set {override}"
    if not equals or not re.fullmatch(r"\w+(\.\w+)*", key):
        raise RequestError(f"{where}: write it as KEY=VALUE, for example --set training.epochs=2")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RequestError(f"{where}: the value is no YAML: {' '.join(str(error).split())}") from None
    *parents, last = key.split(".")
    for parent in parents:
        document = document.setdefault(parent, {})
        if not isinstance(document, dict):
            raise RequestError(f"{where}: {parent!r} is no mapping in the suite file")
    document[last] = value


def dotted(at: Sequence[str | int]) -> str:
    """Return a key's place as text: `methods[2].weight`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in at).lstrip(".")


def _messages(
    path: Path, error: ValidationError, lines: Mapping[tuple[str | int, ...], int], overrides: Sequence[str]
) -> Iterator[str]:
    seen = set()
    for item in error.errors():
        found_list = isinstance(item["input"], list)
        if (item["type"] == "too_short" and item["input"]) or (item["type"] == "tuple_type" and not found_list):
            continue  # follows from another error: of the items, or of the other branch of a union
        if found_list and item["type"] in ("int_type", "float_type"):
            continue
        # pydantic names the branch of a union in the place; only what stands in the file is kept
        at: tuple[str | int, ...] = ()
        for part in item["loc"]:
            if (*at, part) in lines or (not lines.keys() & {(*at, part)} and _is_key(part)):
                at = (*at, part)
        known = at
        while known and known not in lines:
            known = known[:-1]
        line = lines.get(known)
        said = next((f"--set {o}" for o in overrides if o.partition("=")[0] == dotted(at)), None)
        where = said or f"{path}:{line}"
        message = f"{where}: {dotted(at) + ': ' if at else ''}{_reason(item, item['input'])}"
        if message not in seen:
            seen.add(message)
            yield message


def _is_key(part: str | int) -> bool:
    """Return whether a part of pydantic's place can be a key, rather than a union's branch such as `tuple[...]`."""
    return isinstance(part, int) or (
        re.fullmatch(r"[a-z_]\w*", part) is not None and part not in {"int", "str", "float"}
    )


def _reason(item: Mapping[str, Any], found: object) -> str:
    """Return what is wrong with a value, what is allowed, and how to mend YAML's traps."""
    kind, message = item["type"], item["msg"].removeprefix("Value error, ")
    if kind == "value_error":
        return message
    if kind == "missing":
        return "is missing"
    if kind == "extra_forbidden":
        return f"unknown key. {suggest(str(item['loc'][-1]), _fields(item['loc']))}"
    shown = json.dumps(found, default=str)
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    if isinstance(found, str) and kind.startswith(("float", "int")) and _number(found) is not None:
        return f"{shown} is text to YAML: write {_number(found)!r} (a decimal point, an exponent with its sign)"
    if isinstance(found, bool) and kind.startswith("string"):
        return f"{shown} is a truth value to YAML (as are yes, no, on, off): put the word in quotes"
    return f"found {shown}: {message[0].lower()}{message[1:]}"


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


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
    """Return the JSON schema of a suite file, for editors."""
    schema = Suite.model_json_schema()
    # a bare name may stand wherever a before-validator accepts one, which pydantic cannot see
    for name in ("Network", "Teacher", "Term", "Entry", "Data"):
        schema["$defs"][name] = {"anyOf": [{"type": "string"}, schema["$defs"][name]]}
    return schema
