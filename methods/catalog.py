"""What methods there are, read from their source without importing torch; and the way to import one.

A method is known by its file: `@register("name", weight=...)` above a class gives name, weights and version, the
class's name is how tables print it, and the constructor's keyword parameters are what a suite file may set.
A file that cannot be read that way (a method that inherits its constructor, say) is imported instead.
"""

import ast
import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import annotated_types
import pydantic
from pydantic import TypeAdapter

from bench.types import RequestError

if TYPE_CHECKING:
    from methods.base import Distiller

ENTRY_POINTS = "distillation_bench.methods"  # the group under which installed packages offer methods
NOT_METHODS = {"__init__", "base", "catalog", "adapters"}  # files of this folder that hold no method
ANNOTATIONS: dict[str, Any] = {  # what a parameter's annotation may be made of
    **{
        name: getattr(pydantic, name) for name in ("PositiveInt", "PositiveFloat", "NonNegativeInt", "NonNegativeFloat")
    },
    **{name: getattr(annotated_types, name) for name in ("Gt", "Ge", "Lt", "Le")},
    **{"int": int, "float": float, "bool": bool, "str": str, "Literal": Literal, "Annotated": Annotated},
}


@dataclass(frozen=True)
class Parameter:
    """One keyword parameter of a method: its annotation as written, the type it means, its default."""

    annotation: str
    type: Any
    default: Any

    @cached_property
    def adapter(self) -> TypeAdapter[Any]:
        """Return what checks a value; numbers written as text are refused."""
        return TypeAdapter(self.type, config={"strict": True, "allow_inf_nan": False})


@dataclass(frozen=True)
class Method:
    """A registered method as its file describes it.

    Attributes:
        name: lower-case, as in suite files.
        title: as tables print it; the class's name.
        weight: the term's default weight.
        task_weight: cross-entropy's default weight beside it.
        version: part of a run's identity.
        parameters: what a suite file may set.
        has_initial_stage: whether something trains before the main stage.
        summary: the file's docstring.
        path: the file.
    """

    name: str
    title: str
    weight: float
    task_weight: float
    version: int
    parameters: dict[str, Parameter]
    has_initial_stage: bool
    summary: str
    path: Path

    @cached_property
    def sha256(self) -> str:
        """Return the file's hash, recorded with each run so that changed code can be told."""
        return hashlib.sha256(self.path.read_bytes()).hexdigest()

    def load(self) -> "type[Distiller]":
        """Import the file and return its class."""
        from methods.base import REGISTERED

        if self.name not in REGISTERED:
            import_file(self.path)
        return REGISTERED[self.name]


def own_files() -> list[Path]:
    """Return the method files of this folder, in alphabetical order."""
    return sorted(path for path in Path(__file__).parent.glob("*.py") if path.stem not in NOT_METHODS)


def catalog(plugins: Iterable[Path] = ()) -> dict[str, Method]:
    """Return every method by name: this folder's, installed packages' and the given files'.

    Raises:
        RequestError: a plugin is no file, defines no method, or takes a name that is taken.
    """
    installed = [_entry_point_file(point.module) for point in entry_points(group=ENTRY_POINTS)]
    found: dict[str, Method] = {}
    for path in [*own_files(), *installed, *plugins]:
        method = read(path)
        if method.name in found and found[method.name].path.resolve() != path.resolve():
            raise RequestError(f"{path}: the method name {method.name!r} is taken by {found[method.name].path}")
        found[method.name] = method
    return dict(sorted(found.items()))


