"""Reads a method from its file's source, without importing torch.

`@register("name", weight=...)` above a class states the name and the registration. Tables print the class's name. The
constructor's keyword parameters are what a suite file may set. If the source alone does not state all this, for example
because the constructor is inherited, the file is imported and the same facts are read from the class.
"""

import ast
import inspect
from pathlib import Path
from typing import Any

from pydantic import PydanticUserError, TypeAdapter, ValidationError

from bench.reading import check_regular, decorator_calls
from bench.types import RequestError
from methods._description import ANNOTATIONS, FACTORS, ONLY_PLAIN, PLAIN, Method, Parameter, Registration, import_file
from methods._errors import described, ends_process

KEYS_OF_ROWS = {  # what a row of a suite may hold beside its method's parameters
    *("method", "terms", "weight", "warmup"),
    *("kd", "kd_temperature", "task_weight", "combine", "label", "by_pair", "published"),
}
GIVEN = ["student", "teacher", "data"]  # the positional arguments of every constructor
Facts = tuple[str, dict[str, Any], inspect.Signature]  # a class's name, its registration, its constructor's signature


def has_networks_only(path: Path) -> bool:
    """Return whether a file registers networks and no method; False if it cannot be read."""
    try:
        called = [ast.unparse(call.func) for call in decorator_calls(path)]
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError, RequestError):
        return False
    return any(name.rpartition(".")[2] == "register_network" for name in called) and "register" not in called


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
    for key, given in registration.space.items():
        is_factor = given.get("times_default", False)
        adapter: TypeAdapter[Any] = FACTORS if key == "weight" else parameters[key].adapter
        try:
            for value in next(values for form, values in given.items() if form != "times_default"):
                adapter.validate_python(parameters[key].times(value) if is_factor and key != "weight" else value)
        except ValidationError as error:
            raise RequestError(f"{path}: @register(..., space=): {key}: {value!r}: {_reason(error)}") from None
        except (ValueError, OverflowError) as error:
            raise RequestError(f"{path}: @register(..., space=): {key}: {error}") from None
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
