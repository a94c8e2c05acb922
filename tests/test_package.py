"""The package from the outside: the wheel, its command, the suites in it, and what it writes for a new method."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import bench
from bench.cli import main, start
from bench.suite import command_word, find_suite, packaged_suites
from tests.stores import cell_of, fail, finish, plan_of, write_suite
from tests.train.conftest import Bench, cell, document

ROOT = Path(__file__).parent.parent
COMMAND = "distill-bench"


@pytest.fixture
def answer(monkeypatch, capsys):
    """Return a function that gives the exit status, standard output and standard error of the installed command."""

    def ask(*arguments: str | Path, program: str = f"/somewhere/bin/{COMMAND}") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", [program, *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        written = capsys.readouterr()
        return int(end.value.code or 0), written.out, written.err

    return ask


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Return the folder of an unpacked wheel of a copy of the code: building writes nothing into this one."""
    source, folder = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("bench", "methods", "suites", "tests", "benchmarks"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "golden"))
    for name in ("pyproject.toml", "README.md", "LICENSE", ".gitignore", "run_suite.py"):
        shutil.copy(ROOT / name, source)
    code = "import sys; from hatchling.build import build_wheel; build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, str(folder)], cwd=source, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    with zipfile.ZipFile(built) as archive:
        archive.extractall(folder / "unpacked")
    return folder / "unpacked"


