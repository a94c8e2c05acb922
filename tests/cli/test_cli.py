import csv
import json
import os
import re
import resource
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from bench.models import build as build_network
from bench.plan import Plan, build_plan
from bench.spec import canonical
from bench.store import Store, write_whole
from bench.suite import load, packaged
from tests.forks import Command
from tests.stores import METHODS, SUITE, cell_of, fail, finish, finish_all, plan_of, write_suite

ROOT = Path(__file__).parents[2]
HOOKED = {"network": "torchvision.resnet18", "stages": ["relu", "layer1"]}
RUN_ID = re.compile(r"\b[0-9a-f]{16}\b")


@pytest.fixture
def results(tmp_path):
    return tmp_path / "results"


@pytest.fixture
def store(results):
    return Store(results)


def run_suite(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    command = [sys.executable, str(ROOT / "run_suite.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)


def finished(process: Command) -> subprocess.CompletedProcess[str]:
    """Return what has become of a command."""
    return subprocess.CompletedProcess([], process.wait(), *process.said())


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Return every file's bytes and time of change."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def statuses(results: Path, name: str = "table") -> dict[str, str]:
    """Return each row's status as table.csv tells it."""
    with (results / name / "table.csv").open(encoding="utf-8") as file:
        return {row["label"]: row["status"] for row in csv.DictReader(file)}


# from the store alone


def test_report_and_status_need_no_checkpoint_file(cli, tmp_path, results, store):
    file = tmp_path / "teacher.pth"
    file.write_bytes(b"weights")
    pairs = [{"teacher": {"network": "resnet14", "checkpoint": "teacher.pth"}, "student": "resnet8"}]
    plan = plan_of(tmp_path, pairs=pairs)
    finish_all(store, plan, {"teacher": [90.0], "none": [80.0], "KD": [85.0]})
    path = write_suite(tmp_path, pairs=pairs)
    assert cli(path, "--results", results)[0] == 0
    file.unlink()
    before = contents(results)
    assert cli("report", path, "--results", results)[0] == 0
    assert {name: content for name, (content, _) in contents(results).items()} == {
        name: content for name, (content, _) in before.items()
    }
    code, out, _ = cli("status", path, "--results", results)
    assert (code, "85.00" in out) == (0, True)
    assert cli(path, "--results", results)[0] == 2  # to train, the file is needed
    assert cli("report", path, "--results", results, "--set", "pairs=[{teacher: resnet14, student: resnet8}]")[0] == 0
    assert cli("report", path, "--results", results)[0] == 0  # and is still remembered


def test_a_report_says_where_its_figures_are_and_what_draws_them_says_nothing(tmp_path, results, store):
    path, plan = write_suite(tmp_path), plan_of(tmp_path)
    finish_all(store, plan, {"teacher": [90.0], "none": [80.0], "KD": [85.0]})
    answer = run_suite("report", path, "--results", results)
    assert (answer.returncode, answer.stderr) == (0, "")
    figures = f"Figures: {results / 'table' / 'figures'} (gain)"
    assert figures in answer.stdout.splitlines()
    assert (results / "table" / "figures" / "gain.pdf").exists()


def test_a_damaged_memory_of_a_suites_files_is_named(cli, tmp_path, results):
    data = {"name": "imagefolder", "path": "gone", "mean": [0.5] * 3, "std": [0.5] * 3, "augment": "crop"}
    path = write_suite(tmp_path, data=data)
    choice = load(path, METHODS).data
    (results / "table").mkdir(parents=True)
    (results / "table" / "sources.json").write_text(json.dumps({f"data {canonical(choice)}": {"name": "imagefolder"}}))
    code, _, err = cli("status", path, "--results", results)
    assert (code, "its entry in sources.json is not valid" in err) == (2, True)


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("record.json", "{}", "metrics: Field required"),
        ("record.json", "[]", "it holds a list"),
        ("failure.json", '{"state": "failed"}', "status: Field required"),
        ("claim.json", '{"host": "here"}', "machine: Field required"),
    ],
)
def test_a_file_that_the_store_did_not_write_is_named(cli, tmp_path, results, store, file, content, said):
    run = cell_of(plan_of(tmp_path), "KD").runs[0]
    store.begin(run)
    (store.folder(run.id) / file).write_text(content)
    code, _, err = cli("status", write_suite(tmp_path), "--results", results)
    assert code == 2
    assert f"{store.folder(run.id) / file}: is damaged, or was written by another version" in err
    assert said in err


# wrong requests

WRONG = {
    "a key": (
        ["--set", "training.epocs=2"],
        "--set training.epocs=2: training.epocs: unknown key 'epocs'. Did you mean",
    ),
    "a value": (
        ["--set", "training.epochs=-1"],
        "--set training.epochs=-1: training.epochs: found -1: must be greater",
    ),
    "a method": (
        ["--set", "methods=[ptk]"],
        "--set methods=[ptk]: methods[0]: unknown method 'ptk'. Did you mean 'pkt'?",
    ),
    "no key": (["--set", "epochs"], "--set epochs: write it as KEY=VALUE, for example --set training.epochs=2"),
    "a row that is not there": (
        ["--only", "ptk"],
        "--only 'ptk' --pairs '*': no cell matches. Rows: teacher, none, KD.",
    ),
    "a pair that is not there": (
        ["--pairs", "vgg*"],
        "no cell matches. Rows: teacher, none, KD. Pairs: resnet14->resnet8",
    ),
    "a plugin that is not there": (["--plugin", "nowhere.py"], "nowhere.py: cannot be read as a method file"),
    "a plugin that is a folder": (["--plugin", "."], ".: is a folder, where a regular file is expected"),
    "a plugin that is not a method": (["--plugin", "setup.py"], "setup.py: cannot be read as a method file"),
    "a checkpoint that is not there": (
        ["--set", "pairs=[{teacher: {network: resnet14, checkpoint: x.pth}, student: resnet8}]"],
        "pairs[0].teacher.checkpoint: {folder}/x.pth: No such file or directory. Put the file there, or leave",
    ),
    "plug-ins that are read before the suite": (
        ["--set", "plugins=[method.py]"],
        "--set plugins=[method.py]: plug-ins are read before the suite: name each with --plugin FILE.py",
    ),
    "text among the numbers of a search": (
        ["--set", "tuning={trials: 2, dev_per_class: 1, space: {lr: {choices: ['0.1', true]}}}"],
        'space.lr: "0.1" is text in YAML: write 0.1',
    ),
    "a search without end": (
        ["--set", "tuning={trials: 2, dev_per_class: 1, space: {lr: {log: [1.0e-300, 1]}}}"],
        "tuning.space.lr: found [1e-300, 1.0]: no setting is so large or so small",
    ),
    "what a choice of a search cannot be": (
        ["--set", "tuning={trials: 2, dev_per_class: 1, space: {lr: {choices: [.inf]}}}"],
        "tuning.space.lr.choices[0]: found Infinity: must be",
    ),
    "a checkpoint without a path": (
        ["--set", "pairs=[{teacher: {network: resnet14, checkpoint: ''}, student: resnet8}]"],
        'checkpoint: found "": a path is not empty',
    ),
    "a stage that is named twice": (
        ["--set", "pairs=[{teacher: resnet14, student: {network: torchvision.resnet18, stages: [layer1, layer1]}}]"],
        "'stages' of torchvision.resnet18: 'layer1' twice: name each once",
    ),
    "jobs on a cluster": (["--slurm", "--jobs", "2"], "--jobs 2: is for this machine, and --slurm trains on others"),
    "a value that a method refuses, with two jobs": (
        ["--set", "methods=[{method: crd, bank_momentum: 2.0}]", "--jobs", "2"],
        "method crd on resnet14->resnet8: bank_momentum=2.0 must lie between 0 and 1",
    ),
    "a value that a method refuses": (
        ["--set", "methods=[{method: crd, bank_momentum: 2.0}]"],
        "method crd on resnet14->resnet8: bank_momentum=2.0 must lie between 0 and 1",
    ),
}


@pytest.mark.parametrize("command", ["run", "dry run", "status", "report"])
def test_a_wrong_suite_file_is_one_message_and_exit_2_and_nothing_is_written(command, cli, tmp_path, results):
    path = write_suite(tmp_path, methods=["ptk"])
    words = {"run": [path], "dry run": [path, "--dry-run"]}.get(command, [command, path])
    code, out, err = cli(*words, "--results", results)
    assert (code, out) == (2, "")
    assert err.startswith(f"{path}:10: methods[0]: unknown method 'ptk'. Did you mean 'pkt'? Known: ab,")
    assert len(err.splitlines()) == 1
    assert not results.exists()


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_option_is_one_message_and_exit_2_and_nothing_is_written(case, cli, tmp_path, results):
    arguments, said = WRONG[case]
    code, out, err = cli(write_suite(tmp_path), "--results", results, *arguments)
    assert (code, out) == (2, "")
    assert said.format(folder=tmp_path) in err
    assert len(err.splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["table.yaml"]


def test_the_task_of_another_kind_of_file_tells_what_that_kind_needs(cli, tmp_path, results):
    code, _, err = cli(write_suite(tmp_path), "--results", results, "--set", "task=transfer")
    assert (code, "table.yaml:1: from: is missing" in err) == (2, True)


def test_all_errors_of_a_file_and_of_options_are_told_at_once(cli, tmp_path, results):
    path = write_suite(tmp_path, methods=["ptk"], seeds=0)
    code, _, err = cli(path, "--results", results, "--set", "training.lr=.nan")
    assert code == 2
    assert [line.split(": ")[0] for line in err.splitlines()] == [f"{path}:10", f"{path}:13", "--set training.lr=.nan"]


@pytest.mark.parametrize(
    "arguments", [["--device", "gpu"], ["--seeds", "0"], ["--seeds", "x"], ["--jobs", "0"], ["--set"], ["--bogus"]]
)
def test_a_malformed_option_is_exit_2_and_nothing_is_written(arguments, cli, tmp_path, results):
    code, out, err = cli(write_suite(tmp_path), "--results", results, *arguments)
    assert (code, out) == (2, "")
    assert arguments[0].strip("-") in err
    assert not results.exists()


def test_a_gpu_that_is_not_there_is_exit_2_and_nothing_is_written(cli, tmp_path, results):
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    code, _, err = cli(write_suite(tmp_path), "--results", results, "--device", "cuda")
    assert (code, err) == (2, "--device cuda: torch sees no CUDA device here. Use --device cpu, or auto\n")
    assert not results.exists()


def test_a_missing_suite_is_told_with_the_nearest_name(cli, tmp_path, results):
    write_suite(tmp_path)
    code, _, err = cli(tmp_path / "tabel.yaml", "--results", results)
    assert code == 2
    assert err == f"{tmp_path / 'tabel.yaml'}: there is no such file. Did you mean 'table.yaml'? Known: table.yaml\n"


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("stauts", "Did you mean 'status'? Known: "),
        ("quikstart", "Did you mean 'quickstart'? Known: "),
        ("x", "Known: "),
    ],
)
def test_a_word_that_is_no_command_and_no_file_is_told_with_the_nearest_command(word, said, cli, tmp_path):
    code, out, err = cli(word, write_suite(tmp_path))
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert err.startswith(f"{word}: is neither a command nor a suite. {said}")


