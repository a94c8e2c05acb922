import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from bench.suite import load
from bench.suite.entries import MethodEntry, TermsEntry
from bench.types import DataInfo, RequestError, Shapes
from methods import catalog, own_files
from methods._description import import_file
from methods._reader import KEYS_OF_ROWS, read
from methods.base import REGISTERED, Distiller
from tests.stores import write_suite

METHODS = catalog()
PLUGIN = '''"""Mine: says nothing."""
from typing import Annotated, Literal

from annotated_types import Ge
from pydantic import PositiveFloat

from methods.base import Distiller, register


@register("mine", weight=3, task_weight=0.5, version=7)
class Mine(Distiller):
    def __init__(
        self, student, teacher, data, *, sharpness: PositiveFloat = 2.0, power: Annotated[int, Ge(1)] = 2,
        side: Literal["left", "right"] = "left", on: bool = False,
    ) -> None:
        super().__init__(student, teacher, data)

    def loss(self, student, teacher, batch):
        return student.logits.sum() * 0
'''
INHERITED = """from methods.at import AT
from methods.base import register


@register("nearly", weight=5.0)
class Nearly(AT):
    pass
"""


@pytest.fixture(autouse=True)
def _forgets_plugins():
    yield
    for name in REGISTERED.keys() - METHODS.keys():
        del REGISTERED[name]


def plugin(folder: Path, name: str, text: str) -> Path:
    path = folder / f"{name}.py"
    path.write_text(text, errors="surrogateescape")
    return path


def python(code: str, *arguments: str) -> str:
    """Return what a fresh interpreter prints."""
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


# this folder's methods


def test_the_thirteen_methods_are_found_by_their_files():
    names = {"kd", "fitnet", "at", "sp", "cc", "vid", "rkd", "pkt", "ab", "ft", "fsp", "nst", "crd"}
    assert names <= METHODS.keys()
    assert list(METHODS) == sorted(METHODS)
    assert [path.stem for path in own_files()] == list(METHODS)


def test_reading_the_methods_imports_neither_torch_nor_any_of_them():
    code = (
        "import sys; from methods import catalog; found = catalog(); "
        "print([name for name in sys.modules if name == 'torch' or name.removeprefix('methods.') in found])"
    )
    assert python(code) == "[]"


@pytest.mark.parametrize("name", METHODS)
def test_a_methods_source_says_what_its_constructor_says(name):
    method, cls = METHODS[name], METHODS[name].load()
    signature = inspect.signature(cls).parameters.values()
    own = [parameter for parameter in signature if parameter.kind is parameter.KEYWORD_ONLY]
    assert [(key, value.type, value.default) for key, value in method.parameters.items()] == [
        (parameter.name, parameter.annotation, parameter.default) for parameter in own
    ]


@pytest.mark.parametrize("name", METHODS)
def test_a_methods_source_says_what_it_registers(name):
    method, cls = METHODS[name], METHODS[name].load()
    assert (method.weight, method.task_weight, method.version) == (cls.weight, cls.task_weight, cls.version)
    assert (method.title, method.name) == (cls.__name__, name)
    assert method.summary == ast.get_docstring(ast.parse(method.path.read_text()))


@pytest.mark.parametrize("name", METHODS)
def test_a_methods_source_says_whether_it_has_an_initial_stage(name):
    assert METHODS[name].has_initial_stage == ("initial_stage" in vars(METHODS[name].load()))


@pytest.mark.parametrize("name", METHODS)
def test_a_methods_source_says_where_to_search(name):
    assert METHODS[name].space == METHODS[name].load().search_space


# plugins


def test_a_plugin_is_read_like_a_method_of_this_folder(tmp_path):
    method = catalog([plugin(tmp_path, "mine", PLUGIN)])["mine"]
    assert (method.title, method.weight, method.task_weight, method.version) == ("Mine", 3.0, 0.5, 7)
    assert {name: parameter.default for name, parameter in method.parameters.items()} == {
        "sharpness": 2.0,
        "power": 2,
        "side": "left",
        "on": False,
    }
    assert {name: parameter.annotation for name, parameter in method.parameters.items()} == {
        "sharpness": "PositiveFloat",
        "power": "Annotated[int, Ge(ge=1)]",
        "side": "Literal['left', 'right']",
        "on": "bool",
    }
    assert method.summary == "Mine: says nothing."


