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
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import annotated_types
import pydantic
from pydantic import BaseModel, ConfigDict, PydanticUserError, TypeAdapter, ValidationError

from bench.types import RequestError

if TYPE_CHECKING:
    from methods.base import Distiller

ENTRY_POINTS = "distillation_bench.methods"  # the group under which installed packages offer methods
GIVEN = ["student", "teacher", "data"]  # what every constructor is given, by position
NO_METHOD = "base"  # without an underscore, because method files kept elsewhere import it too
ANNOTATIONS: dict[str, Any] = {  # what a parameter's annotation may be made of
    **{
        name: getattr(pydantic, name) for name in ("PositiveInt", "PositiveFloat", "NonNegativeInt", "NonNegativeFloat")
    },
    **{name: getattr(annotated_types, name) for name in ("Gt", "Ge", "Lt", "Le")},
    **{"int": int, "float": float, "bool": bool, "str": str, "Literal": Literal, "Annotated": Annotated},
}


class Registration(BaseModel):
    """What `@register` states beside the name; `methods.base.register` says what it means."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    weight: float
    task_weight: float = 1.0
    version: int = 1


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
        module: the name it is imported by; None for a file that is imported by its path.
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
    module: str | None = None

    @cached_property
    def sha256(self) -> str:
        """Return the hash of the file and of what it imports of this folder, so that a change can be told."""
        digest = hashlib.sha256()
        for path in _sources(self.path):
            digest.update(path.read_bytes())
        return digest.hexdigest()

    def load(self) -> "type[Distiller]":
        """Import the file and return its class."""
        from methods.base import REGISTERED

        if self.name not in REGISTERED:
            import_file(self.path, self.module)
        return REGISTERED[self.name]


def _sources(path: Path, *seen: Path) -> list[Path]:
    """Return a method file and the files of this folder that it imports, and they, each once; `base` does no sums."""
    found = [path]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("methods."):
            other = Path(__file__).parent / f"{str(node.module).removeprefix('methods.')}.py"
            if other.stem != NO_METHOD and other not in (*seen, *found):
                found += [file for file in _sources(other, *seen, *found) if file not in found]
    return found


def own_files() -> list[Path]:
    """Return the method files of this folder, in alphabetical order: all but `base` and names with an underscore."""
    files = Path(__file__).parent.glob("*.py")
    return sorted(path for path in files if path.stem != NO_METHOD and not path.stem.startswith("_"))


def catalog(plugins: Iterable[Path] = ()) -> dict[str, Method]:
    """Return every method by name: this folder's, installed packages' and the given files'.

    Raises:
        RequestError: a plugin is no file, defines no method, or takes a name that is taken.
    """
    own = [(path, f"methods.{path.stem}") for path in own_files()]
    modules = [point.module for point in entry_points(group=ENTRY_POINTS)]
    installed = [(_entry_point_file(module), module) for module in modules]
    found: dict[str, Method] = {}
    for path, module in [*own, *installed, *((path, None) for path in plugins)]:
        method = read(path, module)
        if method.name in found and found[method.name].path.resolve() != path.resolve():
            raise RequestError(f"{path}: the method name {method.name!r} is taken by {found[method.name].path}")
        found.setdefault(method.name, method)
    return dict(sorted(found.items()))


def read(path: Path, module: str | None = None) -> Method:
    """Return what a method file says of itself.

    Args:
        path: the file.
        module: the name it is imported by; None to import it by its path.

    Raises:
        RequestError: the file is missing, is no Python, registers no method under its own name, or one whose
            parameters no suite file could set.
    """
    method = _read(path, module)
    for name, parameter in method.parameters.items():
        try:
            if not isinstance(parameter.default, bool | int | float | str | None):
                raise TypeError("a suite file has only numbers, text, true, false and null for it")
            parameter.adapter.validate_python(parameter.default)
        except (TypeError, PydanticUserError, ValidationError) as error:
            said = f"{name}: {parameter.annotation} = {parameter.default!r}"
            reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error).splitlines()[0]
            raise RequestError(f"{path}: parameter {said}: {reason}") from None
    return method


def _read(path: Path, module: str | None) -> Method:
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
        name, options = ast.literal_eval(call.args[0]), {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}
        parameters, has_initial_stage = _parameters(node), _has_initial_stage(node, tree)
    except (ValueError, IndexError, NameError, TypeError):
        return _imported(path, module, ast.get_docstring(tree) or "")
    if name != path.stem:
        raise RequestError(f"{path}: registers {name!r}; a method's name is its file's, {path.stem!r}")
    return Method(
        name=name,
        title=node.name,
        **_registered(path, options),
        parameters=parameters,
        has_initial_stage=has_initial_stage,
        summary=ast.get_docstring(tree) or "",
        path=path,
        module=module,
    )


def _registered(path: Path, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `@register` states beside the name."""
    try:
        return Registration.model_validate(options).model_dump()
    except ValidationError as error:
        first = error.errors()[0]
        raise RequestError(f"{path}: @register(..., {first['loc'][0]}=): {first['msg']}") from None


