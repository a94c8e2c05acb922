"""What a run folder holds to repeat its run: suite files of one pair, row and seed."""

from pathlib import Path

import pytest

from bench.plan import build_plan
from bench.plan.repeat import ENTRY, suite_files
from bench.suite import load
from methods import catalog

SUITES = sorted((Path(__file__).parents[2] / "suites").rglob("*.yaml"))


@pytest.mark.parametrize("path", SUITES, ids=lambda path: path.stem)
def test_a_runs_entry_is_a_suite_that_asks_for_the_same_run(path, tmp_path):
    methods = catalog()
    plan = build_plan(load(path, methods), path, methods)
    runs = list(plan.runs.values())
    for run in runs[:: max(1, len(runs) // 8)]:
        for name, text in suite_files(plan, run).items():
            (tmp_path / name).write_text(text, encoding="utf-8")
        file = tmp_path / ENTRY
        assert run.id in build_plan(load(file, methods), file, methods).runs
