"""What a file says of its method: name, registration, parameters. Imports the file only when the class is needed."""

import importlib
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import annotated_types
import pydantic
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    TypeAdapter,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)

from bench.reading import import_path
from bench.types import RequestError
from methods._code import Code, code_of
from methods._errors import described, ends_process

if TYPE_CHECKING:
    from methods.base import Distiller

IMPORTED: dict[Path, Code] = {}  # the code of each method file when it was imported
STRICT = ConfigDict(strict=True, allow_inf_nan=False)  # neither text nor a truth value is a number
FACTORS: TypeAdapter[float] = TypeAdapter(NonNegativeFloat, config=STRICT)  # of a term or of a parameter's default
PLAIN = (bool, int, float, str, type(None))  # types of parameters
ONLY_PLAIN = "a suite file has only numbers, text, true, false and null for it"
# the names that annotations may use without importing the file
ANNOTATIONS: dict[str, Any] = {
    name: getattr(pydantic, name) for name in ("PositiveInt", "PositiveFloat", "NonNegativeInt", "NonNegativeFloat")
}
ANNOTATIONS |= {name: getattr(annotated_types, name) for name in ("Gt", "Ge", "Lt", "Le")}
ANNOTATIONS |= {"int": int, "float": float, "bool": bool, "str": str, "Literal": Literal, "Annotated": Annotated}


@dataclass(frozen=True)
class Parameter:
    """One keyword parameter of a method: its type and its default."""

    type: Any
    default: Any

    @property
    def annotation(self) -> str:
        """Return the type as it is written in a method file."""
        if known := [name for name, meaning in ANNOTATIONS.items() if meaning == self.type]:
            return known[0]
        return self.type.__name__ if isinstance(self.type, type) else str(self.type).replace("typing.", "")

    def times(self, factor: float) -> int | float:
        """Return a multiple of the default, rounded if that is whole; raise a `ValueError` if it is no number."""
        FACTORS.validate_python(factor)
        if type(self.default) not in (int, float):
            raise ValueError(f"'times_default' needs a number as default, not {self.default!r}")
        return round(self.default * factor) if isinstance(self.default, int) else self.default * factor

    @cached_property
    def adapter(self) -> TypeAdapter[Any]:
        """Return the adapter that checks values; numbers written as text are refused."""
        checked: Any = Annotated[self.type, WrapValidator(_check_plain)]
        return TypeAdapter(checked, config=STRICT)


def _check_plain(value: object, check: ValidatorFunctionWrapHandler) -> object:
    """Return a parameter's checked value, which a suite file, a specification and a job can hold."""
    try:
        checked = check(value)
    except ValidationError:
        raise
    except BaseException as error:  # a type may have code of its own
        if ends_process(error):
            raise
        raise ValueError(described(error)) from error
    if type(checked) not in PLAIN:
        raise ValueError(f"{ONLY_PLAIN}, not {type(checked).__name__}")
    return checked


def _check_range(given: dict[str, Any]) -> dict[str, Any]:
    """Return a search range unchanged if it is valid."""
    times_default = given.get("times_default", False)
    match [item for item in given.items() if item[0] != "times_default"]:
        case _ if not isinstance(times_default, bool):
            pass
        case [("log", [float() | int() as low, float() | int() as high])] if 0 < low < high:
            return given
        case [("linear", [float() | int() as low, float() | int() as high])] if low < high:
            return given
        case [("choices", [_, *_])] if not times_default:
            return given
    forms = "{'log': [low, high]}, {'linear': [low, high]} or {'choices': [...]}"
    raise ValueError(f"{given} is not a range: {forms} with low < high, and 0 < low for log")


