"""The entries of a suite file's `methods`, which are the rows of its tables. Imports no torch.

Names of methods are checked against `context={"methods": ..., "folder": ...}`, with the folder of the suite file.
"""

import json
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from annotated_types import Len
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    Tag,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from bench.schedule import CountOrZero, Strict
from bench.suite.messages import ProblemsError, reason_of
from bench.types import suggest
from methods import Method

NONE = "none"  # the undistilled student
LONGER = f"{NONE}, +"  # begins the label of the undistilled student that trains for more epochs
TEACHER = "teacher"


def listed(value: object) -> Sequence[Any]:
    """Return the values of a setting in a grid: the items of a list, or the single value."""
    return value if isinstance(value, tuple) else (value,)


def _label(label: str) -> str:
    if label != " ".join(label.split()):
        raise ValueError(f"found {json.dumps(label)}: a label is one line with single spaces between words")
    if label.lower() in (NONE, TEACHER) or label.lower().startswith(LONGER):
        raise ValueError(f"{label!r} is the label of a row that tables have of themselves: choose another label")
    return label


def known(what: str, names: Mapping[str, object], others: Sequence[str], name: str) -> str:
    """Return a name, or raise a `ValueError` if it is none of `names` and `others`."""
    if name not in names and name not in others:
        raise ValueError(f"unknown {what} {name!r}. {suggest(name, [*names, *others])}")
    return name


def one_of(what: str, names: Mapping[str, object], *others: str) -> tuple[Any, ...]:
    """Return annotations of a text that must be one of some names, which editors complete."""
    enum: list[Any] = sorted([*names, *others])
    return AfterValidator(partial(known, what, names, others)), Field(json_schema_extra={"enum": enum})


def _plugin_hint(name: str, folder: Path) -> str:
    """Return how to load a method's file in the current folder or that of the suite file; "" if there is none."""
    for path in (Path(f"{name}.py"), folder / f"{name}.py"):
        if os.path.isfile(path):  # unlike Path.is_file, False for what cannot be a path
            return f". Is it {path}? Add --plugin {shlex.quote(str(path))}"
    return ""


Combine = Literal["sum", "mean", "one", "probabilities"]  # of several teachers' terms
Label = Annotated[str, Len(1, 60), AfterValidator(_label)]


class MethodSettings(BaseModel):
    """Settings of a method: weight, warmup, and its parameters as further keys."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True, allow_inf_nan=False)

    @property
    def settings(self) -> dict[str, Any]:
        """Return weight, warmup and parameters, where they are given; a list has the values of a grid."""
        of_term = {key: getattr(self, key) for key in PairSettings.model_fields}
        return {key: value for key, value in of_term.items() if value is not None} | (self.model_extra or {})

    def problems(self, method: Method) -> Iterator[str]:
        """Yield what is wrong with these settings for a method: unknown names and wrong values."""
        for name, value in self.settings.items():
            if value == ():
                yield f"{name!r} of {method.name} is an empty list: a grid needs a value"
            if name in PairSettings.model_fields:
                continue
            if name not in method.parameters:
                known = [*method.parameters, *type(self).model_fields]
                yield f"{name!r} is no parameter of {method.name}. {suggest(name, known)}"
                continue
            for one in listed(value):
                try:
                    method.parameters[name].adapter.validate_python(one)
                except ValidationError as error:
                    yield f"parameter {name!r} of {method.name}: {reason_of(error.errors())}"


class PairSettings(MethodSettings):
    """A method's settings for one pair; they replace those of the row."""

    weight: NonNegativeFloat | None = None
    """Factor of the term in the total loss."""
    warmup: CountOrZero | None = None
    """Number of epochs over which that factor rises."""

    def problems(self, method: Method) -> Iterator[str]:
        """Yield what is wrong with these settings for a method; none may be a list."""
        for name, value in self.settings.items():
            if isinstance(value, tuple):
                yield f"{name!r} is a list: a pair has one value"
        yield from super().problems(method)


