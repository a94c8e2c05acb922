"""What is told of how numbers were made."""

import json
import sys
from pathlib import Path

import pytest

from bench.plan import build_plan
from bench.plan.repeat import suite_files
from bench.report.conditions import conditions
from bench.report.frame import results_frame
from bench.report.origins import origins, training_command
from bench.report.write import write_tables
from bench.store import Store
from bench.suite import load
from methods import catalog, own_files
from tests.stores import cell_of, plan_of, write_suite

MADE = {
    "device": "A processor",
    "threads": 2,
    "host": "machine7",
    "commit": "0123456789abcdef",
    "dirty": False,
    "versions": {"python": "3.12.1", "torch": "2.9.0"},
    "date": "2026-01-02",
    "metrics": {"top1": 80.0, "top5": 99.0},
    "best": None,
}


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "results")


def test_runs_are_counted_by_commit_machine_and_versions_with_the_days_on_which_they_were_made(tmp_path, store):
    plan = plan_of(tmp_path, seeds=3)
    none, kd = cell_of(plan, "none").runs, cell_of(plan, "KD").runs
    for run, day in zip(none, ("2026-01-02", "2026-01-04", "2026-01-03"), strict=True):
        store.finish(run.id, MADE | {"date": day})
    store.finish(kd[0].id, MADE | {"host": "other", "dirty": True})
    store.finish(kd[1].id, {key: value for key, value in (MADE | {"host": "old"}).items() if key != "date"})
    common = {"device": "A processor", "threads": "2", "versions": "python 3.12.1, torch 2.9.0"}
    changed = "0123456789abcdef with uncommitted changes"
    assert list(origins(results_frame(plan, store).records.values()).values()) == [
        {"commit": "0123456789abcdef", "host": "machine7", **common, "date": "2026-01-02 to 2026-01-04", "runs": "3"},
        {"commit": changed, "host": "other", **common, "date": "2026-01-02", "runs": "1"},
        {"commit": "0123456789abcdef", "host": "old", **common, "date": "—", "runs": "1"},
    ]


def test_a_plug_in_is_named_with_the_path_that_was_given(tmp_path, store, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = Path("plugins/mine.py")
    path.parent.mkdir()
    path.write_text((own_files()[0].parent / "pkt.py").read_text().replace('"pkt"', '"mine"'))
    methods = catalog([path])
    suite = write_suite(tmp_path, methods=["mine", "kd"])
    plan = build_plan(load(suite, methods, ()), suite, methods)
    assert training_command(plan) == ["distill-bench", "table.yaml", "--plugin=plugins/mine.py"]
    assert "Code from other files: plugins/mine.py." in conditions(plan)
    write_tables(plan, store)
    assert json.loads((store.suite_folder("table") / "suite.json").read_text())["plugins"] == ["plugins/mine.py"]
    files = suite_files(plan, next(cell.runs[0] for cell in plan.cells if cell.method == "mine"))
    assert files["suite.yaml"].startswith("# options: --only mine --plugin=plugins/mine.py\n")


def test_the_markdown_table_ends_in_the_command_that_repeats_it_and_how_it_was_made(tmp_path, store, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["run_suite.py"])
    plan = plan_of(tmp_path, "training.epochs=2")
    write_tables(plan, store)
    path = store.suite_folder(plan.name) / "table.md"
    heading = "## How it was made\n\n```\npython run_suite.py table.yaml\n```\n"
    assert path.read_text().endswith(heading)  # nothing has been made yet
    store.finish(cell_of(plan, "KD").runs[0].id, MADE)
    write_tables(plan, store)
    head, _, last = path.read_text().split(heading)[1].strip().splitlines()
    assert head == "| commit | host | device | threads | versions | date | runs |"
    facts = ["0123456789abcdef", "machine7", "A processor", "2", "python 3.12.1, torch 2.9.0", "2026-01-02", "1"]
    assert last == f"| {' | '.join(facts)} |"