def test_a_plugins_parameters_are_checked_like_any(tmp_path):
    methods = catalog([plugin(tmp_path, "mine", PLUGIN)])
    wrong = {"sharpness": -1.0, "power": 0, "side": "up", "on": 1, "sharpnes": 1.0}
    with pytest.raises(RequestError) as caught:
        load(write_suite(tmp_path, methods=[{"method": "mine", **wrong}]), methods)
    for said in (
        "'sharpness' of mine: found -1.0: must be greater than 0\n",
        "'power' of mine: found 0: must be greater than or equal to 1\n",
        "'side' of mine: found \"up\": must be 'left' or 'right'\n",
        "'on' of mine: found 1: must be true or false\n",
        "'sharpnes' is no parameter of mine. Did you mean 'sharpness'?",
    ):
        assert said in str(caught.value)


def test_a_plugin_is_imported_when_it_is_needed(tmp_path):
    path = plugin(tmp_path, "later", PLUGIN.replace('"mine"', '"later"'))
    assert catalog([path])["later"].load().__name__ == "Mine"


def test_the_same_plugin_twice_is_one(tmp_path):
    path = plugin(tmp_path, "mine", PLUGIN)
    assert catalog([path, tmp_path / "." / "mine.py"])["mine"].path.resolve() == path.resolve()


def test_an_after_step_that_takes_gather_is_given_it(tmp_path):
    """Methods were written so until `gather` became an attribute."""
    text = PLUGIN + "\n    def after_step(self, gather):\n        self.joined = gather([1])\n"
    shapes = Shapes("resnet8", ((3, 8, 8),), (), 4, 5)
    mine = catalog([plugin(tmp_path, "mine", text)])["mine"].load()(shapes, shapes, DataInfo(10, 5, None))
    mine.gather = lambda rows: rows * 2
    mine.after_step()
    assert mine.joined == [1, 1]


def test_an_after_step_that_passes_gather_on_to_a_method_of_this_folder_works(tmp_path):
    text = (
        "from methods.base import register\nfrom methods.crd import CRD\n\n\n@register('mine', weight=1.0)\n"
        "class Mine(CRD):\n    def after_step(self, gather):\n        super().after_step(gather)\n"
        "        self.joined = gather([1])\n"
    )
    shapes = Shapes("resnet8", ((3, 8, 8),), (), 4, 5)
    data = DataInfo(10, 5, torch.arange(10) % 5)
    mine = catalog([plugin(tmp_path, "mine", text)])["mine"].load()(shapes, shapes, data, n_negatives=2)
    mine.after_step()
    assert mine.joined == [1]


def test_a_method_of_this_folder_given_as_a_plugin_stays_what_it_is():
    assert catalog([METHODS["kd"].path]) == METHODS


def test_a_method_that_inherits_its_constructor_is_read_by_importing_it(tmp_path):
    method = read(plugin(tmp_path, "nearly", INHERITED))
    parent = METHODS["at"]
    assert (method.title, method.weight, method.task_weight, method.version) == ("Nearly", 5.0, 1.0, 1)
    assert {name: (p.type, p.default) for name, p in method.parameters.items()} == {
        name: (p.type, p.default) for name, p in parent.parameters.items()
    }


STAGED = INHERITED.replace("methods.at import AT", "methods.ab import AB").replace("(AT)", "(AB)")
OWN_CONSTRUCTOR = "def __init__(self, student, teacher, data):\n        super().__init__(student, teacher, data)"


@pytest.mark.parametrize("body", ["pass", OWN_CONSTRUCTOR], ids=["by importing it", "from its source"])
def test_a_method_states_its_initial_stage(body, tmp_path):
    text = STAGED.replace("pass", body).replace("weight=5.0", "weight=5.0, initial_stage=True")
    method = read(plugin(tmp_path, "nearly", text))
    assert method.has_initial_stage
    assert method.load().__name__ == "Nearly"


@pytest.mark.parametrize("name", METHODS)
def test_a_method_states_whether_it_has_an_initial_stage(name):
    """Runs are planned by the statement, before the class is imported."""
    overrides = METHODS[name].load().initial_stage is not Distiller.initial_stage
    assert METHODS[name].has_initial_stage == overrides


