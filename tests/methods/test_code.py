"""The hash of a method's code: what changes it, and what does not."""

import hashlib
from pathlib import Path

import pytest

from bench.types import RequestError
from methods import catalog
from methods._code import OWN, code_of
from tests.methods.test_catalog import PLUGIN, plugin

CHANGES = {
    "a comment": (PLUGIN + "# nothing\n", False),
    "white space": (PLUGIN.replace("\n\n", "\n\n\n").replace("3, task", "3,   task"), False),
    "a docstring": (PLUGIN.replace("says nothing", "says more"), False),
    "a number": (PLUGIN.replace("* 0", "* 1"), True),
    "a sign": (PLUGIN.replace("return student", "return -student"), True),
    "a default": (PLUGIN.replace("power: Annotated[int, Ge(1)] = 2", "power: Annotated[int, Ge(1)] = 3"), True),
}


@pytest.mark.parametrize(("text", "counts"), CHANGES.values(), ids=CHANGES)
def test_only_code_counts(text, counts, tmp_path):
    path = plugin(tmp_path, "mine", PLUGIN)
    before = code_of(path).sha256
    path.write_text(text)
    assert (code_of(path).sha256 != before) == counts


@pytest.mark.parametrize("line", ["import parts", "from parts import POWER", "from more import deeper"])
def test_a_helper_beside_a_plugin_counts(line, tmp_path):
    path = plugin(tmp_path, "mine", f"{line}\n{PLUGIN}")
    (tmp_path / "more").mkdir()
    (tmp_path / "more/deeper.py").write_text("import parts\n")
    (tmp_path / "parts.py").write_text("POWER = 2\n")
    before = code_of(path).sha256
    (tmp_path / "parts.py").write_text("POWER = 2  # still\n")
    assert code_of(path).sha256 == before
    (tmp_path / "parts.py").write_text("POWER = 3\n")
    assert code_of(path).sha256 != before


@pytest.mark.parametrize("line", ["from .parts import POWER", "from . import parts", "from pack.parts import POWER"])
def test_a_helper_in_the_package_of_an_installed_method_counts(line, tmp_path):
    (tmp_path / "pack").mkdir()
    path = plugin(tmp_path / "pack", "mine", f"{line}\n{PLUGIN}")
    (tmp_path / "torch.py").write_text("another = 'package'\n")
    before = code_of(path, "pack.mine").sha256
    (tmp_path / "pack/parts.py").write_text("POWER = 3\n")
    assert code_of(path, "pack.mine").sha256 != before


VERSIONS = """def f(x: int = 0x10, *, y=None, **z) -> str:
    d = {**z, "k": u"\u00e9"}
    return f"a{x=}b{y!r:>{x}}" "c" f"{d}"
"""


def test_what_a_package_imports_from_itself_counts(tmp_path):
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "__init__.py").write_text("from own.parts import POWER\n")
    (folder / "parts.py").write_text("POWER = 2\n")
    before = code_of(folder / "__init__.py", "own").sha256
    (folder / "parts.py").write_text("POWER = 3\n")
    assert code_of(folder / "__init__.py", "own").sha256 != before


def test_the_hash_is_the_same_in_every_version_of_python(tmp_path):
    (tmp_path / "mine.py").write_text(VERSIONS, encoding="utf-8")
    assert code_of(tmp_path / "mine.py").sha256 == "9912844902b420b26162ca055661268fdf0232bce188235e5febebeeda09802a"


@pytest.mark.parametrize(
    ("one", "other"), [("x=1", "x=1.0"), ("x=1", "x=True"), ("x=()", "x=[]"), ("f(None)", "f()"), ("f'{a}'", "'{a}'")]
)
def test_code_that_differs_has_another_hash(one, other, tmp_path):
    hashes = set()
    for text in (one, other):
        (tmp_path / "mine.py").write_text(text)
        hashes.add(code_of(tmp_path / "mine.py").sha256)
    assert len(hashes) == 2


@pytest.mark.parametrize("levels", [2, 99])
def test_a_relative_import_from_above_a_plugin_finds_nothing(levels, tmp_path, monkeypatch):
    (tmp_path / "plugins").mkdir()
    (tmp_path / "utils.py").write_text("POWER = 2\n")
    line = f"try:\n    from {'.' * levels}utils import POWER\nexcept ImportError:\n    POWER = 1\n"
    path = plugin(tmp_path / "plugins", "mine", line + PLUGIN)
    monkeypatch.chdir(path.parent)
    for one in (path, Path("mine.py")):
        assert code_of(one).helpers == ()


def copied(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copy the project's methods to a folder, where the hash looks for them."""
    for path in OWN.glob("*.py"):
        (folder / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr("methods._code.OWN", folder)
    return folder


def test_what_methods_share_does_not_count_but_another_method_does(tmp_path, monkeypatch):
    folder = copied(tmp_path, monkeypatch)
    before = code_of(folder / "crd_local.py", "methods.crd_local").sha256
    for name in ("_banks", "base"):
        (folder / f"{name}.py").write_text("another = 1\n")
    assert code_of(folder / "crd_local.py", "methods.crd_local").sha256 == before
    (folder / "crd.py").write_text("another = 1\n")
    assert code_of(folder / "crd_local.py", "methods.crd_local").sha256 != before


def test_the_hash_in_records_of_earlier_versions_is_known(tmp_path):
    path = plugin(tmp_path, "mine", PLUGIN)
    code = catalog([path])["mine"].code
    assert (code.is_own, catalog()["kd"].code.is_own) == (False, True)
    assert code.made(code.sha256)
    assert code.made(hashlib.sha256(path.read_bytes()).hexdigest())
    assert not code.made("0" * 64)


def test_a_method_is_known_by_the_code_that_was_imported(tmp_path):
    path = plugin(tmp_path, "imported_before_the_edit", PLUGIN.replace('"mine"', '"imported_before_the_edit"'))
    method = catalog([path])["imported_before_the_edit"]
    method.load()
    imported = code_of(path).sha256
    path.write_text(path.read_text() + "edited = True\n")
    assert method.code.sha256 == imported != code_of(path).sha256


def test_a_helper_that_is_no_python_is_named(tmp_path):
    path = plugin(tmp_path, "mine", f"import parts\n{PLUGIN}")
    (tmp_path / "parts.py").write_text("POWER = = 2\n")
    with pytest.raises(RequestError, match=r"parts\.py: cannot be read as Python"):
        code_of(path)
