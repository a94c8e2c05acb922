"""No report replaces one with more finished runs, of another suite file, or of the suite without changes."""

import csv
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.cli import main
from bench.plan import build_plan
from bench.report.folder import SUITE
from bench.report.write import write_tables, write_while_training
from bench.store import Store
from bench.suite import load
from tests.stores import METHODS, cell_of, finish, finish_all, plan_of, write_suite

DONE = {"teacher": [90.0], "none": [80.0, 81.0], "KD": [85.0, 86.0]}


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "results")


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    """Return a function that gives the exit status and both streams of a command about the suite `table.yaml`."""

    def answer(*words: str) -> tuple[int, str]:
        arguments = [words[0], str(tmp_path / "table.yaml"), "--results", str(tmp_path / "results"), *words[1:]]
        monkeypatch.setattr(sys, "argv", ["run_suite.py", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        written = capsys.readouterr()
        return int(end.value.code or 0), written.out + written.err

    return answer


def finished(folder) -> int:
    """Return the number of finished runs that a table shows."""
    with (folder / "table.csv").open(encoding="utf-8") as file:
        return sum(int(row["n"]) for row in csv.DictReader(file) if row["metric"] == "top1")


def complete(tmp_path, store):
    """Return the plan of a suite of two seeds whose report shows five finished runs."""
    plan = plan_of(tmp_path, seeds=2)
    finish_all(store, plan, DONE)
    write_tables(plan, store)
    return plan


def test_a_changed_suite_has_its_report_in_a_folder_of_its_own_and_says_so(tmp_path, store, command):
    complete(tmp_path, store)
    code, said = command("report", "--seeds", "1")
    assert code == 0
    assert "results have their own folder" in said
    assert finished(tmp_path / "results/table") == 5
    assert finished(tmp_path / "results/table/with_seeds=1") == 3


def test_the_suite_as_it_is_takes_the_folder_that_a_changed_one_had_and_nothing_is_lost(tmp_path, store):
    plan = plan_of(tmp_path, "seeds=1", seeds=2)
    changed = build_plan(plan.suite, plan.file, METHODS, changes=["seeds=1"])
    finish_all(store, changed, DONE)
    assert write_tables(changed, store).plan.folder == "table"
    whole = plan_of(tmp_path, seeds=2)
    assert write_tables(whole, store).plan.folder == "table"
    assert finished(tmp_path / "results/table/with_seeds=1") == 3
    assert write_tables(changed, store).plan.folder == "table/with_seeds=1"


@pytest.mark.parametrize("blocked", ["with_seeds=1", "with_seeds=1/table.csv/x"])
def test_what_stands_in_the_way_of_a_report_that_moves_is_named(blocked, tmp_path, store, command):
    plan = plan_of(tmp_path, "seeds=1", seeds=2)
    changed = build_plan(plan.suite, plan.file, METHODS, changes=["seeds=1"])
    finish_all(store, changed, DONE)
    write_tables(changed, store)
    (tmp_path / "results/table" / blocked).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "results/table" / blocked).write_text("")
    code, said = command("report")
    assert (code, len(said.splitlines())) == (2, 1)
    assert f"{tmp_path / 'results/table/with_seeds=1'}: cannot be written: " in said
    assert finished(tmp_path / "results/table") == 3


def test_a_report_is_written_under_the_lock_of_the_training_processes(tmp_path, store, command, monkeypatch):
    from bench.figures import write

    seen = []

    def note_lock(*_: object, meanwhile: Callable[[], None]) -> list[Path]:
        script = "import fcntl, sys; fcntl.lockf(open(sys.argv[1], 'a'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
        lock = tmp_path / "results/runs/.lock-tables"
        seen.append(subprocess.run([sys.executable, "-c", script, str(lock)], capture_output=True, check=False))
        return []

    complete(tmp_path, store)
    monkeypatch.setattr(write, "write_figures", note_lock)
    assert command("report")[0] == 0
    assert [b"BlockingIOError" in one.stderr for one in seen] == [True]


def test_settings_of_the_machine_are_no_change_of_the_suite(tmp_path, store):
    plan = complete(tmp_path, store)
    same = build_plan(plan.suite, plan.file, METHODS, changes=["slurm.partition=gpu", "workers=2"])
    assert write_tables(same, store).plan.folder == "table"


@pytest.mark.parametrize("change", ["methods=[kd,sp]", "methods=[kd_sp]", "title=" + "é" * 300])
def test_each_change_has_a_short_folder_of_its_own(change, tmp_path, store):
    plan = complete(tmp_path, store)
    folders = {
        write_tables(build_plan(plan.suite, plan.file, METHODS, changes=changes), store).plan.folder
        for changes in ([change], [change, change], ["methods=[kd, sp]"])
    }
    assert len(folders) == 3
    assert all(len(folder.rpartition("/")[2]) <= 80 for folder in folders)


@pytest.mark.parametrize("has_note", [True, False], ids=["of this version", "of an earlier version"])
def test_a_report_is_refused_that_has_fewer_finished_runs_than_the_one_before(has_note, tmp_path, store, command):
    plan = complete(tmp_path, store)
    if not has_note:
        (tmp_path / "results/table" / SUITE).unlink()
    shutil.rmtree(store.folder(cell_of(plan, "KD").runs[0].id))
    code, said = command("report")
    assert code == 2
    assert "its report shows 5 finished run(s), this one would show 4" in said
    assert finished(tmp_path / "results/table") == 5


@pytest.mark.parametrize("name", ["../../../table.yaml", "paper/../../../../table.yaml", "/etc/hosts", ".."])
def test_no_note_names_a_figure_outside_its_report(name, tmp_path, store, command):
    complete(tmp_path, store)
    note = tmp_path / "results/table" / SUITE
    note.write_text(json.dumps(json.loads(note.read_text()) | {"figures": [name], "changes": ["seeds=2"]}))
    code, said = command("report")
    assert code == 2
    assert "suite.json: is damaged" in said
    assert (tmp_path / "table.yaml").exists()


def test_a_report_is_replaced_once_as_many_runs_are_finished(tmp_path, store):
    complete(tmp_path, store)
    edited = plan_of(tmp_path, seeds=2, training={"epochs": 2})
    assert write_tables(edited, store).plan.folder == "table/unfinished"
    assert finished(tmp_path / "results/table") == 5
    finish_all(store, edited, DONE)
    assert write_tables(edited, store).plan.folder == "table"


def test_a_run_that_failed_since_is_shown(tmp_path, store):
    plan = complete(tmp_path, store)
    run = cell_of(plan, "KD").runs[0].id
    (store.folder(run) / "record.json").unlink()
    (store.folder(run) / "failure.json").write_text('{"status": "failed", "reason": "why"}')
    assert write_tables(plan, store).plan.folder == "table"
    assert finished(tmp_path / "results/table") == 4


@pytest.mark.parametrize("word", ["run", "report"])
def test_another_suite_file_of_the_same_name_is_refused(word, tmp_path, store, command):
    (tmp_path / "other").mkdir()
    other = write_suite(tmp_path / "other", methods=["at"])
    write_tables(build_plan(load(other, METHODS), other, METHODS), store)
    before = (tmp_path / "results/table/table.csv").read_bytes()
    plan_of(tmp_path)
    code, said = command(word)
    assert code == 2
    assert "the results of another suite file of this name, ../other/table.yaml, are in" in said
    assert (tmp_path / "results/table/table.csv").read_bytes() == before
    assert not (tmp_path / "results/runs").exists()


def test_a_copy_of_the_suite_file_goes_on(tmp_path, store):
    plan = complete(tmp_path, store)
    (tmp_path / "copy").mkdir()
    copy = Path(shutil.copy(plan.file, tmp_path / "copy"))
    assert write_tables(build_plan(plan.suite, copy, METHODS), store).plan.folder == "table"


def test_a_suite_that_moved_with_its_results_goes_on(tmp_path, store):
    plan = complete(tmp_path, store)
    moved = tmp_path / "moved"
    moved.mkdir()
    shutil.move(tmp_path / "results", moved)
    shutil.move(plan.file, moved)
    plan = plan_of(moved, seeds=2, methods=["kd", "at"])
    assert write_tables(plan, Store(moved / "results")).plan.folder == "table"


def test_an_output_that_cannot_be_written_is_named_and_the_others_are_written(tmp_path, store, command, caplog):
    complete(tmp_path, store)
    folder = tmp_path / "results/table"
    for name in ("table.md", "report.html", "figures/gain.pdf"):
        (folder / name).unlink(missing_ok=True)
        (folder / name).mkdir(parents=True)
    assert command("report")[0] == 1
    assert caplog.text.count("is not written: ") == 3
    assert all(f"{folder / name} is" in caplog.text for name in ("table.md", "report.html", "figures/gain"))
    for name in ("table.tex", "statistics.md", "epochs.csv"):
        assert (folder / name).stat().st_size


def test_tables_that_cannot_be_written_do_not_stop_the_training(tmp_path, store, caplog):
    plan = complete(tmp_path, store)
    finish(store, cell_of(plan, "KD"), [70.0])
    (store.folder(cell_of(plan, "KD").runs[0].id) / "record.json").write_text("[]")
    write_while_training(plan, store)
    assert "the report is not written: " in caplog.text
    assert finished(tmp_path / "results/table") == 5


@pytest.mark.parametrize("gone", [False, True])
def test_the_page_quotes_the_suite_file_as_it_was_read_and_tells_that_it_has_changed(gone, tmp_path, store):
    from bench.report.page import render

    plan = complete(tmp_path, store)
    frame = write_tables(plan, store)
    assert "The file" not in render(frame)
    plan_of(tmp_path, title="Another title")
    if gone:
        plan.file.unlink()
    page = render(frame)
    assert "title: A table" in page
    assert "Another title" not in page
    assert ("The file is not there any more" if gone else "The file has changed since") in page


def test_jobs_of_another_suite_file_of_the_same_name_are_not_cancelled(tmp_path, store, command, monkeypatch):
    for name, said in (("squeue", "echo '1|RUNNING|None'; echo '2|RUNNING|None'"), ("scancel", "echo $@ >> cancelled")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{said}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    plan_of(tmp_path)
    for job, suite in (("1", "../table.yaml"), ("2", "../other/table.yaml")):
        folder = tmp_path / "results/table/jobs" / job
        folder.mkdir(parents=True)
        document = {"suite": suite, "tasks": {job: []}}
        (folder / "submission.json").write_text(json.dumps(document))
    assert command("cancel") == (0, "Cancelled: 1\n")
    assert (tmp_path / "cancelled").read_text() == "1\n"