class Registration(BaseModel):
    """The arguments of `@register` other than the name; see `methods.base.register`."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)

    weight: NonNegativeFloat
    task_weight: NonNegativeFloat = 1.0
    warmup: Annotated[int, annotated_types.Ge(0), annotated_types.Le(1_000_000)] = 0
    version: int = 1
    has_initial_stage: bool = Field(default=False, validation_alias="initial_stage")
    reuses_classifier: bool = False
    added: tuple[str, ...] = ()
    variant: str = ""
    space: dict[str, Annotated[dict[str, Any], AfterValidator(_check_range)]] = {}


class Method(Registration):
    """A registered method as its file describes it.

    Attributes:
        name: the lower-case name used in suite files.
        title: the class's name, as printed in tables.
        parameters: what a suite file may set.
        summary: the file's docstring.
        path: the file.
        module: the module's name; None for a file that is imported by its path.
    """

    name: str
    title: str
    parameters: dict[str, Parameter]
    summary: str
    path: Path
    module: str | None

    def default(self, setting: str) -> Any:  # noqa: ANN401
        """Return the default of the term's weight or warmup, or of a parameter."""
        return getattr(self, setting) if setting in ("weight", "warmup") else self.parameters[setting].default

    def variant_of(self, settings: Mapping[str, Any]) -> str:
        """Return whose formula a row with these settings has where both differ, `reference` or `paper`; else ""."""
        return str(settings.get("variant", "reference")) if self.variant else ""

    def section(self, title: str) -> str:
        """Return a section of the file's docstring, such as Paper or Reads, in one line; "" if it has none."""
        match = re.search(rf"^{title}:\s+(.*?)(?=^\w+:|^$|\Z)", self.summary, re.DOTALL | re.MULTILINE)
        return " ".join(match[1].split()) if match else ""

    @property
    def family(self) -> str:
        """Return what the method compares, such as logits or relations; "" if its file does not say."""
        return self.section("Family").rstrip(".")

    @property
    def year(self) -> int | None:
        """Return the year of the paper, the last one that its section names; None if it names none."""
        years = re.findall(r"\b(?:19[89]|20)\d\d\b", self.section("Paper"))
        return int(years[-1]) if years else None

    @property
    def reads(self) -> str:
        """Return what the method reads of the networks: the first sentence of that section."""
        return re.split(r"\.(?:\s|$)", self.section("Reads"))[0]

    @property
    def is_own(self) -> bool:
        """Return whether the method is the project's own, not a plug-in."""
        return self.path.parent == Path(__file__).parent

    @property
    def code(self) -> Code:
        """Return the code that was imported, even if the file has changed since; that of the file if none was."""
        return IMPORTED.get(self.path) or code_of(self.path, self.module)

    def load(self) -> "type[Distiller]":
        """Import the file and return its class."""
        from methods.base import REGISTERED

        if self.name not in REGISTERED:
            import_file(self.path, self.module)
        IMPORTED.setdefault(self.path, self.code)  # another method has imported it
        return REGISTERED[self.name]


def import_file(path: Path, module: str | None = None) -> None:
    """Import a method file by its module's name, or by its path if it has none.

    Raises:
        RequestError: importing the file raises an error, changes a setting of the process, or registers other methods.
    """
    if module not in sys.modules:
        IMPORTED[path] = code_of(path, module)
    if module is not None and path.parent == Path(__file__).parent:
        importlib.import_module(module)
        return
    from methods._settings import kept_settings
    from methods.base import REGISTERED

    before, name = dict(REGISTERED), module or f"methods_plugin_{path.stem}"
    try:
        with kept_settings():
            if module is not None:
                importlib.import_module(module)
            else:
                import_path(path, name)
    except BaseException as error:  # a plug-in may even exit
        if ends_process(error):
            raise
        raise RequestError(f"{path}: cannot be imported: {described(error)}") from error
    others = [one for one, cls in REGISTERED.items() if cls.__module__ == name and one != path.stem]
    if others and path.stem in REGISTERED:
        REGISTERED.clear()
        REGISTERED.update(before)
        raise RequestError(f"{path}: registers {others[0]!r} too; a file registers one method, under its own name")
