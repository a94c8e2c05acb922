"""The Python API: results as data frames, networks with their stored weights, and runs from Python."""

import doctest
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
import pytest
import torch
import yaml
from torch.testing import assert_close

from bench import api
from bench.api import RequestError
from bench.store import Store
from tests.data.test_imagefolder import write_folder
from tests.few import use_few
from tests.stores import cell_of, fail, finish, finish_all, plan_of, write_suite
from tests.train.conftest import document

ROOT = Path(__file__).parent.parent
PAIR = "resnet14->resnet8"


def noted(store: Store, plan, changes=(), folder: str = "table", plugins=()) -> None:
    """Write down that a suite has a report, as a run does."""
    path = store.suite_folder(folder) / "suite.json"
    path.parent.mkdir(parents=True)
    shown = {"file": f"../{plan.file.name}", "sha256": "0" * 64, "changes": list(changes), "plugins": list(plugins)}
    path.write_text(json.dumps(shown))


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Store(tmp_path / "results")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return a folder with a suite file and its results: `run` has trained it."""
    folder = tmp_path_factory.mktemp("trained")
    training = {"epochs": 1, "batch_size": 16, "evaluate_every": 1}
    (folder / "digits.yaml").write_text(yaml.safe_dump(document(methods=["kd"], training=training)))
    with pytest.MonkeyPatch.context() as patch:
        use_few(patch)
        patch.chdir(folder)
        api.run("digits.yaml", device="cpu")
    return folder


@pytest.fixture
def there(trained, monkeypatch):
    """Work in that folder."""
    use_few(monkeypatch)
    monkeypatch.chdir(trained)
    return trained


# reading results


def test_the_plug_ins_that_a_report_names_are_read(store, tmp_path):
    plugin = tmp_path / "mine.py"
    plugin.write_text((ROOT / "methods" / "pkt.py").read_text().replace('"pkt"', '"mine"'))
    plan = plan_of(tmp_path)
    write_suite(tmp_path, methods=["mine"])
    noted(store, plan, plugins=["mine.py"])
    assert "mine" in set(api.results().frame()["method"])


def test_the_frame_has_a_row_per_seed_and_metric_of_every_suite_of_the_folder(store, tmp_path):
    plan = plan_of(tmp_path, seeds=2)
    finish(store, cell_of(plan, "KD"), [70.0, 72.0])
    noted(store, plan)
    other = plan_of(tmp_path, name="other", methods=["at"])
    noted(store, other, folder="other")
    frame = api.results().frame()
    metrics = 2  # of those computed from answers, no run has any
    assert frame.groupby("suite").size().to_dict() == {"other": 3 * metrics, "table": 5 * metrics}
    kd = frame.query("suite == 'table' and label == 'KD' and metric == 'top1'")
    assert kd[["pair", "method", "seed", "teacher_seed", "value", "best", "status"]].to_numpy().tolist() == [
        [PAIR, "kd", 1, 0, 70.0, 71.0, "done"],
        [PAIR, "kd", 2, 0, 72.0, 73.0, "done"],
    ]


def test_a_suite_that_was_changed_on_the_command_line_has_its_own_rows(store, tmp_path):
    plan = plan_of(tmp_path)
    noted(store, plan)
    noted(store, plan, changes=["seeds=3"], folder="table/with_seeds=3")
    frame = api.results().frame()
    seeds = frame.query("label == 'none' and metric == 'top1'").groupby("suite")["seed"].apply(list)
    assert seeds.to_dict() == {"table": [1], "table/with_seeds=3": [1, 2, 3]}


def test_columns_have_the_same_types_whatever_is_done(store, tmp_path):
    plan = plan_of(tmp_path)
    noted(store, plan)
    before = api.results().frame().dtypes
    finish_all(store, plan, {"teacher": [90.0], "none": [80.0], "KD": [85.0]})
    assert api.results().frame().dtypes.to_dict() == before.to_dict()
    assert (str(before["epoch"]), str(before["value"])) == ("Int64", "float64")


def test_the_frame_names_the_status_of_a_run_and_the_reason(store, tmp_path):
    plan = plan_of(tmp_path)
    fail(store, cell_of(plan, "KD"), "diverged", "the loss is nan")
    row = api.results(suites=["table.yaml"]).frame().query("label == 'KD'").iloc[0]
    assert row["status"] == "diverged"
    assert "the loss is nan" in row["reason"]


def test_curves_have_a_row_per_run_epoch_and_number(store, tmp_path):
    plan = plan_of(tmp_path)
    run = cell_of(plan, "KD").runs[0].id
    store.write_epochs(run, [{"stage": "main", "epoch": 1, "loss": float("nan")}])
    store.append_epoch(run, {"stage": "main", "epoch": 2, "loss": 0.5, "top1": 40.0})
    curves = api.results(suites=["table.yaml"]).curves()
    assert set(curves["run"]) == {run}
    assert set(curves["label"]) == {"KD"}
    assert curves[["epoch", "column"]].to_numpy().tolist() == [[1, "loss"], [2, "loss"], [2, "top1"]]
    assert curves["value"].isna().tolist() == [True, False, False]


def test_reading_results_imports_no_torch(store, tmp_path):
    plan = plan_of(tmp_path)
    noted(store, plan)
    code = "import sys; from bench import api; r = api.results(); r.frame(); r.curves(); print('torch' in sys.modules)"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert answer.stdout == "False\n"


WRONG = {
    "an empty folder": (lambda: api.results("nothing"), ["nothing: no suite has results there"]),
    "a name": (lambda: api.results(suites=["tabel"]), ["no suite named 'tabel'", "Did you mean 'table'?"]),
    "a pair": (lambda: api.load_student("table", "resnet14->resnet9", "KD", 1), [f"Did you mean {PAIR!r}?"]),
    "a row": (lambda: api.load_student("table", PAIR, "kdd", 1), ["no row 'kdd'", "Did you mean 'KD'?"]),
    "rows": (lambda: api.load_student("table", PAIR, "crd", 1), ["several rows of 'crd'", "Small, Large"]),
    "a seed": (lambda: api.load_student("table", PAIR, "KD", 3), ["no run with seed 3", "seed 1 in table; seed 2 in"]),
    "no seed": (lambda: api.load_student("table", PAIR, "KD"), ["several runs", "seed 1 in table; seed 2 in"]),
    "not done": (lambda: api.load_student("table", PAIR, "KD", 1), ["is waiting", "run the suite first"]),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_not_there_is_named_with_what_is(case, store, tmp_path):
    rows = ["kd", {"method": "crd", "label": "Small", "n_negatives": 8}, {"method": "crd", "label": "Large"}]
    noted(store, plan_of(tmp_path, methods=rows, seeds=2))
    call, said = WRONG[case]
    with pytest.raises(RequestError) as error:
        call()
    assert [part for part in said if part not in str(error.value)] == []
    assert "\n" not in str(error.value)


def test_a_suite_file_that_is_gone_is_named_with_the_way_out(store, tmp_path):
    plan = plan_of(tmp_path)
    noted(store, plan)
    plan.file.unlink()
    with pytest.raises(
        RequestError, match=r"suite\.json: its suite file, table\.yaml, is not there.*suites=\[\.\.\.\]"
    ):
        api.results()


# networks


def test_a_loaded_student_has_the_accuracy_of_its_record_and_is_in_eval_mode(there):
    network = api.load_student("digits", PAIR, "kd", 1)
    images, labels = api.load_images("digits", PAIR, "KD")
    accuracy = 100 * (network(images).argmax(dim=1) == labels).float().mean().item()
    frame = api.results().frame()
    (recorded,) = frame.query("label == 'KD' and metric == 'top1'")["value"]
    assert accuracy == pytest.approx(recorded, abs=1e-4)
    assert not network.training


def test_images_of_a_folder_are_loaded_without_another_process(store, tmp_path, monkeypatch):
    # a new process would import a script that has no `if __name__ == "__main__":`, and run it again
    folder = write_folder(tmp_path / "birds")
    data = {"name": "imagefolder", "path": str(folder), "mean": [0.5] * 3, "std": [0.2] * 3, "augment": "none"}
    path = write_suite(tmp_path, data=data | {"resize": 32})
    monkeypatch.setattr("multiprocessing.process.BaseProcess.start", None)
    images, labels = api.load_images(path, PAIR, "KD", first=5)
    assert images.shape == (5, 3, 32, 32)
    assert labels.tolist() == [0] * 4 + [1]


def test_a_teacher_and_an_undistilled_student_are_loaded_by_suite_file_or_results(there):
    teacher = api.load_teacher(api.results(), PAIR)
    student = api.load_student("digits.yaml", PAIR, "none")
    assert sum(p.numel() for p in teacher.parameters()) > sum(p.numel() for p in student.parameters())


def test_loading_a_network_leaves_the_random_numbers_alone(there):
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    api.load_student("digits", PAIR, "KD", 1)
    assert_close(torch.rand(3), expected, rtol=0, atol=0)


def test_weights_that_have_changed_since_they_were_recorded_are_refused(there, tmp_path, monkeypatch):
    shutil.copytree(there, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    (run,) = api.results().frame().query("label == 'KD' and metric == 'top1'")["run"]
    path = Store(tmp_path / "copy" / "results").folder(run) / "student.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(RequestError, match="has changed since the run ended"):
        api.load_student("digits", PAIR, "KD", 1)


# running


def test_a_run_that_is_done_trains_nothing_again_and_gives_its_results(there):
    before = {path: path.stat().st_mtime_ns for path in (there / "results" / "runs").rglob("record.json")}
    frame = api.run("digits.yaml", device="cpu").frame()
    assert set(frame["status"]) == {"done"}
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_run_shows_its_progress_and_leaves_logging_signals_threads_and_plots_as_they_were(there, capsys):
    def state() -> tuple[object, ...]:
        project = logging.getLogger("bench")
        handlers = [signal.getsignal(number) for number in signal.valid_signals()]
        logs = (logging.root.handlers.copy(), logging.root.level, project.handlers.copy(), project.level)
        return handlers, logs, project.propagate, torch.get_num_threads(), mpl.get_backend(), dict(mpl.rcParams)

    before = state()
    done = api.run("digits.yaml", changes={"training.lr": 1e-3}, only="none", results="again", device="cpu")
    assert state() == before
    assert "epoch 1/1" in capsys.readouterr().err
    assert done.plans[0].suite.training.lr == 0.001
    assert done.frame().query("label == 'none'")["status"].unique().tolist() == ["done"]


def test_the_program_that_shows_the_log_itself_gets_the_lines(there, caplog, capsys, tmp_path):
    with caplog.at_level(logging.INFO):
        api.run("digits.yaml", only="none", results=tmp_path / "results", device="cpu")
    assert "epoch 1/1" in caplog.text
    assert capsys.readouterr() == ("", "")


def test_a_suite_of_the_package_is_run_by_name(store):
    with pytest.raises(RequestError, match="no cell matches"):
        api.run("quickstart", only="nobody")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"changes": {"training.epoch": 2}}, "Did you mean 'epochs'"),
        ({"seeds": 0}, "seeds"),
        ({"jobs": 0}, "jobs=0: must be at least 1"),
        ({"only": "nobody"}, "no cell matches"),
        ({"plugins": ["missing.py"]}, "missing.py"),
    ],
)
def test_a_wrong_request_raises_what_the_command_line_says_and_writes_nothing(options, said, store, tmp_path):
    write_suite(tmp_path)
    with pytest.raises(RequestError, match=said):
        api.run("table.yaml", **options)
    assert not store.root.exists()


def test_an_interruption_reaches_the_caller_and_the_same_call_goes_on(there, tmp_path, monkeypatch):
    from bench.launch import progress

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(progress.Progress, "epoch", interrupt)
        with pytest.raises(KeyboardInterrupt):
            api.run("digits.yaml", only="none", results=tmp_path / "results", device="cpu")
    done = api.run("digits.yaml", only="none", results=tmp_path / "results", device="cpu")
    assert done.frame().query("label == 'none'")["status"].unique().tolist() == ["done"]


# examples


def test_the_examples_in_the_documentation_are_true(there):
    tests = doctest.DocTestFinder().find(api)
    runner = doctest.DocTestRunner()
    for test in tests:
        runner.run(test)
    assert runner.summarize(verbose=False).failed == 0
    assert runner.tries > 5


# the notebook


NOTEBOOK = json.loads((ROOT / "docs" / "examples" / "results.ipynb").read_text(encoding="utf-8"))
CODE = [cell for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]


def test_the_cells_of_the_notebook_run(tmp_path, monkeypatch):
    use_few(monkeypatch)
    monkeypatch.chdir(tmp_path)
    shorter = {"epochs: 12": "epochs: 1", "epochs: 4": "epochs: 1", "evaluate_every: 4": "evaluate_every: 1"}
    shorter |= {"train_per_class: 20": "train_per_class: 2", "teacher_data: {name: digits, resize: 32}": ""}
    names: dict[str, object] = {}
    for cell in CODE:
        code = "".join(cell["source"])
        for text, other in shorter.items():
            code = code.replace(text, other)
        exec(compile(code, "results.ipynb", "exec"), names)
    assert set(names["frame"]["status"]) == {"done"}


def test_the_notebook_was_executed_from_top_to_bottom_without_errors_and_names_no_folder_of_a_machine():
    assert [cell["execution_count"] for cell in CODE] == list(range(1, len(CODE) + 1))
    outputs = [output for cell in CODE for output in cell["outputs"]]
    assert "error" not in {output["output_type"] for output in outputs}
    texts = "".join(json.dumps(output) for output in outputs if "image/png" not in output.get("data", {}))
    assert re.findall(r"(?<![\w<])/\w+/", texts.replace(r"\n", " ")) == []  # an absolute path