@pytest.mark.parametrize("body", ["pass", OWN_CONSTRUCTOR], ids=["by importing it", "from its source"])
def test_a_method_that_does_not_state_its_initial_stage_is_refused_when_it_is_loaded(body, tmp_path):
    path = plugin(tmp_path, "nearly", STAGED.replace("pass", body))
    with pytest.raises(RequestError) as caught:
        read(path).load()
    assert str(caught.value) == (
        f"{path}: cannot be imported: TypeError: Nearly has a method initial_stage: "
        "@register('nearly', ...) must state initial_stage=True"
    )


def test_a_method_that_states_an_initial_stage_it_does_not_have_is_refused_when_it_is_loaded(tmp_path):
    method = read(plugin(tmp_path, "mine", PLUGIN.replace("version=7", "initial_stage=True")))
    with pytest.raises(RequestError, match=r"Mine has no method initial_stage: .* must state initial_stage=False"):
        method.load()


SPACE = {"sharpness": {"log": [0.5, 4]}, "weight": {"linear": [1, 6.5]}, "side": {"choices": ["left", "right"]}}


def test_a_method_states_where_to_search_for_better_values(tmp_path):
    method = read(plugin(tmp_path, "mine", PLUGIN.replace("version=7", f"space={SPACE}")))
    assert method.space == SPACE
    assert method.load().search_space == SPACE


def test_a_search_space_is_read_by_importing_too(tmp_path):
    text = INHERITED.replace("weight=5.0", "weight=5.0, space={'weight': {'log': [0.1, 10.0]}}")
    assert read(plugin(tmp_path, "nearly", text)).space == {"weight": {"log": [0.1, 10.0]}}


def test_a_method_that_states_no_search_space_has_an_empty_one(tmp_path):
    assert read(plugin(tmp_path, "mine", PLUGIN)).space == {}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"sharpnes": {"log": [0.5, 4]}}, "mine has no parameter 'sharpnes'"),
        ({"power": [1, 4]}, "Input should be a valid dictionary"),
        ({"sharpness": {"log": [True, 4]}}, "sharpness: True: Input should be a valid number"),
        ({"sharpness": {"choices": [1.0, "up"]}}, "sharpness: 'up': Input should be a valid number"),
        ({"weight": {"linear": [-1, 4]}}, "weight: -1: Input should be greater than or equal to 0"),
        ({"sharpness": {"linear": [-1, 4], "times_default": True}}, "-1: Input should be greater than or equal to 0"),
        *(
            ({"power": wrong}, f"{wrong} is not a range: {{'log': [low, high]}}, ")
            for wrong in (
                *({}, {"log": [0, 4]}, {"log": [4, 4]}, {"log": [1, 2, 4]}, {"log": ["1", "4"]}, {"linear": [4, 1]}),
                *({"choices": []}, {"choices": "up"}, {"log": [1, 4], "linear": [1, 4]}, {"logarithmic": [1, 4]}),
            )
        ),
    ],
    ids=str,
)
def test_a_search_space_that_is_none_is_refused(given, said, tmp_path):
    path = plugin(tmp_path, "mine", PLUGIN.replace("version=7", f"space={given}"))
    with pytest.raises(RequestError) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}: @register(..., space=): ")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_method_states_its_warmup_and_the_parameters_that_came_later(tmp_path):
    method = read(plugin(tmp_path, "mine", PLUGIN.replace("version=7", 'warmup=5, added=("on",)')))
    assert (method.warmup, method.added) == (5, ("on",))
    assert (method.load().warmup, method.load().added) == (5, ("on",))


def test_a_warmup_is_read_by_importing_too(tmp_path):
    text = INHERITED.replace("weight=5.0", "weight=5.0, warmup=10 * 2")
    assert read(plugin(tmp_path, "nearly", text)).warmup == 20


def test_a_method_whose_registration_is_computed_is_read_by_importing_it(tmp_path):
    text = INHERITED.replace("weight=5.0", "weight=10 * 0.5")
    assert read(plugin(tmp_path, "nearly", text)).weight == 5.0


