"""Reads a method from its file's source, without importing torch, and imports the file when the class is needed.

`@register("name", weight=...)` above a class states the name and the registration. Tables print the class's name. The
constructor's keyword parameters are what a suite file may set. If the source alone does not state all this, for example
because the constructor is inherited, the file is imported and the same facts are read from the class.
"""

import ast
import importlib
import inspect
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
    PydanticUserError,
    TypeAdapter,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)

from bench.reading import check_regular, decorator_calls, import_path
from bench.types import RequestError
from methods._code import Code, code_of
from methods._errors import described, ends_process

if TYPE_CHECKING:
    from methods.base import Distiller

IMPORTED: dict[Path, Code] = {}  # the code of each method file when it was imported
KEYS_OF_ROWS = {  # what a row of a suite may hold beside its method's parameters
    *("method", "terms", "weight", "warmup"),
    *("kd", "kd_temperature", "task_weight", "combine", "label", "by_pair", "published"),
}
PLAIN = (bool, int, float, str, type(None))  # types of parameters
ONLY_PLAIN = "a suite file has only numbers, text, true, false and null for it"
GIVEN = ["student", "teacher", "data"]  # the positional arguments of every constructor
ANNOTATIONS: dict[str, Any] = {  # the names that annotations may use without importing the file
    **{n: getattr(pydantic, n) for n in ("PositiveInt", "PositiveFloat", "NonNegativeInt", "NonNegativeFloat")},
    **{n: getattr(annotated_types, n) for n in ("Gt", "Ge", "Lt", "Le")},
    **{"int": int, "float": float, "bool": bool, "str": str, "Literal": Literal, "Annotated": Annotated},
}


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

    @cached_property
    def adapter(self) -> TypeAdapter[Any]:
        """Return the adapter that checks values; numbers written as text are refused."""
        checked: Any = Annotated[self.type, WrapValidator(_check_plain)]
        return TypeAdapter(checked, config={"strict": True, "allow_inf_nan": False})


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
        raise ValueError(
            f"a suite file has only numbers, text, true, false and null for it, not {type(checked).__name__}"
        )
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

    weight: float
    task_weight: float = 1.0
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
        found = re.search(rf"^{title}:\s+(.*?)(?=^\w+:|^$|\Z)", self.summary, re.DOTALL | re.MULTILINE)
        return " ".join(found[1].split()) if found else ""

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


def has_networks_only(path: Path) -> bool:
    """Return whether a file registers networks and no method; False if it cannot be read."""
    try:
        called = [ast.unparse(call.func) for call in decorator_calls(path)]
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError, RequestError):
        return False
    return any(name.rpartition(".")[2] == "register_network" for name in called) and "register" not in called


Facts = tuple[str, dict[str, Any], inspect.Signature]  # a class's name, its registration, its constructor's signature


def read(path: Path, module: str | None = None) -> Method:
    """Return the method that a file registers; without the module's name, the file is imported by its path.

    Raises:
        RequestError: the file is missing, is not valid Python, or registers no method under its own name, or the
            registration or the parameters are invalid.
    """
    try:
        check_regular(path)
        tree = ast.parse(path.read_text(encoding="utf-8"))
        classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
        calls = [(call, node) for node in classes for call in node.decorator_list if isinstance(call, ast.Call)]
        registered = [(call, node) for call, node in calls if ast.unparse(call.func) == "register"]
    except (OSError, SyntaxError, ValueError) as error:
        raise RequestError(f"{path}: cannot be read as a method file: {error}") from error
    except (MemoryError, RecursionError) as error:
        fault = f"an expression in it nests too deep ({described(error)})"
        raise RequestError(f"{path}: cannot be read as a method file: {fault}") from None
    if not registered:
        raise RequestError(
            f"{path}: no class is decorated with @register({path.stem!r}, weight=...), "
            'and nothing with @register_network("name")'
        )
    try:
        title, stated, signature = _read_source(*registered[0])
    except Exception:  # the source may contain any expression, and names defined by imports
        title, stated, signature = _read_class(path, module)
    if (name := stated.pop("name")) != path.stem:
        raise RequestError(f"{path}: registers {name!r}; a method's name is its file's, {path.stem!r}")
    try:
        registration = Registration.model_validate(stated)
    except ValidationError as error:
        raise RequestError(f"{path}: @register(..., {error.errors()[0]['loc'][0]}=): {_reason(error)}") from None
    parameters = _parameters(path, signature)
    if taken := [one for one in parameters if one in KEYS_OF_ROWS]:
        node = registered[0][1]
        lines = [one.lineno for one in ast.walk(node) if isinstance(one, ast.arg) and one.arg == taken[0]]
        fault = f"parameter {taken[0]!r} has the name of a key that each row of a suite may hold: rename it"
        raise RequestError(f"{path}: line {[*lines, node.lineno][0]}: {fault}")
    if unknown := registration.space.keys() - {"weight", *parameters}:
        raise RequestError(f"{path}: @register(..., space=): {name} has no parameter {min(unknown)!r}")
    if absent := [one for one in registration.added if one not in parameters]:
        raise RequestError(f"{path}: @register(..., added=): {name} has no parameter {absent[0]!r}")
    summary = ast.get_docstring(tree) or ""
    return Method(name=name, title=title, parameters=parameters, summary=summary, path=path, module=module, **stated)