@pytest.mark.parametrize("place", ["file", "file/results"])
def test_results_in_the_place_of_a_file_are_refused(place, cli, tmp_path):
    (tmp_path / "file").touch()
    for words in ([write_suite(tmp_path)], ["status", write_suite(tmp_path)], ["show", "0" * 16]):
        code, _, err = cli(*words, "--results", tmp_path / place)
        assert code == 2
        assert err.startswith(f"--results {tmp_path / place}: {tmp_path / 'file'} is a file. Name a folder;")


@pytest.mark.parametrize("path", ["a" * 300, "loop"])
def test_a_path_that_cannot_be_followed_is_named(path, cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("loop").symlink_to("loop")
    suite, file = write_suite(tmp_path), f"{path}/table.yaml"
    changes = (f"teachers={path}", f"data={{name: imagefolder, path: {path}}}")
    for words in (
        ["status", file],
        ["cancel", file],
        ["compare", file, suite],
        ["compare", path, suite],
        ["new-method", path] if path != "loop" else ["status", path],
        *(["status", suite, "--set", change] for change in changes),
        [write_suite(tmp_path, "cifar", data="cifar10"), "--dry-run", "--data", path],
    ):
        code, out, err = cli(*words)
        assert (code, out, len(err.splitlines())) == (2, "", 1), words
        assert path in err


@pytest.mark.parametrize("option", ["--results", "--data", "--plugin", "--teachers"])
def test_an_empty_path_is_refused(option, cli, tmp_path, results):
    code, _, err = cli(write_suite(tmp_path), f"{option}=")
    assert (code, "it is empty" in err) == (2, True)


def test_a_suite_that_is_not_there_has_no_jobs_to_cancel(cli, tmp_path, results):
    code, out, err = cli("cancel", tmp_path / "tabel.yaml", "--results", results)
    assert (code, out) == (2, "")
    assert err.startswith(f"{tmp_path / 'tabel.yaml'}: there is no such file, and {results} has no job of")


@pytest.mark.parametrize("run", ["0123456789abcdef", "0", "x", "..", "../..", "0123456789abcdef0"])
def test_a_run_that_is_not_there_is_exit_2(run, cli, results, store, tmp_path):
    finish(store, cell_of(plan_of(tmp_path), "KD"), [70.0])
    code, out, err = cli("show", run, "--results", results)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("kind", ["methods", "models", "datasets", "suites"])
def test_a_name_that_is_not_in_a_list_is_exit_2(kind, cli):
    code, _, err = cli("list", kind, "nothing")
    assert code == 2
    assert err.startswith(f"list {kind} nothing: there is no such name. ")


@pytest.mark.parametrize("words", [["--\x1b[31mx"], ["\x1b]0;x\x07"], ["--device", "\x1b[31m\u202e"]])
def test_a_wrong_command_line_is_quoted_without_its_control_characters(words, cli, tmp_path):
    code, out, err = cli(write_suite(tmp_path), *words)
    assert (code, out) == (2, "")
    assert "\\x1b" in err
    assert all(line.isprintable() for line in err.splitlines())


# what would run


def test_a_dry_run_lists_every_run_by_cohort_and_writes_nothing(cli, tmp_path, results):
    plan = plan_of(tmp_path, methods=["kd", "ab"], seeds=2, controls=False)
    code, out, err = cli(tmp_path / "table.yaml", "--results", results, "--dry-run")
    teacher = cell_of(plan, "teacher").runs[0].id
    assert (code, err) == (0, "")
    assert [line.rstrip() for line in out.splitlines()] == [
        "cohort 1, seed 0",
        f"  {teacher}  1 epochs  resnet14->resnet8  teacher",
        *(
            line
            for number, seed in enumerate((1, 2))
            for line in (
                f"cohort {number + 2}, seed {seed}, after {teacher}",
                f"  {cell_of(plan, 'none').runs[number].id}  1 epochs       resnet14->resnet8  none",
                f"  {cell_of(plan, 'KD').runs[number].id}  1 epochs       resnet14->resnet8  KD",
                f"  {cell_of(plan, 'AB').runs[number].id}  30 + 1 epochs  resnet14->resnet8  AB",
            )
        ),
        "7 run(s) to train, 0 inapplicable",
        "time: unknown. To measure it:",
        f"  python run_suite.py cost {tmp_path / 'table.yaml'} --results {results}",
    ]
    assert not results.exists()


def finish_first(store, plan, wall_s):
    """Finish the first run of the teacher and of the undistilled student, each alone on a GPU for as long."""
    for label in ("teacher", "none"):
        run = cell_of(plan, label).runs[0]
        store.begin(run)
        made = {"lanes": 1, "wall_s": wall_s, "device": "A GPU", "threads": 2, "best": None}
        store.finish(run.id, {"metrics": {"top1": 80.0, "top5": 99.0}, **made})


def test_a_dry_run_tells_the_time_that_finished_runs_suggest(cli, tmp_path, results, store):
    plan = plan_of(tmp_path, training={"epochs": 100})
    finish_first(store, plan, wall_s=9000.0)
    _, out, _ = cli(tmp_path / "table.yaml", "--results", results, "--dry-run", "--seeds", "2")
    assert out.splitlines()[-1] == "time: about 7.5 h on one A GPU, from 2 finished run(s)"  # of none once, of KD twice


def test_a_dry_run_of_a_search_tells_the_time_of_trials_and_final_runs(cli, tmp_path, results, store):
    plan = plan_of(tmp_path, seeds=2, tuning={"trials": 3, "dev_per_class": 2})
    finish_first(store, plan, wall_s=3600.0)
    _, out, _ = cli(tmp_path / "table.yaml", "--results", results, "--dry-run", "--only", "KD (tuned)")
    counts, final, time = out.splitlines()[-3:]
    assert counts.startswith("4 run(s) to train")  # with the teacher that does not see the dev images
    assert final == (
        "3 of them are trials; when these have ended, 2 run(s) train with the chosen settings. "
        "An estimated time includes these"
    )
    assert time == "time: about 6.0 h on one A GPU, from 2 finished run(s)"


def test_a_dry_run_of_a_search_with_rungs_counts_every_trial_that_continues(cli, tmp_path, results, store):
    rungs = {"1": 4, "3": 2, "9": 1}
    plan = plan_of(tmp_path, seeds=2, tuning={"trials": 4, "dev_per_class": 2, "rungs": rungs})
    finish_first(store, plan, wall_s=3600.0)  # of an epoch
    _, out, _ = cli(tmp_path / "table.yaml", "--results", results, "--dry-run", "--only", "KD (tuned)")
    teacher, final = 1, 2
    trials = 4 * 1 + (2 + 1) * 3 + (1 + 1) * 9  # the row's own settings continue beside the best ones
    assert "up to 5 run(s) train in later rungs, and then 2 run(s) train with the chosen settings" in out
    assert out.splitlines()[-1].startswith(f"time: about {teacher + trials + final}.0 h on one A GPU")


def test_a_dry_run_for_a_cluster_tells_the_number_of_jobs_without_what_is_in_jobs(cli, tmp_path, monkeypatch):
    path = write_suite(tmp_path, seeds=2, max_lanes=1)
    words = [path, "--results", tmp_path, "--only", "none", "--dry-run"]
    assert "job(s) to submit" not in cli(*words)[1]
    assert "2 job(s) to submit, one per cohort" in cli(*words, "--slurm")[1].splitlines()
    run = cell_of(plan_of(tmp_path, seeds=2, max_lanes=1), "none").runs[0]
    submission = tmp_path / "table" / "jobs" / "20260101-000000-aaaaaa" / "submission.json"
    write_whole(submission, json.dumps({"suite": "table.yaml", "tasks": {"7": [run.id]}}))
    squeue = tmp_path / "squeue"
    squeue.write_text("#!/bin/sh\necho '7|PENDING|Priority'\n")
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert "1 job(s) to submit, one per cohort" in cli(*words, "--slurm")[1].splitlines()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data": "tiny_imagenet"}, "data 'tiny_imagenet': looked for the file"),
        (
            {"pairs": [{"teacher": {"network": "resnet8", "checkpoint": "wide.pth"}, "student": "resnet8"}]},
            "pairs[0].teacher: .*wide.pth: the checkpoint does not fit the network",
        ),
        (
            {"pairs": [{"teacher": HOOKED | {"weights": "IMAGENET1K_V1"}, "student": "resnet8"}]},
            "pairs[0].teacher: weights: IMAGENET1K_V1 has 1000 classes, the data 10",
        ),
        (
            {"pairs": [{"teacher": HOOKED | {"stages": ["relu", "nope"]}, "student": "resnet8"}]},
            "pairs: torchvision.resnet18->resnet8, row .*: the network has no module 'nope'",
        ),
    ],
    ids=["data", "checkpoint", "published weights", "stages"],
)
def test_a_dry_run_refuses_what_must_fail_with_its_place(changes, said, cli, tmp_path, results):
    torch.save(build_network("resnet8x4", num_classes=10).state_dict(), tmp_path / "wide.pth")
    suite = write_suite(tmp_path, **changes)
    status, _, err = cli(suite, "--dry-run", "--results", results, "--data", tmp_path / "data")
    assert status == 2
    assert re.match(f"{suite}: {said.replace('[', '.').replace(']', '.')}", err)
    assert not results.exists()
    assert not (tmp_path / "data").exists()