def import_file(path: Path, module: str | None = None) -> None:
    """Import a method file by its module's name, or by its path where it has none.

    Raises:
        RequestError: the file raises while it is imported.
    """
    try:
        if module is not None:
            importlib.import_module(module)
            return
        spec = importlib.util.spec_from_file_location(f"methods_plugin_{path.stem}", path)
        if spec is None or spec.loader is None:
            raise ImportError("its name does not end in .py")
        loaded = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = loaded  # pickling and dataclasses look a class's module up there
        spec.loader.exec_module(loaded)
    except Exception as error:
        raise RequestError(f"{path}: cannot be imported: {type(error).__name__}: {error}") from error


def _entry_point_file(module: str) -> Path:
    try:
        spec = importlib.util.find_spec(module)
    except ImportError:  # of a package that the module is said to be in
        spec = None
    if spec is None or spec.origin is None:
        raise RequestError(f"entry point {module!r} of group {ENTRY_POINTS!r}: there is no such module")
    return Path(spec.origin)


def _registration(node: ast.ClassDef) -> ast.Call | None:
    """Return the `register(...)` call that decorates a class, if one does."""
    for decorator in node.decorator_list:
        if isinstance(decorator, ast.Call) and getattr(decorator.func, "id", "") == "register":
            return decorator
    return None


def _has_initial_stage(node: ast.ClassDef, tree: ast.Module) -> bool:
    """Return whether a class has an initial stage, its own or that of the one method of this folder it inherits from.

    Raises:
        ValueError: it cannot be told from the methods' sources alone.
    """
    if any(isinstance(item, ast.FunctionDef) and item.name == "initial_stage" for item in node.body):
        return True
    bases = [getattr(base, "id", "") for base in node.bases]
    if bases == ["Distiller"]:
        return False
    own = {f"methods.{path.stem}": path for path in own_files()}
    for item in tree.body:
        if isinstance(item, ast.ImportFrom) and item.module in own and bases[0] in [alias.name for alias in item.names]:
            parent = read(own[item.module], item.module)
            if bases == [parent.title]:
                return parent.has_initial_stage
    raise ValueError("an initial stage may be inherited")


def _parameters(node: ast.ClassDef) -> dict[str, Parameter]:
    """Return the constructor's keyword parameters.

    Raises:
        ValueError, NameError: they cannot be told from this class's source alone.
    """
    constructor = next((f for f in node.body if isinstance(f, ast.FunctionDef) and f.name == "__init__"), None)
    if constructor is None:
        if [getattr(base, "id", "") for base in node.bases] != ["Distiller"]:
            raise ValueError("a constructor may be inherited")
        return {}
    if [argument.arg for argument in constructor.args.args][1:] != GIVEN:
        raise ValueError("a constructor of another shape")
    parameters = {}
    for argument, default in zip(constructor.args.kwonlyargs, constructor.args.kw_defaults, strict=True):
        if default is None or argument.annotation is None:
            raise ValueError("a parameter without default or annotation")
        text = ast.unparse(argument.annotation)
        meaning = eval(text, {"__builtins__": {}}, ANNOTATIONS)  # the text is code that is imported later anyway
        if isinstance(meaning, str):
            raise ValueError("an annotation in quotes")
        parameters[argument.arg] = Parameter(text, meaning, ast.literal_eval(default))
    return parameters


def _imported(path: Path, module: str | None, summary: str) -> Method:
    """Return what `read` returns, from the class itself."""
    from methods.base import REGISTERED, Distiller

    import_file(path, module)
    if path.stem not in REGISTERED:
        raise RequestError(f"{path}: registers no method under its file's name, {path.stem!r}")
    cls = REGISTERED[path.stem]
    try:
        parameters = inspect.signature(cls, eval_str=True).parameters.values()
    except Exception as error:  # an annotation can be any expression
        raise RequestError(f"{path}: the constructor's annotations cannot be read: {error}") from error
    own = [p for p in parameters if p.kind is p.KEYWORD_ONLY]
    if [p.name for p in parameters if p not in own] != GIVEN:
        raise RequestError(f"{path}: a constructor takes ({', '.join(GIVEN)}, *, its own parameters by keyword)")
    if missing := [p.name for p in own if p.default is p.empty or p.annotation is p.empty]:
        raise RequestError(f"{path}: parameter {missing[0]!r} needs an annotation and a default")
    return Method(
        name=path.stem,
        title=cls.__name__,
        **_registered(path, {"weight": cls.weight, "task_weight": cls.task_weight, "version": cls.version}),
        parameters={p.name: Parameter(_written(p.annotation), p.annotation, p.default) for p in own},
        has_initial_stage=cls.initial_stage is not Distiller.initial_stage,
        summary=summary,
        path=path,
        module=module,
    )


def _written(annotation: object) -> str:
    """Return an annotation much as its author wrote it."""
    return annotation.__name__ if isinstance(annotation, type) else str(annotation).replace("typing.", "")
