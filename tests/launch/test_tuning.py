"""Searches that train: what trials read, and that a killed search ends the same."""

from dataclasses import replace

import pytest

from bench.data import packaged
from bench.launch.launcher import Launcher
from bench.plan import build_plan
from bench.plan.tuning import SEED
from bench.store import Store
from bench.suite import load
from bench.train.loop import Observer
from tests.few import short_or_whole, use_few_digits
from tests.train.conftest import OFTEN, Bench, document

TUNING = {"trials": short_or_whole(2, 3), "dev_per_class": 2}
SMALL = {
    "data": {"name": "digits", "resize": short_or_whole(16, 32), "train_per_class": short_or_whole(3, 5)},
    "pairs": [{"teacher": "resnet8", "student": "resnet8"}],
    "training": {"epochs": 2, "batch_size": 50, "milestones": [1], "initial_epochs": 1},
}


def searched(folder, **changes):
    folder.mkdir()
    return Bench(folder, document(**SMALL, tuning=TUNING, **changes))


def plan_of(bench, store):
    return build_plan(load(bench.path, bench.methods), bench.path, bench.methods, store=store)


def train(bench, store, plan, wanted, observer=None):
    """Train what is wanted of a plan that knows the store."""
    work = bench.work()
    work = replace(work, plan=plan, runs=tuple(run.id for run in plan.with_needs(wanted)), results=store.root)
    Launcher(work).run(observer or Observer())


def test_trials_and_their_teachers_train_though_reading_the_test_images_raises(tmp_path, monkeypatch):
    read = packaged.digits

    def guarded(spec, root):
        if spec.opens_test:
            raise AssertionError("the test images are read")
        return read(spec, root)

    monkeypatch.setattr(packaged, "digits", guarded)
    bench, store = searched(tmp_path / "guarded"), Store(tmp_path / "results")
    plan = plan_of(bench, store)
    train(bench, store, plan, [run for cell in plan.cells if cell.choice for run in cell.wanted])
    chosen = plan_of(bench, store)
    assert [cell.awaits for cell in chosen.cells if cell.choice] == ["", ""]
    trials = {run.id for cell in chosen.cells if cell.choice for trial in cell.choice.trials for run in trial.runs}
    assert all(store.record(run_id)["metrics"]["top1"] % 5 == 0 for run_id in trials)  # of 20 dev images
    with pytest.raises(AssertionError, match="the test images are read"):
        train(bench, store, chosen, [run for cell in chosen.cells if cell.choice for run in cell.runs])


def test_a_search_that_was_killed_ends_the_same(tmp_path):
    class KillsTrials(Observer):
        def step(self, lanes, step, steps) -> None:
            if lanes[0].spec.seed == SEED and len(lanes) > 1 and lanes[0].clock.epoch == 2:
                raise KeyboardInterrupt

    def finish(store):
        for _ in range(2):  # trials, then final runs
            plan = plan_of(bench, store)
            train(bench, store, plan, [run for cell in plan.cells for run in cell.wanted])
        return plan_of(bench, store)

    bench = searched(tmp_path / "suite", **OFTEN)
    whole, parts = Store(tmp_path / "whole"), Store(tmp_path / "parts")
    with pytest.MonkeyPatch.context() as patch:
        use_few_digits(patch)
        plan = plan_of(bench, parts)
        with pytest.raises(KeyboardInterrupt):
            train(bench, parts, plan, [run for cell in plan.cells for run in cell.wanted], KillsTrials())
        assert parts.checkpoint(plan.cells[-1].choice.trials[0].runs[0].id) is not None
        ends = [finish(store) for store in (whole, parts)]
    assert ends[0].runs.keys() == ends[1].runs.keys()
    assert not any(cell.awaits for cell in ends[0].cells)
    for run_id in ends[0].runs:
        assert whole.record(run_id)["metrics"] == parts.record(run_id)["metrics"]
        assert whole.weights_sha256(run_id) == parts.weights_sha256(run_id)