def test_teachers_are_looked_for_where_the_command_is_given_and_its_first_lines_name_their_files(
    cli, tmp_path, monkeypatch
):
    file = tmp_path / "zoo of others" / "resnet14_vanilla" / "ckpt_epoch_240.pth"
    file.parent.mkdir(parents=True)
    torch.save({"epoch": 240, "model": build_network("resnet14", num_classes=10).state_dict()}, file)
    (tmp_path / "suites").mkdir()
    monkeypatch.chdir(tmp_path)
    code, out, err = cli(write_suite(tmp_path / "suites"), "--dry-run", "--teachers", "zoo of others")
    assert (code, err) == (0, f"teacher resnet14: {file}\n")
    assert "evaluate  resnet14->resnet8  teacher" in out


@pytest.mark.parametrize("command", ["run", "status", "report", "score", "cost", "bundle"])
def test_every_command_that_plans_takes_the_folder_of_the_teachers(command, cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "suites").mkdir()
    suite = write_suite(tmp_path / "suites")
    status, _, err = cli(command, suite, "--teachers", "zoo")
    assert status == 2
    assert err.startswith(f"{suite}: teachers: {tmp_path / 'zoo'}: there is no such folder")


def test_status_with_the_folder_of_the_teachers_shows_the_runs_that_were_trained_with_it(cli, tmp_path, results, store):
    file = tmp_path / "zoo" / "resnet14_vanilla" / "ckpt_epoch_240.pth"
    file.parent.mkdir(parents=True)
    torch.save({"model": build_network("resnet14", num_classes=10).state_dict()}, file)
    plan = plan_of(tmp_path, f"teachers={tmp_path / 'zoo'}")
    finish(store, cell_of(plan, "KD"), [72.0])
    _, out, _ = cli("status", plan.file, "--teachers", tmp_path / "zoo", "--results", results)
    assert re.search(r"KD +. done", out)