def read(path: Path) -> Method:
    """Return what a method file says of itself.

    Raises:
        RequestError: the file is missing, is no Python, or registers no method under its own name.
    """
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError) as error:
        raise RequestError(f"{path}: cannot be read as a method file: {error}") from error
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and (call := _registration(node)):
            break
    else:
        raise RequestError(f"{path}: no class is decorated with @register({path.stem!r}, weight=...)")
    try:
        name, options = ast.literal_eval(call.args[0]), {k.arg: ast.literal_eval(k.value) for k in call.keywords}
        parameters = _parameters(node)
    except (ValueError, IndexError, NameError, TypeError):
        return _imported(path, ast.get_docstring(tree) or "")
    if name != path.stem:
        raise RequestError(f"{path}: registers {name!r}; a method's name is its file's, {path.stem!r}")
    if "weight" not in options:
        raise RequestError(f"{path}: @register({name!r}) states no weight")
    return Method(
        name=name,
        title=node.name,
        weight=float(options["weight"]),
        task_weight=float(options.get("task_weight", 1.0)),
        version=options.get("version", 1),
        parameters=parameters,
        has_initial_stage=any(isinstance(item, ast.FunctionDef) and item.name == "initial_stage" for item in node.body),
        summary=ast.get_docstring(tree) or "",
        path=path,
    )


def import_file(path: Path) -> None:
    """Import a method file: this folder's as `methods.NAME`, any other by its path.

    Raises:
        RequestError: the file raises while it is imported.
    """
    try:
        if path.parent.resolve() == Path(__file__).parent.resolve():
            importlib.import_module(f"methods.{path.stem}")
            return
        spec = importlib.util.spec_from_file_location(f"methods_plugin_{path.stem}", path)
        if spec is None or spec.loader is None:
            raise ImportError("its name does not end in .py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # pickling and dataclasses look a class's module up there
        spec.loader.exec_module(module)
    except Exception as error:
        raise RequestError(f"{path}: cannot be imported: {type(error).__name__}: {error}") from error


def _entry_point_file(module: str) -> Path:
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise RequestError(f"entry point {module!r} of group {ENTRY_POINTS!r}: there is no such module")
    return Path(spec.origin)


def _registration(node: ast.ClassDef) -> ast.Call | None:
    """Return the `register(...)` call that decorates a class, if one does."""
    for decorator in node.decorator_list:
        if isinstance(decorator, ast.Call) and getattr(decorator.func, "id", "") == "register":
            return decorator
    return None


def _parameters(node: ast.ClassDef) -> dict[str, Parameter]:
    """Return the constructor's keyword parameters.

    Raises:
        ValueError, NameError: they cannot be told from this class's source alone.
    """
    constructor = next((f for f in node.body if isinstance(f, ast.FunctionDef) and f.name == "__init__"), None)
    if constructor is None:
        if [getattr(base, "id", "") for base in node.bases] != ["Distiller"]:
            raise ValueError("the constructor may be inherited")
        return {}
    parameters = {}
    for argument, default in zip(constructor.args.kwonlyargs, constructor.args.kw_defaults, strict=True):
        if default is None or argument.annotation is None:
            raise ValueError("a parameter without default or annotation")
        text = ast.unparse(argument.annotation)
        meaning = eval(text, {"__builtins__": {}}, ANNOTATIONS)  # the text is code that is imported later anyway
        parameters[argument.arg] = Parameter(text, meaning, ast.literal_eval(default))
    return parameters


def _imported(path: Path, summary: str) -> Method:
    """Return what `read` returns, from the class itself."""
    from methods.base import REGISTERED, Distiller

    import_file(path)
    if path.stem not in REGISTERED:
        raise RequestError(f"{path}: registers no method under its file's name, {path.stem!r}")
    cls = REGISTERED[path.stem]
    signature = inspect.signature(cls)
    own = [p for p in signature.parameters.values() if p.kind is p.KEYWORD_ONLY]
    if missing := [p.name for p in own if p.default is p.empty]:
        raise RequestError(f"{path}: parameter {missing[0]!r} has no default")
    return Method(
        name=path.stem,
        title=cls.__name__,
        weight=cls.weight,
        task_weight=cls.task_weight,
        version=cls.version,
        parameters={p.name: Parameter(str(p.annotation), p.annotation, p.default) for p in own},
        has_initial_stage=cls.initial_stage is not Distiller.initial_stage,
        summary=summary,
        path=path,
    )