def _read_source(call: ast.Call, node: ast.ClassDef) -> Facts:
    """Return a class's facts; raises any error if its source alone does not state them."""
    names = {"__builtins__": {}, "register": lambda name, **stated: {"name": name, **stated}, **ANNOTATIONS}
    # the same code would run when the file is imported
    stated = eval(compile(ast.Expression(call), "", "eval", dont_inherit=True), names)
    constructor = next((f for f in node.body if isinstance(f, ast.FunctionDef) and f.name == "__init__"), None)
    if constructor is None:
        if [ast.unparse(base) for base in node.bases] != ["Distiller"]:
            raise LookupError("the constructor is inherited")
        return node.name, stated, inspect.signature(lambda student, teacher, data: None)
    for argument in constructor.args.args:
        argument.annotation = None  # Shapes and DataInfo need imports
    constructor.returns, constructor.body = None, [ast.Pass(lineno=1, col_offset=0)]
    exec(compile(ast.Module([constructor], []), "", "exec", dont_inherit=True), names)
    return node.name, stated, inspect.signature(names["__init__"].__get__(node), eval_str=True)


def _read_class(path: Path, module: str | None) -> Facts:
    """Return the facts of the class that a file registers, by importing it."""
    from methods.base import REGISTERED, Distiller

    import_file(path, module)
    if path.stem not in REGISTERED:
        raise RequestError(f"{path}: registers no method under its file's name, {path.stem!r}")
    cls = REGISTERED[path.stem]
    try:
        signature = inspect.signature(cls, eval_str=True)
    except BaseException as error:  # an annotation can be any expression
        if ends_process(error):
            raise
        text = error if isinstance(error, NameError) else described(error)
        raise RequestError(f"{path}: the constructor's annotations cannot be read: {text}") from error
    stated: dict[str, Any] = {"name": path.stem, "weight": cls.weight, "task_weight": cls.task_weight}
    stated |= {"warmup": cls.warmup, "version": cls.version, "reuses_classifier": cls.reuses_classifier}
    stated["initial_stage"] = cls.initial_stage is not Distiller.initial_stage  # `register` ensures that both agree
    return cls.__name__, stated | {"added": cls.added, "variant": cls.variant, "space": cls.search_space}, signature


def _parameters(path: Path, signature: inspect.Signature) -> dict[str, Parameter]:
    """Return a constructor's keyword parameters, each of which a suite file can set."""
    own = [p for p in signature.parameters.values() if p.kind is p.KEYWORD_ONLY]
    if [p.name for p in signature.parameters.values() if p not in own] != GIVEN:
        raise RequestError(f"{path}: a constructor takes ({', '.join(GIVEN)}, *, its own parameters by keyword)")
    if missing := [p.name for p in own if p.default is p.empty or p.annotation is p.empty]:
        raise RequestError(f"{path}: parameter {missing[0]!r} needs an annotation and a default")
    parameters = {p.name: Parameter(p.annotation, p.default) for p in own}
    for name, parameter in parameters.items():
        try:
            if type(parameter.default) not in PLAIN:
                raise TypeError(ONLY_PLAIN)
            parameter.adapter.validate_python(parameter.default)
        except BaseException as error:  # a type may have code of its own
            if ends_process(error):
                raise
            said = f"{name}: {parameter.annotation} = {parameter.default!r}"
            raise RequestError(f"{path}: parameter {said}: {_reason(error)}") from None
    return parameters


def _reason(error: BaseException) -> str:
    """Return the first reason for an error, in one line."""
    if isinstance(error, ValidationError):
        return error.errors()[0]["msg"]
    return str(error).splitlines()[0] if isinstance(error, TypeError | PydanticUserError) else described(error)