@pytest.mark.parametrize("words", [["a\nb.yaml"], ["table.yaml", "--results", "a\rb"]])
def test_a_path_with_a_line_break_is_refused_in_one_piece(words, cli):
    status, _, err = cli("status", *words)
    assert status == 2
    assert "a path has no control characters" in " ".join(err.replace("│", " ").split())


def test_a_tilde_after_an_equals_sign_is_the_users_folder(cli, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_suite(tmp_path)
    (tmp_path / "kd").write_text("a file")
    status, _, err = cli("status", "~/table.yaml", "--results=~/kd")
    assert (status, err.startswith(f"--results {tmp_path / 'kd'}: {tmp_path / 'kd'} is a file")) == (2, True)


@pytest.mark.parametrize("arguments", [["--plugin", "{}"], ["--results", "{}"]], ids=lambda given: given[0])
@pytest.mark.parametrize("path", ["/dev/zero", "x" * 300, "fifo"], ids=["device", "long", "fifo"])
def test_a_path_to_no_file_or_folder_is_refused_at_once(path, arguments, cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("fifo")
    write_suite(tmp_path)
    for given in (["table.yaml", *(one.format(path) for one in arguments)], [path, "--dry-run"]):
        status, _, err = cli(*given, *(["--dry-run"] if "--dry-run" not in given else []))
        assert status == 2
        assert len(err.splitlines()) == 1


def test_a_dry_run_leaves_out_what_is_done_and_tells_what_cannot_be(cli, tmp_path, results, store):
    pairs = [{"teacher": "resnet8x4", "student": "resnet8"}]
    plan = plan_of(tmp_path, pairs=pairs, methods=["kd", "fsp", "at"], controls=False)
    finish(store, cell_of(plan, "teacher"), [90.0])
    fail(store, cell_of(plan, "AT"), "diverged", "nan")
    before = contents(results)
    code, out, _ = cli(tmp_path / "table.yaml", "--results", results, "--dry-run")
    assert code == 0
    assert RUN_ID.findall(out) == [cell_of(plan, label).runs[0].id for label in ("none", "KD")]
    assert "\ninapplicable: resnet8x4->resnet8 FSP: " in out
    assert "2 run(s) to train, 1 inapplicable; 1 done, 1 diverged" in out.splitlines()
    assert contents(results) == before


def test_a_dry_run_lists_the_students_of_a_teacher_that_retry_failed_would_train_again(cli, tmp_path, results, store):
    plan = plan_of(tmp_path)
    fail(store, cell_of(plan, "teacher"), "failed", "no memory")
    table = write_suite(tmp_path)
    assert "1 run(s) to train" in cli(table, "--results", results, "--dry-run")[1]  # none
    retried = cli(table, "--results", results, "--dry-run", "--retry-failed")[1]
    assert {run.id for run in plan.runs.values()} <= set(RUN_ID.findall(retried))
    assert "3 run(s) to train" in retried


def test_a_dry_run_lists_what_retry_failed_would_train_again(cli, tmp_path, results, store):
    plan = plan_of(tmp_path)
    finish_all(store, plan, {"teacher": [90.0], "none": [80.0], "KD": []})
    fail(store, cell_of(plan, "KD"), "failed", "disk full")
    table = tmp_path / "table.yaml"
    assert RUN_ID.findall(cli(table, "--results", results, "--dry-run")[1]) == []
    retried = cli(table, "--results", results, "--dry-run", "--retry-failed")[1]
    assert RUN_ID.findall(retried) == [cell_of(plan, "KD").runs[0].id]


def planned(cli, plan: Plan, path: Path, *arguments: str) -> set[tuple[str, str, int]]:
    """Return pair, row and seed of what a dry run lists."""
    _, out, _ = cli(path, "--results", path.parent / "results", "--dry-run", *arguments)
    listed = set(re.findall(r"^  ([0-9a-f]{16})", out, flags=re.MULTILINE))
    return {(cell.pair, cell.label, run.seed) for cell in plan.cells for run in cell.runs if run.id in listed}


PAIRS = [{"teacher": "resnet14", "student": "resnet8"}, {"teacher": "resnet20", "student": "vgg8"}]
A, B = "resnet14->resnet8", "resnet20->vgg8"


@pytest.mark.parametrize("pattern", ["kd", "KD", "[kK]?", "Hinton*", "hinton'S"])
def test_only_takes_rows_whose_label_or_method_matches_and_their_teachers(pattern, cli, tmp_path):
    plan = plan_of(tmp_path, pairs=PAIRS, methods=["at", {"method": "kd", "label": "Hinton's"}])
    found = planned(cli, plan, tmp_path / "table.yaml", "--only", pattern)
    assert found == {(A, "teacher", 0), (B, "teacher", 0), (A, "Hinton's", 1), (B, "Hinton's", 1)}


def test_a_dry_run_names_data_that_will_be_downloaded(cli, tmp_path, results):
    folder = tmp_path / "data" / "cifar-100-python"
    suite = write_suite(tmp_path, data="cifar100")
    words = [suite, "--results", results, "--data", tmp_path / "data", "--dry-run"]
    assert cli(*words)[1].endswith(f"cifar100 is not in {folder}: it will be downloaded\n")
    folder.mkdir(parents=True)
    assert "downloaded" not in cli(*words)[1]


def test_only_and_pairs_may_be_repeated(cli, tmp_path):
    plan = plan_of(tmp_path, pairs=PAIRS, methods=["at", "kd", "sp"])
    found = planned(cli, plan, tmp_path / "table.yaml", "--only", "sp", "--only", "KD", "--pairs", B)
    assert found == {(B, "teacher", 0), (B, "KD", 1), (B, "SP", 1)}
    code, _, err = cli(tmp_path / "table.yaml", "--only", "kd", "--only", "ptk", "--dry-run")
    assert (code, "--only 'ptk'" in err) == (2, True)


def test_only_none_needs_no_teacher(cli, tmp_path):
    plan = plan_of(tmp_path)
    assert planned(cli, plan, tmp_path / "table.yaml", "--only", "none") == {(A, "none", 1)}


def test_pairs_takes_the_pairs_that_match(cli, tmp_path):
    plan = plan_of(tmp_path, pairs=PAIRS)
    found = planned(cli, plan, tmp_path / "table.yaml", "--pairs", "*->vgg*")
    assert found == {(B, "teacher", 0), (B, "none", 1), (B, "KD", 1)}


def test_only_and_pairs_take_what_matches_both(cli, tmp_path):
    plan = plan_of(tmp_path, pairs=PAIRS)
    found = planned(cli, plan, tmp_path / "table.yaml", "--pairs", "*vgg8", "--only", "kd")
    assert found == {(B, "teacher", 0), (B, "KD", 1)}


def test_seeds_and_set_stand_in_for_the_files(cli, tmp_path):
    plan = plan_of(tmp_path, "seeds=2", "training.epochs=5", "methods=[at]")
    table = write_suite(tmp_path)
    arguments = ["--seeds", "2", "--set", "training.epochs=5", "--set", "methods=[at]"]
    assert planned(cli, plan, table, *arguments) == {
        (A, "teacher", 0),
        *((A, label, seed) for label in ("none", "AT") for seed in (1, 2)),
    }


# status, show, list


def test_status_tells_each_cells_state_seeds_accuracy_and_reason(cli, tmp_path, results, store):
    plan = plan_of(tmp_path, methods=["kd", "at"], seeds=2)
    finish_all(store, plan, {"teacher": [90.0], "none": [80.0], "KD": [85.0, 86.0], "AT": []})
    fail(store, cell_of(plan, "AT"), "diverged", "the loss was nan")
    failed = cell_of(plan, "AT").runs[0].id
    code, out, _ = cli("status", tmp_path / "table.yaml", "--results", results)
    cells = [[cell.strip() for cell in line.strip("│\n").split("│")] for line in out.splitlines() if line[0] == "│"]
    assert code == 0
    assert cells == [
        ["resnet14->resnet8", "teacher", "done", "1/1", "90.00", ""],
        ["resnet14->resnet8", "none", "partial", "1/2", "80.00", "seed 2 waiting"],
        ["resnet14->resnet8", "KD", "done", "2/2", "85.50", ""],
        ["resnet14->resnet8", "AT", "diverged", "0/2", "—", f"the loss was nan (run {failed})"],
    ]


def test_a_reason_of_several_lines_stays_in_its_row_of_the_status(cli, tmp_path, results, store):
    plan = plan_of(tmp_path, methods=["kd", "at"])
    fail(store, cell_of(plan, "KD"), "failed", "first\nsecond")
    lines = cli("status", tmp_path / "table.yaml", "--results", results)[1].splitlines()
    at = next(place for place, line in enumerate(lines) if "first" in line)
    assert [line.split("│")[2].strip() for line in lines[at : at + 3]] == ["KD", "", "AT"]
    assert "second" in lines[at + 1]


def test_status_tells_the_epoch_that_an_unfinished_run_has_reached(cli, tmp_path, results, store):
    plan = plan_of(tmp_path, training={"epochs": 9})
    run = cell_of(plan, "KD").runs[0]
    store.begin(run)
    store.append_epoch(run.id, {"stage": "main", "epoch": 4, "loss": 1.0})
    assert "seed 1: 4/9" in cli("status", tmp_path / "table.yaml", "--results", results)[1]


def test_status_tells_the_rate_and_the_time_left_of_a_run_that_is_being_trained(cli, tmp_path, results, store):
    plan = plan_of(tmp_path, training={"epochs": 9})
    run = cell_of(plan, "KD").runs[0]
    store.claim(run.id)
    store.append_epoch(run.id, {"stage": "main", "epoch": 4, "loss": 1.0, "wall_s": 60.0})
    assert (
        "seed 1: 4/9 (60.0 s per epoch, 5 min left)" in cli("status", tmp_path / "table.yaml", "--results", results)[1]
    )
    store.release(run.id)


def test_status_tells_what_the_store_knows_where_no_scheduler_can_be_asked(cli, tmp_path, results, monkeypatch):
    submission = results / "table" / "jobs" / "20260101-000000-abcdef" / "submission.json"
    write_whole(submission, json.dumps({"commit": None, "dirty": None, "tasks": {"12_0": ["0" * 16]}}))
    monkeypatch.setenv("PATH", str(tmp_path))
    code, out, err = cli("status", write_suite(tmp_path), "--results", results)
    assert (code, out.count("waiting")) == (0, 3)
    assert err.startswith("warning: squeue is not installed here")


def test_slurm_without_a_cluster_is_one_message_and_nothing_is_written(cli, tmp_path, results, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    code, out, err = cli(write_suite(tmp_path), "--slurm", "--results", results)
    assert (code, out) == (2, "")
    assert err == "--slurm: sbatch is not installed here. Use a login node of a cluster, or leave --slurm out\n"
    assert not results.exists()


def test_status_of_a_suite_that_was_never_run_writes_nothing(cli, tmp_path, results):
    code, out, _ = cli("status", write_suite(tmp_path), "--results", results)
    assert (code, out.count("waiting")) == (0, 3)
    assert not results.exists()


def test_status_lists_stale_runs_and_an_own_method_is_trained_again_only_on_demand(cli, tmp_path, results, store):
    plan = plan_of(tmp_path)
    finish_all(store, plan, {"teacher": [90.0], "none": [80.0], "KD": [85.0]})
    run = cell_of(plan, "KD").runs[0]
    store.finish(run.id, store.record(run.id) | {"methods_sha256": {"kd": "0" * 64}})
    where = [tmp_path / "table.yaml", "--results", results]
    code, out, _ = cli("status", *where)
    reason = "kd.py has changed since: raise version= in its @register; or --accept-changed, if no number moved"
    assert f"stale: run {run.id}, resnet14->resnet8 KD seed 1: {reason}" in out
    assert "85.00" not in out
    assert cli("show", run.id, "--results", results)[1].startswith(f"run {run.id}  stale: kd.py has changed since")
    assert cli("run", *where)[0] == 1  # nothing is trained, and the row has no number
    table = {row["label"]: row for row in csv.DictReader((results / "table/table.csv").open())}
    assert (table["KD"]["status"], table["KD"]["mean"], table["KD"]["reason"]) == ("stale", "", reason)
    assert "1 run(s) to train" in cli("run", *where, "--dry-run", "--retry-failed")[1]
    code, _, err = cli("run", *where, "--accept-changed")
    assert (code, f"run {run.id}: accepted as unchanged, though kd.py has changed since" in err) == (0, True)
    assert "85.00" in cli("status", *where)[1]
    assert store.record(run.id)["methods_sha256"] == {"kd": METHODS["kd"].code.sha256}


def damage_spec(store, run, other):
    store.folder(run).rename(store.root / "x")
    store.folder(other).rename(store.folder(run))


def damage_epochs(store, run, other):
    (store.folder(run) / "epochs.jsonl").write_text('{"stage": "main", "epoch": "1"}\n')


def damage_record(store, run, other):
    (store.folder(run) / "record.json").write_text('{"metrics": {"top5": 1.0}}')


def damage_failure(store, run, other):
    (store.folder(run) / "record.json").unlink()
    (store.folder(run) / "failure.json").write_text('{"status": "gailed", "reason": "r", "details": ""}')


@pytest.mark.parametrize(
    ("damage", "file", "commands"),
    [
        (damage_spec, "spec.json", ["run", "status", "report", "show"]),
        (damage_epochs, "epochs.jsonl", ["report", "show"]),
        (damage_record, "record.json", ["run", "status", "report"]),
        (damage_failure, "failure.json", ["run", "status", "report", "show"]),
    ],
)
def test_a_damaged_file_of_a_finished_run_ends_every_command_with_its_name(
    damage, file, commands, cli, tmp_path, results, store
):
    plan = plan_of(tmp_path)
    for run in plan.runs.values():
        store.begin(run)
        store.write_epochs(run.id, [{"stage": "main", "epoch": 1, "loss": 1.0, "top1": 50.0}])
        metrics = {"top1": 50.0, "top5": 90.0}
        store.finish(run.id, {"metrics": metrics, "best": {"epoch": 1, **metrics}, "epochs": 1})
    run, other = cell_of(plan, "KD").runs[0].id, cell_of(plan, "none").runs[0].id
    damage(store, run, other)
    for command in commands:
        code, _, err = cli(command, run if command == "show" else tmp_path / "table.yaml", "--results", results)
        assert (command, code, f"{store.folder(run) / file}: " in err) == (command, 2, True)
        assert len(err.splitlines()) == 1


def test_show_prints_specification_curve_record_and_how_to_repeat_the_run(cli, tmp_path, results, store):
    plan = plan_of(tmp_path, methods=[{"method": "kd", "temperature": 3.0}])
    run = cell_of(plan, "KD temperature=3").runs[0]
    finish_all(store, plan, {"teacher": [90.0], "none": [80.0], "KD temperature=3": [85.25]})
    store.append_epoch(run.id, {"stage": "main", "epoch": 1, "loss": 2.5, "top1": 85.25})
    code, out, _ = cli("show", run.id, "--results", results)
    assert code == 0
    assert out.splitlines()[0] == f"run {run.id}  done  {results / 'runs' / run.id}"
    for said in (
        "student: {network: resnet8}",
        "temperature: 3.0",
        "first 2.5, last 2.5",
        "metrics: {top1: 85.25",
        "To repeat it",
    ):
        assert said in out


def test_show_takes_the_beginning_of_an_id(cli, tmp_path, results, store):
    plan = plan_of(tmp_path)
    finish(store, cell_of(plan, "KD"), [70.0])
    run = cell_of(plan, "KD").runs[0].id
    assert cli("show", run[:6], "--results", results)[1] == cli("show", run, "--results", results)[1]


def test_show_gives_a_failures_reason_and_traceback(cli, tmp_path, results, store):
    plan = plan_of(tmp_path)
    fail(store, cell_of(plan, "KD"), "failed", "[bold]disk[/bold] full")
    assert "failed: [bold]disk[/bold] full" in cli("show", cell_of(plan, "KD").runs[0].id, "--results", results)[1]


REPEATED = {
    "none": {},
    "teacher": {"teacher_training": {"epochs": 3, "lr": 0.2}},
    "KD": {"teacher_training": {"epochs": 3, "weight_decay": 1e-5}, "training": {"lr": 0.3, "milestones": []}},
    "CRD+KD": {"methods": [{"method": "crd", "kd": 1.0, "n_negatives": 8, "label": "CRD+KD"}], "seeds": [7]},
    "AB": {"methods": ["ab"], "training": {"initial_epochs": 4}},
    "AT+SP weight=10, combine=mean": {
        "methods": [{"terms": ["at", {"method": "sp", "weight": 10.0}], "combine": "mean"}]
    },
    "RKD": {"methods": ["rkd"], "seeds": [3], "teacher_seeds": "paired"},
    "PKT": {"methods": ["pkt"], "lr_by_network": {"resnet8": 0.01, "resnet14": 0.02}},
    "VID": {
        "methods": ["vid"],
        "data": {"name": "digits", "resize": 40, "train_fraction": 0.5, "augment": "none"},
        "teacher_data": {"name": "digits", "resize": 40},
    },
    "SP": {
        "methods": ["sp"],
        "pairs": [
            {
                "teacher": {"network": "torchvision.resnet18", "stages": ["relu", "layer1"], "classifier": "fc"},
                "student": "resnet8",
            }
        ],
    },
    "FSP": {"methods": ["fsp"], "seeds": {"init": [3, 4], "order": [5], "teacher": 2}},
    "CC": {"methods": ["cc"], "data": "cifar10"},
    "AT": {"methods": ["at"], "data": {"name": "photo_patches", "view": "chrominance"}},
}


@pytest.mark.parametrize("label", REPEATED)
def test_what_show_says_to_repeat_a_run_plans_that_run(label, cli, tmp_path, results, store):
    plan = plan_of(tmp_path, **REPEATED[label])
    for cell in plan.cells:
        finish(store, cell, [80.0], plan)
    run = cell_of(plan, label).runs[0].id
    _, out, _ = cli("show", run, "--results", results)
    text, _, command = out.partition("To repeat it\n")[2].partition("\npython run_suite.py ")
    path = write_suite(tmp_path, "again", text)
    again = build_plan(load(path, METHODS), path, METHODS)
    assert run in again.runs
    assert again.suite.threads == 2
    file, *options = shlex.split(command)
    assert file == str(results / "runs" / run / "suite.yaml")
    assert options[-2:] == ["--results", "ANOTHER_FOLDER"]
    assert run in RUN_ID.findall(cli(file, *options[:-1], tmp_path / "other", "--dry-run")[1])


def test_list_names_all_of_a_kind(cli):
    for kind, names in {
        "methods": METHODS,
        "models": ("wrn_16_2", "ShuffleV2"),
        "datasets": ("digits", "imagefolder"),
    }.items():
        code, out, _ = cli("list", kind)
        assert code == 0
        assert all(re.search(rf"│ ?{re.escape(name)} ", out) for name in names)


def test_list_methods_has_a_table_per_family_with_year_what_is_read_initial_stage_and_cost(cli):
    _, out, _ = cli("list", "methods")
    titles = re.findall(r"^ *methods: (\w+) *$", out, re.MULTILINE)
    assert titles == ["logits", "features", "relations", "contrastive"]
    assert re.search(r"│kd +│ 2015 │ KD: knowledge distillation .* │ logits of both networks +│ +│ 0 *│", out)
    assert re.search(r"^variant: by default, .*\bcc, .* have the formula of the published tables", out, re.MULTILINE)
    assert re.search(r"│ft +│ 2018 │ FT: factor transfer\. +│ last stage of both networks +│ yes +│ [\d.]+ *│", out)


def test_a_plugin_that_exits_where_nothing_expects_it_ends_the_command_with_its_place_and_status_1(cli, tmp_path):
    plugin = tmp_path / "leaves.py"
    plugin.write_text(
        "import sys\nfrom torch import nn\nfrom bench.models import register_network\n\n\n"
        '@register_network("leaves")\nclass Leaves(nn.Linear):\n'
        "    def __init__(self, num_classes, in_channels):\n        super().__init__(in_channels, num_classes)\n\n"
        "    def forward(self, x):\n        sys.exit(0)\n"
    )
    code, _, said = cli("list", "models", "leaves", "--plugin", plugin)
    assert code == 1
    assert f"{plugin}:12: has ended the command: SystemExit: 0" in said


def test_list_methods_has_a_plugin_without_a_family_among_the_others(cli, tmp_path):
    plugin = tmp_path / "mine.py"
    plugin.write_text((ROOT / "methods/kd.py").read_text().replace('"kd"', '"mine"').replace("Family:", "Kind:"))
    *_, last = json.loads(cli("list", "methods", "--json", "--plugin", plugin)[1])
    assert (last["name"], last["family"], last["year"]) == ("mine", "others", 2015)


def test_list_tells_a_methods_head_weights_and_parameters(cli):
    _, out, _ = cli("list", "methods", "crd")
    assert METHODS["crd"].summary in out
    assert "weight 0.8, cross-entropy weight 1, version 2" in out
    assert re.search(r"│ n_negatives +│ Annotated\[int, Gt\(gt=0\), Le\(le=1000000\)\] +│ 16384 +│", out)


def test_list_tells_a_data_sets_facts(cli):
    assert "60000 training and 10000 test images, 10 classes, 28x28 pixels" in cli("list", "datasets", "mnist")[1]


def test_list_tells_where_a_data_set_is_looked_for_and_its_views(cli):
    assert "looked for in data/stl10_binary" in cli("list", "datasets")[1]
    assert (
        "looked for in data/MNIST (--data DIR names another folder than data/)" in cli("list", "datasets", "mnist")[1]
    )
    assert "data/nyu_depth_v2; needs distillation-bench[nyu]" in cli("list", "datasets", "nyu_depth_v2")[1]
    assert "views: luminance, chrominance, depth" in cli("list", "datasets", "nyu_depth_v2")[1]


def test_list_suites_names_the_suites_of_this_folder_and_prints_one(cli, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert re.search(r"│ quickstart +│ Handwritten digits", cli("list", "suites")[1])
    assert cli("list", "suites", "quickstart")[1].strip() == (ROOT / "suites/quickstart.yaml").read_text().strip()


def test_list_suites_names_a_file_that_is_no_suite(cli, monkeypatch, tmp_path):
    (tmp_path / "suites").mkdir()
    (tmp_path / "suites" / "sound.yaml").write_text("title: a sound one\n")
    for name, content in {"torn": b"a: [", "date": b"title: 2024-99-99", "bytes": b"\xff"}.items():
        (tmp_path / "suites" / f"{name}.yaml").write_bytes(content)
    os.mkfifo(tmp_path / "suites" / "fifo.yaml")
    monkeypatch.setattr(packaged, "IN_CHECKOUT", tmp_path / "suites")
    code, out, _ = cli("list", "suites")
    assert (code, "a sound one" in out) == (0, True)
    assert all(f"suites/{name}.yaml:" in out for name in ("torn", "date", "bytes", "fifo"))
    assert cli("list", "suites", "bytes")[0] == 0
    code, _, err = cli("list", "suites", "fifo")
    assert (code, "suites/fifo.yaml: is a FIFO" in err) == (2, True)


# how it looks


def test_ids_and_reasons_are_whole_when_output_is_piped(cli, tmp_path, results, store, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    plan = plan_of(tmp_path, methods=["kd", {"method": "crd", "temperature": 0.05, "n_negatives": 8}])
    fail(store, cell_of(plan, "KD"), "failed", "a long reason " * 20)
    out = cli("status", tmp_path / "table.yaml", "--results", results)[1]
    assert "a long reason " * 20 in out
    assert "CRD temperature=0.05, n_negatives=8" in out


def test_labels_are_printed_as_they_are_written(cli, tmp_path, results):
    plan_of(tmp_path, title="[red]:smile:", methods=[{"method": "kd", "label": "[bold]x[/] :smile:"}])
    for words in (["status"], ["report"]):
        out = cli(*words, tmp_path / "table.yaml", "--results", results)[1]
        assert "[red]:smile:" in out
        assert "│ [bold]x[/] :smile:" in out
    assert "[bold]x[/] :smile:" in cli(tmp_path / "table.yaml", "--results", results, "--dry-run")[1]


def without_colours(text: str) -> str:
    """Return a text without colours and the other control sequences of a terminal."""
    return re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", text)


def on_a_terminal(columns: int, *arguments: str | Path) -> list[str]:
    """Return what is printed on a terminal of a width, without colours."""
    pexpect = pytest.importorskip("pexpect")
    command = [str(ROOT / "run_suite.py"), *map(str, arguments)]
    child = pexpect.spawn(
        sys.executable, command, dimensions=(50, columns), encoding="utf-8", timeout=60, cwd=str(ROOT)
    )
    text = child.read()
    child.close()
    return without_colours(text).splitlines()


@pytest.mark.usefixtures("few")
def test_a_narrow_terminal_gets_the_table_in_pieces_and_loses_nothing(cli, results, store, monkeypatch):
    path = ROOT / "suites/cifar100_similar_arch.yaml"
    plan = build_plan(load(path, METHODS, ["methods=[kd, at]", "seeds=2"]), path, METHODS)
    for cell in plan.cells:
        finish(store, cell, [70.0, 71.0])
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    _, out, _ = cli("report", path, "--results", results, "--seeds", "2", "--set", "methods=[kd, at]")
    lines = without_colours(out).splitlines()
    table = [line for line in lines if line[:1] in "┏┃┡│└"]
    assert all(len(line) <= 80 for line in table)
    assert not any("…" in line for line in table)
    assert all(any(cell.pair in line for line in table) for cell in plan.cells)
    assert sum(line.count("70.50 (70.00, 71.00)") for line in table) == 7 * 3  # all rows but the teacher's


@pytest.mark.parametrize("columns", [80, 200])
def test_status_breaks_no_word_and_keeps_reasons_on_a_terminal_of_any_width(columns, tmp_path, results, store):
    plan = plan_of(tmp_path, methods=["kd", {"method": "crd", "temperature": 0.05, "n_negatives": 8}])
    reason = "RuntimeError: this plug-in fails on purpose, to see its reason (plugins/bad.py:14, in epoch 2)"
    fail(store, cell_of(plan, "KD"), "failed", reason)
    lines = on_a_terminal(columns, "status", tmp_path / "table.yaml", "--results", results)
    assert max(map(len, lines)) <= columns
    words = set(" ".join(lines).replace("│", " ").split())
    assert words >= {*reason.split(), cell_of(plan, "KD").runs[0].id + ")", "resnet14->resnet8", "n_negatives=8"}


def test_the_list_of_methods_breaks_no_word_on_a_terminal_of_80_columns():
    lines = on_a_terminal(80, "list", "methods")
    assert max(map(len, lines)) <= 80
    words = set(" ".join(lines).replace("│", " ").split())
    assert words >= {word for method in METHODS.values() for word in method.summary.partition("\n")[0].split()}
    assert words >= {word for method in METHODS.values() for word in method.reads.split()}


@pytest.mark.parametrize("columns", [80, 200])
def test_a_message_breaks_no_word_on_a_terminal(columns):
    lines = on_a_terminal(columns, "suites/qickstart.yaml")
    message = [line for line in lines if "Reading" not in line]
    assert max(map(len, message)) <= columns
    assert {f"{path.name}," for path in sorted((ROOT / "suites").glob("*.yaml"))[:-1]} <= set(" ".join(message).split())


def test_a_narrow_terminal_shows_whole_ids(cli, tmp_path, results, monkeypatch):
    plan = plan_of(tmp_path)
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    _, out, _ = cli(tmp_path / "table.yaml", "--results", results, "--dry-run")
    *lines, command = without_colours(out).splitlines()  # a command has no breaks, so that it can be copied
    assert max(map(len, lines)) <= 60
    assert command.endswith(str(results))
    assert set(RUN_ID.findall(without_colours(out))) == set(plan.runs)


def test_a_reader_that_leaves_early_changes_no_exit_status():
    command = f"{sys.executable} run_suite.py list methods | true; exit ${{PIPESTATUS[0]}}"
    answer = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (answer.returncode, answer.stderr) == (0, "")


# from a suite to its tables: these train

PROBE = """import shutil
import time
from pathlib import Path

from methods.base import Distiller, register

FOLDER = Path({folder!r})


@register("probe", weight=1.0)
class Probe(Distiller):
    def __init__(self, student, teacher, data, *, does: str = "nothing") -> None:
        super().__init__(student, teacher, data)
        self.does = does

    def loss(self, student, teacher, batch):
        if self.does == "copy the table":
            shutil.copy(FOLDER / "results/table/table.csv", FOLDER / f"seen-{{time.time_ns()}}.csv")
        if self.does == "raise" and not (FOLDER / "mended").exists():
            raise RuntimeError("out of luck")
        if self.does == "wait":
            (FOLDER / "waits").touch()
            time.sleep(60)
        return student.logits.square().mean() * (float("nan") if self.does == "diverge" else 0.0)
"""
PICKY = """from methods.base import Distiller, register


@register("picky", weight=1.0)
class Picky(Distiller):
    @classmethod
    def inapplicable(cls, student, teacher):
        return f"{teacher.network} is not to its taste"
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with plugins and a suite of two seeds with a row of each kind that ends well."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "probe.py").write_text(PROBE.format(folder=str(folder)))
    (folder / "picky.py").write_text(PICKY)
    copies = {"method": "probe", "does": "copy the table", "label": "copies"}
    diverges = {"method": "probe", "does": "diverge", "label": "diverges"}
    write_suite(folder, methods=["kd", "picky", copies, diverges], seeds=2, threads=1)
    return folder


@pytest.fixture(scope="module")
def arguments(folder):
    return [
        folder / "table.yaml",
        "--results",
        folder / "results",
        "--plugin",
        folder / "probe.py",
        "--plugin",
        folder / "picky.py",
        "--jobs",
        "1",
    ]


@pytest.fixture(scope="module")
def first(arguments, folder):
    return finished(Command(*arguments, streams=folder / "first"))


def test_a_suite_is_trained_and_tabulated_and_ends_with_1_if_a_run_diverged(first, folder):
    assert first.returncode == 1, first.stderr  # a run diverged
    assert statuses(folder / "results") == {
        "teacher": "done",
        "none": "done",
        "KD": "done",
        "copies": "done",
        "Picky": "inapplicable",
        "diverges": "diverged",
    }
    written = {path.name for path in (folder / "results/table").iterdir()}
    assert written == {
        *("table.csv", "table.md", "table.tex", "statistics.csv", "statistics.md", "epochs.csv", "report.html"),
        *("classes.csv", "suite.json", "figures"),
    }
    assert "│ KD " in first.stdout
    assert "resnet14: has no checkpoint, so it is trained here (seed 0)" in first.stderr


def test_progress_is_a_line_an_epoch_where_there_is_no_terminal(first):
    lines = [line for line in first.stderr.splitlines() if "epoch 1/1" in line]
    assert len(lines) == 3  # teacher, seed 1, seed 2
    assert re.fullmatch(
        r"resnet14->resnet8 seed 1 \| epoch 1/1 \| [\d.]+ steps/s \| [\d.]+ s \| left 0 s "
        r"\| top1 %: none [\d.]+, KD [\d.]+, copies [\d.]+",
        lines[1],
    )


def test_the_table_is_written_after_each_cohort(first, folder):
    assert first.returncode == 1
    seen = []
    for path in sorted(folder.glob("seen-*.csv")):
        with path.open(encoding="utf-8") as file:
            found = {row["label"]: (row["status"], row["n"]) for row in csv.DictReader(file)}
        if not seen or seen[-1] != found:
            seen.append(found)
    assert [(table["teacher"], table["none"], table["diverges"]) for table in seen] == [
        (("done", "1"), ("waiting", "0"), ("waiting", "0")),  # while seed 1 trains
        (("done", "1"), ("partial", "1"), ("diverged", "0")),  # while seed 2 does
    ]


def cpu_s_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_a_second_run_trains_nothing_touches_no_run_and_computes_for_less_than_3_seconds(first, folder, arguments):
    assert first.returncode == 1
    before, used = contents(folder / "results/runs"), cpu_s_of_children()
    second = run_suite(*arguments)
    assert cpu_s_of_children() - used < 3  # not of the clock, which counts what else the machine does
    assert (second.returncode, second.stderr) == (1, "")
    assert second.stdout == first.stdout
    assert contents(folder / "results/runs") == before


def test_a_suite_in_another_file_trains_only_what_is_new(first, folder, arguments, cli):
    assert first.returncode == 1
    other = write_suite(folder, "other", (folder / "table.yaml").read_text().replace("methods:\n", "methods:\n- at\n"))
    _, out, _ = cli(other, *arguments[1:], "--dry-run")
    assert [line.split()[-1] for line in out.splitlines() if RUN_ID.search(line) and "->" in line] == ["AT", "AT"]


@pytest.mark.usefixtures("few")
def test_a_run_that_fails_gives_1_and_the_others_go_on(first, folder, arguments, cli):
    """Then it stays failed until it is retried, and is done once it is mended."""
    assert first.returncode == 1
    path = write_suite(folder, "bad", threads=1, methods=[{"method": "probe", "does": "raise"}, "at"])
    label = "Probe does=raise"
    assert cli(path, *arguments[1:])[0] == 1
    assert statuses(folder / "results", "bad") == {"teacher": "done", "none": "done", label: "failed", "AT": "done"}
    assert "failed: RuntimeError: out of luck" in (folder / "results/bad/table.md").read_text()
    (folder / "mended").touch()
    assert cli(path, *arguments[1:])[0] == 1
    assert cli(path, *arguments[1:], "--retry-failed")[0] == 0
    assert statuses(folder / "results", "bad")[label] == "done"


@pytest.mark.parametrize("state", ["failed", "diverged"])
def test_a_run_outside_the_choice_that_failed_does_not_count(state, cli, tmp_path, results, store):
    plan = plan_of(tmp_path, methods=["kd", "at"])
    finish_all(store, plan, {"teacher": [90.0], "none": [80.0], "KD": [85.0], "AT": []})
    fail(store, cell_of(plan, "AT"), state, "disk full")
    assert cli(tmp_path / "table.yaml", "--results", results)[0] == 1
    assert cli(tmp_path / "table.yaml", "--results", results, "--only", "kd")[0] == 0
    assert cli("report", tmp_path / "table.yaml", "--results", results)[0] == 1


def test_an_interruption_gives_130_and_says_how_to_go_on(first, folder, arguments):
    assert first.returncode == 1
    path = write_suite(folder, "slow", methods=[{"method": "probe", "does": "wait"}])
    process = Command(path, *arguments[1:], streams=folder / "interrupted")
    deadline = time.monotonic() + 60
    while not (folder / "waits").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send(signal.SIGINT)
    assert process.wait(timeout=30) == 130
    _, err = process.said()
    assert "Traceback" not in err
    assert not list((folder / "results").glob("runs/*/claim.json"))
    assert err.splitlines()[-1] == "Interrupted. The same command continues from the last checkpoints."


def test_the_word_run_may_be_left_out(cli, tmp_path, results):
    path = write_suite(tmp_path)
    assert cli("run", path, "--results", results, "--dry-run") == cli(path, "--results", results, "--dry-run")
    assert cli("--dry-run", "--results", results, path)[0] == 0


def test_the_example_suite_of_these_tests_is_what_they_take_it_for():
    assert list(SUITE) == ["title", "data", "pairs", "methods", "training"]