class TermEntry(MethodSettings):
    """A method with its parameters; a bare name is short for `{method: NAME}`. A list of values spans a grid."""

    forms: ClassVar[str] = "{method: NAME}"  # for messages

    method: str
    """A name from `run_suite.py list methods`; the parameters of the method are keys next to it."""
    weight: NonNegativeFloat | tuple[NonNegativeFloat, ...] | None = None
    """Factor of the term in the total loss; default: that of the method."""
    warmup: CountOrZero | tuple[CountOrZero, ...] | None = None
    """Number of epochs over which that factor rises linearly: in epoch e, counted from 1, it is multiplied by
    min(e / warmup, 1). 0 for none; default: that of the method.
    """

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: object) -> object:
        if isinstance(value, dict) and "method" not in value:
            keys = f"; found {', '.join(map(repr, value))}" if value else ""
            raise ValueError(f"has no 'method': write {cls.forms}{keys}")
        return {"method": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _fits_its_method(self, info: ValidationInfo) -> Self:
        if self.method == NONE:
            raise ValueError("'none' cannot be one of several terms")
        self._check_parameters(info)
        return self

    def _check_parameters(self, info: ValidationInfo) -> None:
        context = info.context or {}
        methods: Mapping[str, Method] = context.get("methods", {})
        try:
            known("method", methods, [NONE], self.method)
        except ValueError as error:
            raise ValueError(f"{error}{_plugin_hint(self.method, context.get('folder', Path()))}") from None
        if problems := list(self.problems(methods[self.method])):
            raise ProblemsError(problems)


class RowSettings(Strict):
    """Settings of a row, other than those of its method or terms."""

    kd: NonNegativeFloat | None = None
    """Weight of Hinton's KD term, which is added to the method."""
    kd_temperature: PositiveFloat = 4.0
    """Temperature of that KD term."""
    task_weight: NonNegativeFloat | None = None
    """Weight of the cross-entropy; default: that of the method, or 1 for several terms."""
    combine: Combine = "sum"
    """How terms of several teachers are combined: `sum` adds them, `mean` averages them. `one` has the first teacher
    alone, at the weight of all. `probabilities` has one teacher that predicts the mean of their probabilities, for
    methods of the family logits.
    """
    label: Label | None = None
    """Name of the row, unique in the suite."""

    @model_validator(mode="after")
    def _temperature_of_a_term(self) -> Self:
        if self.kd is None and "kd_temperature" in self.model_fields_set:
            raise ValueError(
                "'kd_temperature' is for the KD term added to a method: also give 'kd', the weight of the term"
            )
        return self


class MethodEntry(RowSettings, TermEntry):
    """A row with one method, or several rows if lists of values span a grid."""

    model_config = ConfigDict(extra="allow")
    forms: ClassVar[str] = "{method: NAME} or {terms: [...]}"

    by_pair: dict[str, PairSettings] = Field(default_factory=dict)
    """Weight, warmup and parameters for single pairs, by the pair's name `<teacher>-><student>`; other pairs have those
    of the row.
    """
    published: Annotated[str, Len(1)] | None = None
    """Name of the published row whose settings these are, if they are not the method's defaults."""

    @model_validator(mode="after")
    def _fits_its_method(self, info: ValidationInfo) -> Self:
        if self.method != NONE:
            self._check_parameters(info)
        elif self.model_fields_set != {"method"}:
            raise ValueError("'none' is the undistilled student: it takes no parameters and no label")
        return self

    def problems(self, method: Method) -> Iterator[str]:
        """Yield what is wrong with the settings of the row, and with those of single pairs."""
        yield from super().problems(method)
        for pair, of_pair in self.by_pair.items():
            yield from (f"by_pair.{pair}: {problem}" for problem in of_pair.problems(method))
            for key in of_pair.settings:
                if isinstance(self.settings.get(key), tuple):
                    yield f"by_pair.{pair}: {key!r} is a list in the row: give each of its values a row"


class TermsEntry(RowSettings):
    """A row with several methods, whose terms are added."""

    terms: Annotated[tuple[TermEntry, ...], Len(1)]
    """The methods, each with its own weight and parameters."""

    @model_validator(mode="before")
    @classmethod
    def _has_no_settings_of_a_term(cls, value: dict[str, object]) -> dict[str, object]:
        problems = []
        for key in value:
            if key in TermEntry.model_fields:
                problems.append(f"{key!r} is not allowed next to 'terms'")
            elif key not in cls.model_fields:
                problems.append(f"unknown key {key!r}. {suggest(key, cls.model_fields)}")
        if problems:
            raise ValueError(
                f"{'; '.join(problems)}. With 'terms', each term has its own method, weight and parameters"
            )
        return value


def _model_of_row(value: object) -> str:
    has_terms = "terms" in value if isinstance(value, dict) else isinstance(value, TermsEntry)
    return "TermsEntry" if has_terms else "MethodEntry"


RowEntry = Annotated[
    Annotated[MethodEntry, Tag("MethodEntry")] | Annotated[TermsEntry, Tag("TermsEntry")],
    Discriminator(_model_of_row),  # errors are only about the form that the file uses
]