NAMED = PLUGIN.replace("mine", "bad")
REFUSED = {
    "missing": (None, "cannot be read as a method file: [Errno 2] No such file"),
    "broken": ("def", "cannot be read as a method file: invalid syntax"),
    "binary": ("\0", "cannot be read as a method file: source code string cannot contain null bytes"),
    "without a class": ("x = 1\n", "no class is decorated with @register('bad', weight=...)"),
    "undecorated": ("class Bad: pass\n", "no class is decorated with @register('bad', weight=...)"),
    "under another name": (PLUGIN, "registers 'mine'; a method's name is its file's, 'bad'"),
    "without a weight": (NAMED.replace("weight=3, task_weight=0.5, ", ""), "@register(..., weight=): Field required"),
    "with a weight in words": (NAMED.replace("weight=3", "weight='3'"), "weight=): Input should be a valid number"),
    "with half a version": (NAMED.replace("version=7", "version=1.5"), "version=): Input should be a valid integer"),
    "with a warmup below 0": (
        NAMED.replace("version=7", "warmup=-1"),
        "warmup=): Input should be greater",
    ),
    "with a later parameter that it lacks": (
        NAMED.replace("version=7", "added=('off',)"),
        "@register(..., added=): bad has no parameter 'off'",
    ),
    "with an option too many": (NAMED.replace("version", "verson"), "verson=): Extra inputs are not permitted"),
    "without a default": (NAMED.replace("on: bool = False", "on: bool"), "parameter 'on' needs an annotation and a"),
    "without an annotation": (NAMED.replace("on: bool", "on"), "parameter 'on' needs an annotation and a default"),
    "with a parameter by position": (
        NAMED.replace("*, sharpness", "sharpness").replace(", power", ", *, power"),
        "a constructor takes (student, teacher, data, *, its own parameters by keyword)",
    ),
    "with a default out of range": (
        NAMED.replace("= 2.0", "= 0.0"),
        "parameter sharpness: PositiveFloat = 0.0: Input should be greater than 0",
    ),
    "with a default no file can hold": (
        NAMED.replace("on: bool = False", "on: tuple = (1, 2)"),
        "parameter on: tuple = (1, 2): a suite file has only numbers, text, true, false and null for it",
    ),
    "with an annotation that is none": (
        NAMED.replace("on: bool = False", "on: 'Nowhere' = False"),
        "the constructor's annotations cannot be read: name 'Nowhere' is not defined",
    ),
    "that fails when it is imported": (
        INHERITED.replace("nearly", "bad").replace("pass", "x = nowhere"),
        "cannot be imported: NameError: name 'nowhere' is not defined",
    ),
    "that exits when it is imported": (INHERITED.replace("nearly", "bad").replace("pass", "exit()"), "SystemExit"),
    "that changes a setting when it is imported": (
        INHERITED.replace("nearly", "bad").replace("pass", "import torch; torch.set_default_dtype(torch.float64)"),
        "cannot be imported: RuntimeError: changes the default dtype, which all runs share",
    ),
    "that registers another method too": (
        INHERITED.replace("nearly", "bad").replace("\n\n@", '\n\n@register("kd", weight=1.0)\n@', 1),
        "registers 'kd' too; a file registers one method, under its own name",
    ),
    "that nests too deep to be read": (f"x = {'-' * 100_000}1\n", "an expression in it nests too deep"),
    "with names that nest too deep": (f"x = {'a.' * 50_000}b\n", "an expression in it nests too deep"),
    "in another encoding": ("x = '\udce9'\n", "cannot be read as a method file: 'utf-8' codec can't decode"),
    "with an annotation that raises": (NAMED.replace("on: bool", "on: 1 / 0"), "ZeroDivisionError: division by zero"),
    "with an annotation that lacks an attribute": (NAMED.replace("on: bool", "on: int.foo"), "AttributeError"),
    "with a default that raises": (NAMED.replace("on: bool = False", "on: int = {}['k']"), "KeyError: 'k'"),
    "with an annotation that exits": (
        "from __future__ import annotations\n" + NAMED.replace("on: bool", "on: exit(3)"),
        "the constructor's annotations cannot be read: SystemExit: 3",
    ),
    "with a default of a type of its own": (
        NAMED.replace("\n\n@", "\nfrom enum import StrEnum\nSide = StrEnum('Side', ['up'])\n\n@", 1).replace(
            "on: bool = False", "on: Side = Side.up"
        ),
        "parameter on: Side = <Side.up: 'up'>: a suite file has only numbers, text, true, false and null for it",
    ),
    "with a type that raises": (
        NAMED.replace("\n\n@", "\nfrom pydantic import AfterValidator\n\n@", 1).replace(
            "on: bool = False", "on: Annotated[int, AfterValidator(lambda v: 1 / v)] = 0"
        ),
        "ZeroDivisionError: division by zero",
    ),
    "with a type that makes other values": (
        NAMED.replace("\n\n@", "\nfrom pydantic import AfterValidator\n\n@", 1).replace(
            "on: bool = False", "on: Annotated[int, AfterValidator(lambda v: [v])] = 0"
        ),
        "a suite file has only numbers, text, true, false and null for it, not list",
    ),
    "that registers something else when it is imported": (
        INHERITED.replace('"nearly"', '"ne" + "arly"'),
        "registers no method under its file's name, 'bad'",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_bad_plugin_is_refused_in_one_line_with_its_path_and_the_reason(case, tmp_path):
    text, said = REFUSED[case]
    path = tmp_path / "bad.py" if text is None else plugin(tmp_path, "bad", text)
    with pytest.raises(RequestError) as caught:
        catalog([path])
    assert str(caught.value).startswith(f"{path}: ")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", sorted(KEYS_OF_ROWS))
def test_a_parameter_with_the_name_of_a_key_of_a_row_is_refused_with_its_line(key, tmp_path):
    text = NAMED.replace("on: bool = False", f"{key}: float = 1.0")
    line = next(number for number, one in enumerate(text.splitlines(), start=1) if f"{key}: float" in one)
    with pytest.raises(RequestError) as caught:
        catalog([plugin(tmp_path, "bad", text)])
    assert f"bad.py: line {line}: parameter {key!r} has the name of a key that each row of a suite may" in str(
        caught.value
    )


def test_the_keys_of_a_row_are_known_to_the_reader_of_methods():
    assert {*MethodEntry.model_fields, *TermsEntry.model_fields} == KEYS_OF_ROWS


def test_annotations_of_the_plugins_own_are_read_by_importing_it(tmp_path):
    text = "from __future__ import annotations\n" + PLUGIN.replace("on: bool = False", "on: Power = 3")
    text = text.replace("@register", "Power = Annotated[int, Ge(2)]\n\n\n@register")
    parameter = read(plugin(tmp_path, "mine", text)).parameters["on"]
    assert parameter.default == 3
    with pytest.raises(ValidationError):
        parameter.adapter.validate_python(1)


def test_a_plugin_that_takes_the_name_of_a_method_is_refused(tmp_path):
    path = plugin(tmp_path, "kd", PLUGIN.replace('"mine"', '"kd"'))
    with pytest.raises(RequestError, match=rf"kd\.py: the method name 'kd' is taken by {METHODS['kd'].path}"):
        catalog([path])


def test_a_plugin_that_is_no_module_is_refused_when_it_is_imported(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text(PLUGIN)
    with pytest.raises(RequestError, match=r"its name does not end in \.py"):
        import_file(path)


# installed packages


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Return a way to leave a package with a method where Python looks for packages, as pip does."""

    def leave(entry_point: str, text: str = PLUGIN) -> None:
        (tmp_path / "distillers").mkdir()
        (tmp_path / "distillers/__init__.py").touch()
        (tmp_path / "distillers/parts.py").write_text("POWER = 2\n")
        plugin(tmp_path / "distillers", "mine", text)
        info = tmp_path / "distillers-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: distillers\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[distillation_bench.methods]\nmine = {entry_point}\n")
        monkeypatch.syspath_prepend(tmp_path)

    yield leave
    for name in [name for name in sys.modules if name.partition(".")[0] == "distillers"]:
        del sys.modules[name]


def test_an_installed_package_is_not_imported_to_find_its_method(install, tmp_path):
    install("distillers.mine:Mine")
    (tmp_path / "distillers/__init__.py").write_text("raise SystemExit(3)\n")
    method = catalog()["mine"]
    with pytest.raises(RequestError, match="cannot be imported: SystemExit: 3"):
        method.load()


def test_an_installed_packages_method_is_found_by_its_entry_point(install, tmp_path):
    install("distillers.mine:Mine")
    method = catalog()["mine"]
    assert (method.path, method.load().__module__) == (tmp_path / "distillers/mine.py", "distillers.mine")


def test_an_installed_method_may_import_from_its_own_package(install):
    text = PLUGIN.replace("from typing", "from .parts import POWER\nfrom typing").replace("= 2,", "= POWER,")
    install("distillers.mine:Mine", text)
    assert catalog()["mine"].load().__module__ == "distillers.mine"


@pytest.mark.parametrize("module", ["nowhere", "nowhere.mine", "distillers.nowhere"])
def test_an_entry_point_without_a_module_is_refused(module, install):
    install(f"{module}:Mine")
    with pytest.raises(RequestError, match=f"^entry point '{module}' of group 'distillation_bench.methods'"):
        catalog()
