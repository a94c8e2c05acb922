"""Imports point one way, and what needs no torch imports none."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from bench.store import Store
from tests.stores import finish_all, plan_of

ROOT = Path(__file__).parent.parent
TRAINING = ["torch", "torchvision", "sklearn", "submitit"]
HEAVY = [*TRAINING, "numpy", "pandas", "matplotlib", "scipy", "safetensors"]
# The parts of the design, from the leaves up. A part imports only from the lines above its own: nothing points back or
# sideways. The files that start the command line count as part of it.
LEVELS: tuple[set[str], ...] = (
    {"__version__", "program", "schedule", "text", "types"},
    {"reading", "spec"},
    {"remembered"},
    {"data", "methods", "models", "store"},
    {"tasks"},
    {"suite", "train"},
    {"plan"},
    {"launch", "report"},
    {"cost", "figures", "share"},
    {"terminal", "workflow"},
    {"api", "cli"},
)
# what a part does not import either, though the levels would let it
NEVER: dict[str, set[str]] = {
    "tasks": {"methods", "store"},
    "suite": {"store"},
    "plan": {"train"},
    "report": {"train"},
    "figures": {"launch", "train"},
    "cost": {"report"},
    "terminal": {"figures", "share", "train"},
    "workflow": {"cost", "launch", "train"},
    "api": {"cost", "figures", "share", "terminal", "train"},
    "cli": {"train"},
}


def part(module: str) -> str:
    """Return the part of the design that a module belongs to."""
    names = module.split(".")
    name = names[1] if names[0] == "bench" else names[0]
    return "cli" if name in ("__main__", "run_suite") else name


def below(name: str) -> set[str]:
    """Return the parts on the levels from which a part may import."""
    own = next(number for number, level in enumerate(LEVELS) if name in level)
    return set().union(*LEVELS[:own])


def imported(path: Path) -> set[str]:
    """Return the parts that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            within = [f"bench.{alias.name}" for alias in node.names] if node.module == "bench" else [node.module]
            found |= set(within)
    return {part(name) for name in found if name and name.split(".")[0] in ("bench", "methods")}


@cache
def files() -> dict[Path, str]:
    """Return every source file with its part."""
    paths = [ROOT / "run_suite.py", *(ROOT / "bench").rglob("*.py"), *(ROOT / "methods").rglob("*.py")]
    modules = {path: ".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths}
    return {path: part(name) for path, name in modules.items() if name != "bench.__init__"}


def test_each_part_has_one_level_and_is_barred_only_from_lower_ones():
    parts = [name for level in LEVELS for name in level]
    assert sorted(parts) == sorted({*files().values(), "__version__"})
    assert all(others <= below(name) for name, others in NEVER.items())


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_imports_only_what_its_part_may(path):
    name = files()[path]
    assert imported(path) - {name} <= below(name) - NEVER.get(name, set())


def loaded(*arguments: str) -> list[str]:
    """Return the heavy packages that a command has imported by its end, and check that it succeeds."""
    code = (
        "import sys\n"
        f"sys.argv = {['run_suite.py', *arguments]!r}\n"
        "from bench.cli import main\n"
        "try:\n"
        "    main()\n"
        "except SystemExit as end:\n"
        f"    heavy = [name for name in {HEAVY} if name in sys.modules]\n"
        "    print(end.code, heavy, file=sys.stderr)\n"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    code_text, _, names = answer.stderr.splitlines()[-1].partition(" ")
    assert code_text in ("0", "None")
    return ast.literal_eval(names)


@pytest.fixture
def finished(tmp_path):
    """Return the arguments that name a finished suite and its store."""
    plan = plan_of(tmp_path)
    finish_all(Store(tmp_path / "results"), plan, {"teacher": [90.0], "none": [80.0], "KD": [85.0]})
    return [str(tmp_path / "table.yaml"), "--results", str(tmp_path / "results")]


@pytest.mark.parametrize(
    "arguments", [["--help"], ["list", "methods"], ["list", "methods", "crd"], ["list", "models"]], ids=" ".join
)
def test_help_and_list_import_nothing_heavy(arguments):
    assert loaded(*arguments) == []


@pytest.mark.parametrize("command", ["status", "cancel"])
def test_what_only_reads_imports_nothing_heavy(command, finished):
    assert loaded(command, *finished) == []


def test_a_report_imports_what_draws_and_tests_but_nothing_that_trains_and_a_run_with_nothing_to_do_neither(finished):
    drawing = loaded("report", *finished)
    assert "matplotlib" in drawing
    assert not set(drawing) & set(TRAINING)
    assert loaded("run", *finished) == []


def test_show_imports_nothing_heavy(finished, tmp_path):
    run = next(iter(plan_of(tmp_path).runs))
    assert loaded("show", run, *finished[1:]) == []


def test_a_comparison_imports_what_tests_but_nothing_that_trains_or_draws(finished):
    suite, *where = finished
    found = loaded("compare", suite, suite, *where)
    assert "scipy" in found
    assert not set(found) & {*TRAINING, "matplotlib"}