def in_another_folder(wheel: Path, cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the program of an unpacked wheel, as Python finds it, in a folder without a checkout."""
    command = [sys.executable, "-m", "bench", *arguments]
    variables = os.environ | {"PYTHONPATH": str(wheel)}
    return subprocess.run(command, cwd=cwd, env=variables, capture_output=True, text=True, check=False)


# the wheel


def test_the_wheel_has_the_packages_bench_and_methods_and_no_other(wheel):
    assert {path.name for path in wheel.iterdir() if not path.name.endswith(".dist-info")} == {"bench", "methods"}


def test_the_wheel_has_every_file_of_its_packages_and_the_suites(wheel):
    def files(folder: Path) -> set[str]:
        paths = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
        return {str(path.relative_to(folder)) for path in paths}

    assert files(wheel / "methods") == files(ROOT / "methods")
    assert files(wheel / "bench" / "suites") == files(ROOT / "suites")
    assert {name for name in files(wheel / "bench") if not name.startswith("suites/")} == files(ROOT / "bench")
    assert (wheel / "bench" / "py.typed").is_file()


def test_the_wheel_runs_its_suites_by_name_in_another_folder(wheel, tmp_path):
    ended = in_another_folder(wheel, tmp_path, "list", "suites", "quickstart", "--json")
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["file"] == str(wheel / "bench" / "suites" / "quickstart.yaml")
    ended = in_another_folder(wheel, tmp_path, "status", "fashion_mnist_transfer")
    assert ended.returncode == 0, ended.stderr
    assert "resnet14->resnet8" in ended.stdout
    assert list(tmp_path.iterdir()) == []


def test_the_wheels_command_starts_the_program(wheel):
    (metadata,) = wheel.glob("*.dist-info")
    assert f"{COMMAND} = bench.__main__:main" in (metadata / "entry_points.txt").read_text()
    assert f"Version: {bench.__version__}\n" in (metadata / "METADATA").read_text()


def test_an_editable_installation_is_a_plain_path(tmp_path):
    code = "import sys; from hatchling.build import build_editable; build_editable(sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, check=True, capture_output=True)
    (built,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(built) as archive:
        names = [name for name in archive.namelist() if ".dist-info/" not in name]
        assert names == ["_distillation_bench.pth"]
        assert archive.read(names[0]).decode().strip() == str(ROOT)


# how it starts


@pytest.mark.parametrize("words", [["run_suite.py"], ["-m", "bench"]], ids=" ".join)
def test_every_way_to_start_knows_the_version(words):
    ended = subprocess.run([sys.executable, *words, "--version"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert (ended.stdout, ended.stderr) == (f"{COMMAND} {bench.__version__}\n", "")


@pytest.mark.parametrize(
    ("program", "shown"),
    [
        (f"/bin/{COMMAND}", COMMAND),
        ("run_suite.py", "python run_suite.py"),
        ("/lib/bench/__main__.py", "python -m bench"),
    ],
)
def test_the_help_says_how_the_program_was_started(program, shown, answer):
    code, out, _ = answer("--help", program=program)
    assert code == 0
    assert f"Usage: {shown} [OPTIONS] COMMAND" in out


@pytest.mark.parametrize(
    ("shell", "said"), [("bash", "complete -o default"), ("zsh", "#compdef"), ("fish", "complete")]
)
def test_completion_for_a_shell_is_shown_for_the_installed_command(shell, said, answer, monkeypatch):
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    monkeypatch.setattr(start, "_command", start._command.__wrapped__)  # builds the options by that variable
    code, out, _ = answer("--show-completion", shell, program="run_suite.py")
    assert code == 0
    assert said in out
    assert COMMAND in out


def completed(monkeypatch, capsys, *words: str) -> list[str]:
    """Return what bash is told to complete the last word to."""
    monkeypatch.setattr(sys, "argv", [COMMAND])
    monkeypatch.setenv("_DISTILL_BENCH_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", " ".join([COMMAND, *words]))
    monkeypatch.setenv("COMP_CWORD", str(len(words)))
    with pytest.raises(SystemExit):
        main()
    return capsys.readouterr().out.split()


def test_completion_knows_commands_suites_and_files(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quick_one.yaml").touch()
    (tmp_path / "quick").mkdir()
    assert completed(monkeypatch, capsys, "new") == ["new-method"]
    assert completed(monkeypatch, capsys, "status", "quick") == ["quickstart", "quick_one.yaml", "quick/"]


# suites by name


def test_every_suite_of_the_repository_has_a_name_of_its_own():
    assert sorted(packaged_suites().values()) == sorted((ROOT / "suites").rglob("*.yaml"))


def test_a_name_means_the_suite_of_the_package_unless_there_is_such_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quickstart").mkdir()  # a folder is no suite
    assert find_suite(Path("quickstart")) == ROOT / "suites" / "quickstart.yaml"
    (tmp_path / "transfer").write_text("title: mine")
    assert find_suite(Path("transfer")) == Path("transfer")


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("quikstart", "there is no such file, and no suite of that name. Did you mean 'quickstart'? Known: ablation_"),
        ("suites/quickstart.yaml", "there is no such file. To use the suite of the package, write quickstart"),
    ],
)
def test_a_suite_that_is_not_there_is_told_with_the_names(path, said, answer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = answer("status", path)
    assert (code, out) == (2, "")
    assert err.startswith(f"{path}: {said}")
    assert list(tmp_path.iterdir()) == []


def test_a_suite_that_was_named_is_named_in_the_command_that_made_its_results(answer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = answer("report", "digits_with_kd")
    assert (code, err) == (0, "")
    made = (tmp_path / "results" / "digits_with_kd" / "table.md").read_text().split("## How it was made")[1]
    assert made.split("```")[1].strip() == f"{COMMAND} digits_with_kd"


def test_a_command_names_a_suite_as_it_was_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert command_word(find_suite(Path("digits_with_kd"))) == "digits_with_kd"
    own = write_suite(tmp_path, "digits_with_kd")
    assert command_word(find_suite(own)) == str(own)


# JSON


def test_status_as_json_has_every_cell_and_run(answer, tmp_path):
    from bench.store import Store

    plan, store = plan_of(tmp_path, seeds=2), Store(tmp_path / "results")
    finish(store, cell_of(plan, "KD"), [70.0])
    fail(store, cell_of(plan, "none"), "failed", "out of luck")
    code, out, _ = answer("status", tmp_path / "table.yaml", "--results", store.root, "--json")
    told = json.loads(out)
    assert code == 0
    assert list(told) == ["suite", "title", "file", "cells", "jobs"]
    assert [one["label"] for one in told["cells"]] == ["teacher", "none", "KD"]
    _, none, kd = told["cells"]
    runs = kd.pop("runs")
    assert kd == {
        "pair": "resnet14->resnet8",
        "teacher": "resnet14",
        "student": "resnet8",
        "method": "kd",
        "label": "KD",
        "evaluation": "",
        "metric": "top1",
        "n": 1,
        "mean": 70.0,
        "std": None,
        "status": "partial",
        "reason": "seed 2 waiting",
    }
    assert runs[0] == {
        "id": cell_of(plan, "KD").runs[0].id,
        "seed": 1,
        "order_seed": 1,
        "status": "done",
        "reason": "",
        "stage": None,
        "epoch": None,
    }
    assert [(one["status"], one["reason"][:11]) for one in none["runs"]] == [("failed", "out of luck")] * 2


@pytest.mark.parametrize(
    ("kind", "name", "keys"),
    [
        (
            "methods",
            "crd",
            [
                *("documentation", "family", "year", "reads", "title", "weight", "task_weight", "warmup"),
                *("version", "initial_stage", "variant", "cost", "parameters"),
            ],
        ),
        (
            "datasets",
            "digits",
            ["where", "train", "test", "classes", "mean", "std", "augment", "views", "height", "width"],
        ),
        ("suites", "quickstart", ["file"]),
    ],
)
def test_a_list_as_json_has_the_same_keys_for_one_and_for_all(kind, name, keys, answer):
    one, all_of_them = (json.loads(answer("list", kind, *names, "--json")[1]) for names in ([name], []))
    assert list(one) == ["name", "description", *keys]
    assert one in all_of_them


def test_a_network_listed_as_json_has_its_shapes_too(answer):
    one, all_of_them = (json.loads(answer("list", "models", *names, "--json")[1]) for names in (["resnet8"], []))
    assert list(one) == [
        *("name", "description", "pixels", "stages", "names", "embedding", "parameters", "final", "linear")
    ]
    assert {"name": one["name"], "description": one["description"]} in all_of_them


def test_every_key_of_the_json_output_is_documented(answer, tmp_path):
    page = (ROOT / "docs" / "reference" / "json.md").read_text(encoding="utf-8")
    plan_of(tmp_path)
    told = json.loads(answer("status", tmp_path / "table.yaml", "--results", tmp_path / "results", "--json")[1])
    objects = [told, *told["cells"], *told["cells"][0]["runs"]]
    for kind in ("methods", "models", "datasets", "suites"):
        objects += json.loads(answer("list", kind, "--json")[1])
    assert {key for one in objects for key in one if f"`{key}`" not in page} == set()


# a new method


def test_a_new_methods_plugin_trains_and_its_test_passes(answer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, _ = answer("new-method", "my_idea")
    assert code == 0
    assert out.splitlines()[0] == "Written: my_idea.py, test_my_idea.py"
    assert out.splitlines()[-1] == f"Train it: {COMMAND} quickstart --set 'methods=[kd, my_idea]' --plugin my_idea.py"
    assert pytest.main(["-p", "no:cacheprovider", "-p", "no:xdist", "test_my_idea.py"]) == 0
    plan, store, _ = Bench(tmp_path, document(methods=["my_idea"]), [tmp_path / "my_idea.py"]).run()
    assert store.state(cell(plan, "MyIdea").runs[0].id) == "done"


@pytest.mark.slow
def test_a_new_method_of_a_checkout_passes_the_contract_and_its_test(tmp_path):
    for name in ("bench", "methods", "tests"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)

    def python(*words: str) -> str:
        variables = os.environ | {"PYTHONPATH": str(tmp_path)}
        command = [sys.executable, *words]
        return subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, check=True).stdout

    written = python("-m", "bench", "new-method", "my_idea").splitlines()[0]
    assert written == "Written: methods/my_idea.py, tests/methods/test_my_idea.py"
    tests = ["tests/methods/test_my_idea.py", "tests/methods/test_contract.py"]
    assert "%]" in python("-m", "pytest", *tests, "-k", "my_idea")  # and its exit status is 0


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("kd", "the name is taken by "),
        ("none", "a name has only a-z, 0-9 and '_'"),
        ("teacher", "the name is reserved"),
        ("my-idea", "a name has only a-z, 0-9 and '_'"),
        ("../idea", "a name has only a-z, 0-9 and '_'"),
        ("lambda", "a name has only a-z, 0-9 and '_'"),
        ("tensor", "the name is reserved"),
        ("json", "a Python module has this name"),
        ("mine", "test_mine.py exists"),
    ],
)
def test_a_name_that_cannot_be_a_new_methods_is_refused_and_nothing_is_written(
    name, said, answer, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "test_mine.py").write_text("mine")
    code, out, err = answer("new-method", name)
    assert (code, out) == (2, "")
    assert err.startswith(f"new-method {name}: {said}")
    assert err.endswith(". Choose another name\n")
    assert [path.name for path in tmp_path.iterdir()] == ["test_mine.py"]
    assert (tmp_path / "test_mine.py").read_text() == "mine"


def test_the_commands_of_the_program_are_those_of_the_design(answer):
    _, out, _ = answer("--help")
    for command in ("run", "status", "cancel", "report", "cost", "list", "show", "new-method"):
        assert f"│ {command} " in out
