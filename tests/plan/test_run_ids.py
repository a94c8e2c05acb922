"""Run ids decide what is trained again: those of our suites never change without need.

`golden/run_ids.json` holds the ids of each suite's runs, in the plan's order. Where an id must change, the changelog
says so under **Numbers**, and this file is written again.
"""

import json
from pathlib import Path

import pytest

from bench.plan import build_plan, work_units
from bench.suite import load
from methods import catalog

ROOT = Path(__file__).parents[2]
COHORTS = json.loads((ROOT / "tests/golden/cohorts.json").read_text(encoding="utf-8"))
IDS = json.loads((ROOT / "tests/golden/run_ids.json").read_text(encoding="utf-8"))
SUITES = {path.stem: path for path in (ROOT / "suites").rglob("*.yaml")}


def test_every_suite_has_its_ids_written_down():
    assert SUITES.keys() == IDS.keys()


@pytest.mark.parametrize("name", sorted(IDS))
def test_a_suite_asks_for_the_same_runs_as_ever(name):
    methods = catalog()
    plan = build_plan(load(SUITES[name], methods), SUITES[name], methods)
    assert list(plan.runs) == IDS[name].split()


@pytest.mark.parametrize("name", sorted(COHORTS))
def test_a_suites_runs_make_as_many_cohorts_as_ever(name):
    methods = catalog()
    plan = build_plan(load(SUITES[name], methods), SUITES[name], methods)
    assert len(work_units(list(plan.runs.values()), plan.suite.max_lanes)) == COHORTS[name]
