"""The block `tuning` of a suite file: how a row's settings are searched. Imports no torch."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Self

from annotated_types import Ge, Gt, Le, Len, Lt
from pydantic import (
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from bench.schedule import Scalar, Strict
from bench.suite.messages import ProblemsError, reason_of
from bench.types import RequestError, suggest
from methods import Method
from methods._description import FACTORS, STRICT, Parameter

TUNED = " (tuned)"  # suffix of the label of a row with searched settings
MAX_TRIALS = 4_096
MAX_BOUND = 1e100  # of a range, and of the inverse of a logarithmic one: products with it are finite
Bounds = tuple[float, float]
EpochsKey = Annotated[str, Field(pattern="^[1-9][0-9]{0,5}$")]  # keys of a YAML mapping are read as text


class Range(Strict):
    """Where the values of one parameter are searched: exactly one of `log`, `linear` and `choices`."""

    log: Bounds | None = None
    """Lowest and highest value, of which factors count equally."""
    linear: Bounds | None = None
    """Lowest and highest value, of which differences count equally."""
    choices: Annotated[tuple[Scalar, ...], Len(1, 100)] | None = None
    """The values themselves."""
    times_default: bool = False
    """Whether the bounds are multiples of the row's own value."""

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if sum(form is not None for form in (self.log, self.linear, self.choices)) != 1:
            raise ValueError("give exactly one of log: [LOW, HIGH], linear: [LOW, HIGH] and choices: [...]")
        if self.choices is not None and self.times_default:
            raise ValueError("'times_default' is for log and linear; choices are the values themselves")
        bounds = self.log or self.linear
        if bounds is not None and not bounds[0] < bounds[1]:
            raise ValueError(f"found {list(bounds)}: the first bound must be below the second")
        if self.log is not None and self.log[0] <= 0:
            raise ValueError(f"found log: {list(self.log)}: a logarithmic scale needs bounds above 0")
        if bounds is not None and (max(map(abs, bounds)) > MAX_BOUND or (self.log and 1 / self.log[0] > MAX_BOUND)):
            raise ValueError(f"found {list(bounds)}: no setting is so large or so small")
        return self


def as_range(stated: Mapping[str, Any], where: Path) -> Range:
    """Return a range that a method states in `@register(space=)`; raise a `RequestError` that names its file."""
    given = {key: tuple(value) if isinstance(value, list) else value for key, value in stated.items()}
    try:
        return Range.model_validate(given)
    except ValidationError as error:
        raise RequestError(f"{where}: @register(..., space=): {reason_of(error.errors())}") from None


# Searched in every row; the widths are this project's choice.
SHARED: dict[str, Range] = {
    "lr": Range(log=(0.2, 5.0), times_default=True),
    "weight_decay": Range(log=(0.1, 10.0), times_default=True),
    "weight": Range(log=(0.01, 100.0), times_default=True),
}


VALUES: dict[str, TypeAdapter[float]] = {
    "lr": TypeAdapter(PositiveFloat, config=STRICT),
    "weight_decay": TypeAdapter(NonNegativeFloat, config=STRICT),
    "weight": FACTORS,
}


def _refused(name: str, given: Range, adapter: TypeAdapter[Any], parameter: Parameter | None = None) -> Iterator[str]:
    """Yield which values of a range a parameter does not take; in multiples of its default, those are meant."""
    values: Sequence[Any] = given.choices or given.log or given.linear or ()
    for value in values:
        tried = value
        try:
            if given.times_default and parameter is not None:
                tried = parameter.times(value)
            elif given.choices is None and value.is_integer():  # bounds are read as numbers with a fraction
                tried = int(value)
            adapter.validate_python(tried)
        except ValidationError as error:
            yield f"space.{name}: {reason_of(error.errors())}"
        except (ValueError, OverflowError) as error:
            yield f"space.{name}: {error}"
            return


class Tuning(Strict):
    """A search for each row's settings, evaluated on training images that are left out of training."""

    trials: Annotated[int, Ge(2), Le(MAX_TRIALS)]
    """Number of settings that are tried for each row, `none` included; the first is the row's own."""
    dev_per_class: PositiveInt | None = None
    """Number of training images of each class that trials do not train on, and that they are evaluated on."""
    dev_fraction: Annotated[float, Gt(0), Lt(1)] | None = None
    """Share of the training images of each class that trials do not train on, instead of `dev_per_class`."""
    space: dict[str, Range] = Field(default_factory=dict)
    """Where to search, by parameter: `lr`, `weight_decay`, `weight` or `METHOD.PARAMETER`. Default: 0.2 to 5 times the
    learning rate, 0.1 to 10 times the weight decay, 0.01 to 100 times the weight, and what methods state.
    """
    rungs: dict[EpochsKey, PositiveInt] | None = None
    """By number of epochs, how many of the best trials of the rung before are trained that long; the row's own settings
    are trained with them. The first rung has all trials. Default: all trials are trained for the epochs of `training`.
    """
    seeds: Annotated[int, Ge(1), Le(100)] = 1
    """Number of seeds of each trial; they are never those of the final runs."""

    @model_validator(mode="after")
    def _is_complete(self, info: ValidationInfo) -> Self:
        problems = []
        if (self.dev_per_class is None) == (self.dev_fraction is None):
            problems.append("give one of 'dev_per_class' and 'dev_fraction', which trials are evaluated on")
        if self.rungs is not None:
            epochs, counts = list(self.rung_trials), list(self.rungs.values())
            if counts[:1] != [self.trials]:
                problems.append(f"rungs: the first one has all {self.trials} trials; found {counts[:1] or 'none'}")
            if epochs != sorted(epochs) or counts != sorted(counts, reverse=True):
                problems.append("rungs: each has more epochs and no more trials than the one before")
        methods: Mapping[str, Method] | None = (info.context or {}).get("methods")
        if methods is not None:
            known = [*SHARED, *(f"{name}.{key}" for name, one in methods.items() for key in one.parameters)]
            problems += [
                f"space.{name}: unknown parameter. {suggest(name, known)}" for name in self.space if name not in known
            ]
            for name, one in self.space.items():
                method, _, key = name.partition(".")
                if name in known and key:
                    parameter = methods[method].parameters[key]
                    problems += _refused(name, one, parameter.adapter, parameter)
        for name in self.space.keys() & SHARED.keys():
            problems += _refused(name, self.space[name], VALUES[name])
        if problems:
            raise ProblemsError(problems)
        return self

    @property
    def rung_trials(self) -> dict[int, int]:
        """Return the numbers of trials by the numbers of epochs of the rungs; {} without rungs."""
        return {int(epochs): count for epochs, count in (self.rungs or {}).items()}

    @property
    def later_rungs(self) -> str:
        """Return which trials the later rungs have, in words; "" without such rungs."""
        later = list(self.rung_trials.items())[1:]
        return "".join(
            f", the best {count if count > 1 else 'one'} and the row's own for {epochs}" for epochs, count in later
        )

    @property
    def dev(self) -> dict[str, Any]:
        """Return the keys of the data that hold dev images out."""
        return {"dev_per_class": self.dev_per_class, "dev_fraction": self.dev_fraction}
