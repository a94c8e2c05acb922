"""The trials of a search, the choice among them, and what a suite file may say of it."""

import csv
import itertools
import re
from dataclasses import replace
from statistics import mean

import numpy as np
import pytest

from bench.data import DataChoice, packaged, resolve
from bench.data.subset import divided
from bench.plan import build_plan, cohorts
from bench.plan.space import Dimension, points
from bench.plan.tuning import SEED
from bench.report.caption import marks
from bench.report.conditions import conditions
from bench.report.frame import results_frame
from bench.report.statistics import statistics
from bench.report.tuning import by_chance, expected_best, rank_stability, to_csv, to_markdown
from bench.store import Store
from bench.suite import load
from bench.types import RequestError
from tests.stores import METHODS, cell_of, end, finish, write_suite

TUNING = {"trials": 4, "dev_per_class": 3}


def plan_of(folder, tuning=None, store=None, **changes):
    path = write_suite(folder, "tuned", **{"methods": ["kd", "at"], "tuning": tuning or TUNING, **changes})
    return build_plan(load(path, METHODS), path, METHODS, store=store)


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "results")


def choices(plan):
    return {cell.label: cell.choice for cell in plan.cells if cell.choice is not None}


def test_each_row_of_a_student_has_a_tuned_row_after_it(tmp_path):
    labels = [cell.label for cell in plan_of(tmp_path).cells]
    assert labels == ["teacher", "none", "none (tuned)", "KD", "KD (tuned)", "AT", "AT (tuned)"]


def test_the_other_rows_and_their_runs_are_those_of_the_suite_without_a_search(tmp_path):
    path = write_suite(tmp_path, "plain", methods=["kd", "at"])
    plain = build_plan(load(path, METHODS), path, METHODS)
    tuned = {cell.label: cell.runs for cell in plan_of(tmp_path).cells}
    assert {cell.label: cell.runs for cell in plain.cells}.items() <= tuned.items()


def test_the_first_trial_has_the_rows_own_settings(tmp_path):
    first = choices(plan_of(tmp_path))["KD (tuned)"].trials[0]
    assert first.settings == {"lr": 0.05, "weight_decay": 5e-4, "weight": 0.9, "temperature": 4.0}
    (term,) = first.runs[0].terms
    assert (term.weight, term.parameters) == (0.9, {"temperature": 4.0})


def test_all_rows_have_the_same_points(tmp_path):
    found = choices(plan_of(tmp_path))
    places = {
        label: [
            [choice.space[name].place(trial.settings[name]) for name in ("lr", "weight_decay")]
            for trial in choice.trials
        ]
        for label, choice in found.items()
    }
    assert places["none (tuned)"] == places["KD (tuned)"] == places["AT (tuned)"]
    own, *others = (
        [trial.settings["weight"] for trial in found[label].trials] for label in ("KD (tuned)", "AT (tuned)")
    )
    assert [value / 0.9 for value in own] == pytest.approx([value / 1000 for value in others[0]], rel=0.01)


def test_settings_are_chosen_when_all_trials_have_ended(store, tmp_path):
    first = choices(plan_of(tmp_path, store=store))["KD (tuned)"]
    for number, (trial, value) in enumerate(zip(first.trials, [50.0, None, 70.0, 70.0], strict=True)):
        assert choices(plan_of(tmp_path, store=store))["KD (tuned)"].awaits == f"tuning {number}/4"
        end(store, trial, value)
    plan = plan_of(tmp_path, store=store)
    (cell,) = (cell for cell in plan.cells if cell.label == "KD (tuned)")
    assert (cell.awaits, cell.choice.best.number) == ("", 2)  # of equal ones, the first
    assert [trial.status for trial in cell.choice.trials] == ["done", "diverged", "done", "done"]
    (run,) = cell.runs
    assert (run.seed, run.data.held_out, run.id in plan.runs) == (1, None, True)
    assert run.training.lr == cell.choice.best.settings["lr"]
    assert run.training.evaluate_every == 1
    assert cell_of(plan, "AT (tuned)").awaits == "tuning 0/4"


def test_a_row_whose_trials_all_failed_keeps_its_own_settings(store, tmp_path):
    for trial in choices(plan_of(tmp_path, store=store))["KD (tuned)"].trials:
        end(store, trial, None)
    plan = plan_of(tmp_path, store=store)
    assert cell_of(plan, "KD (tuned)").runs == cell_of(plan, "KD").runs
    assert cell_of(plan, "KD (tuned)").awaits == ""


def test_the_next_rung_has_the_own_settings_and_the_best_others_of_the_one_before(store, tmp_path):
    tuning = {**TUNING, "rungs": {1: 4, 2: 2}}
    for trial, value in zip(choices(plan_of(tmp_path, tuning, store))["KD (tuned)"].trials, [1, 9, 3, 8], strict=True):
        end(store, trial, float(value))
    choice = choices(plan_of(tmp_path, tuning, store))["KD (tuned)"]
    assert [(trial.number, trial.epochs) for trial in choice.trials[4:]] == [(1, 2), (3, 2), (0, 2)]
    assert choice.awaits == "tuning 4/7"
    for trial, value in zip(choice.trials[4:], [5.0, 6.0, 4.0], strict=True):
        end(store, trial, value)
    assert choices(plan_of(tmp_path, tuning, store))["KD (tuned)"].best.number == 3


def test_a_waiting_row_is_shown_as_waiting_and_a_chosen_one_with_its_settings(store, tmp_path):
    waiting = results_frame(plan_of(tmp_path, store=store), store).at("resnet14->resnet8", "top1", "KD (tuned)")
    assert (waiting.status, waiting.reason, waiting.mean) == ("waiting", "tuning 0/4", None)
    for choice in choices(plan_of(tmp_path, store=store)).values():
        for trial, value in zip(choice.trials, [50.0, 60.0, 70.0, None], strict=True):
            end(store, trial, value)
    plan = plan_of(tmp_path, store=store)
    cell = cell_of(plan, "KD (tuned)")
    finish(store, cell, [88.0])
    frame = results_frame(plan, store)
    assert frame.at(cell.pair, "top1", "KD (tuned)").mean == 88.0
    finish(store, cell_of(plan, "none"), [80.0])
    finish(store, cell_of(plan, "none (tuned)"), [85.0])
    (gain,) = statistics(results_frame(plan, store)).gains
    assert (gain["label"], gain["reference"], gain["value"]) == ("KD (tuned)", "none (tuned)", 3.0)
    text, rows = to_markdown(frame), list(csv.DictReader(to_csv(frame).splitlines()))
    assert "Expected best of k trials" in text
    assert "3 diverged" in text
    own = [row for row in rows if row["label"] == "KD"]
    assert [row["dev"] for row in own] == ["50.0", "60.0", "70.0", ""]
    assert [row["chosen"] for row in own] == ["0", "0", "1", "0"]
    assert "Rows (tuned): the best of 4 settings, the row's own among them" in conditions(plan)


def test_own_settings_go_on_to_the_last_rung_even_if_they_learn_slowly(store, tmp_path):
    tuning = {**TUNING, "rungs": {1: 4, 2: 1}}
    for own in (10.0, 90.0):  # the worst after 1 epoch, and the best after 2
        for choice in choices(plan_of(tmp_path, tuning, store)).values():
            for trial in choice.trials:
                if trial.is_open:
                    end(store, trial, 60.0 + trial.number if trial.number else own)
    plan = plan_of(tmp_path, tuning, store)
    choice = choices(plan)["KD (tuned)"]
    assert [trial.number for trial in choice.trials if trial.epochs == 2] == [3, 0]
    assert choice.best.number == 0
    text = to_markdown(results_frame(plan, store))
    assert "All of them train for 1 epoch, the best one and the row's own for 2. The best of the last" in text
    assert "| 90.00 | 90.00 |" in text


def test_a_single_rung_is_said_to_be_shorter_than_the_final_runs(tmp_path):
    plan = plan_of(tmp_path, {**TUNING, "rungs": {1: 4}}, training={"epochs": 2})
    assert "All are tried for 1 epoch. A trial has 1 seed" in conditions(plan)


def test_the_caption_says_how_settings_are_chosen_and_what_the_teachers_of_trials_train_on(tmp_path):
    data = {"name": "digits", "resize": 32}
    tuning = {**TUNING, "seeds": 2, "rungs": {1: 4, 2: 1}}
    said = conditions(plan_of(tmp_path, tuning, training={"epochs": 2}, teacher_data=data))
    assert (
        "Rows (tuned): the best of 4 settings, the row's own among them, by top-1 accuracy on dev images. These are 3 "
        "training images of each class, on which neither trials nor their teachers train. Teachers of trials train on "
        "digits (all training images) without the dev images. All are tried for 1 epoch, the best one and the row's "
        "own for 2. A trial has 2 seeds, which no final run has."
    ) in said
    assert "10 % of the training images of each class" in conditions(
        plan_of(tmp_path, {"trials": 2, "dev_fraction": 0.1})
    )


def test_the_caption_says_that_given_weights_may_know_the_dev_images(tmp_path):
    (tmp_path / "teacher.pth").write_bytes(b"weights")
    pairs = [{"teacher": {"network": "resnet14", "checkpoint": "teacher.pth"}, "student": "resnet8"}]
    said = conditions(plan_of(tmp_path, pairs=pairs))
    assert (
        "on which trials do not train. The given weights of resnet14 may have been trained on the dev images." in said
    )


def test_the_caption_tells_the_smallest_difference_between_tuned_rows_from_that_between_the_others(store, tmp_path):
    def plan():
        return plan_of(tmp_path, {"trials": 2, "dev_per_class": 3}, store, methods=["kd"], seeds=3)

    for choice in choices(plan()).values():
        for trial in choice.trials:
            end(store, trial, 60.0 + trial.number)
    spreads = {"none": 1.0, "none (tuned)": 2.0, "KD": 1.0, "KD (tuned)": 2.0}
    for label, spread in spreads.items():
        finish(store, cell_of(plan(), label), [80.0, 80.0 + spread, 80.0 - spread * (1 + label.startswith("KD"))])
    said = marks(results_frame(plan(), store))
    found = re.search(r"from none of (\d+\.\d\d) points \(tuned rows: (\d+\.\d\d)\) is found", said)
    assert found is not None
    assert float(found[2]) == pytest.approx(2 * float(found[1]), abs=0.02)


def test_the_points_never_change():
    """A change here gives every trial another id."""
    assert [round(place, 4) for place in points(2)[0][:3]] == [0.2255, 0.9649, 0.5567]
    assert points(2) == points(5)[:2]


def test_all_trials_of_a_pair_train_in_one_cohort(tmp_path):
    plan = plan_of(tmp_path, training={"epochs": 2})
    trials = {run.id for choice in choices(plan).values() for trial in choice.trials for run in trial.runs}
    assert [len(cohort.runs) for cohort in cohorts(list(plan.runs.values())) if cohort.runs[0].id in trials] == [12]


def test_trials_have_other_seeds_than_final_runs_and_never_open_the_test_images(tmp_path):
    plan = plan_of(tmp_path, {**TUNING, "seeds": 2})
    for choice in choices(plan).values():
        for trial in choice.trials:
            assert [run.seed for run in trial.runs] == [SEED, SEED + 1]
            assert not any(run.data.opens_test for run in trial.runs)
            teachers = [plan.runs[name] for run in trial.runs for name in run.teachers]
            assert all(teacher.data == trial.runs[0].data for teacher in teachers)
    assert all(run.data.opens_test for cell in plan.cells for run in cell.runs)


@pytest.mark.parametrize("part", [{"train_per_class": 9}, {"train_fraction": 0.1}, {}], ids=str)
def test_teachers_of_trials_train_on_their_own_data_without_the_dev_images(part, tmp_path):
    data = {"name": "digits", "resize": 32}
    plan = plan_of(tmp_path, data={**data, **part}, teacher_data=data)
    (_, labels), _ = packaged.digits(resolve(DataChoice(**data)), None)
    for choice in choices(plan).values():
        (run,) = choice.trials[0].runs
        _, dev = divided(labels, run.data)
        for name in run.teachers:
            own, own_dev = divided(labels, plan.runs[name].data)
            assert own_dev.tolist() == dev.tolist()
            assert len(own) == len(labels) - len(dev)
            assert not set(own.tolist()) & set(dev.tolist())
            assert not plan.runs[name].data.opens_test
    assert all(
        plan.runs[name].data.held_out is None for cell in plan.cells for run in cell.runs for name in run.teachers
    )


def test_a_setting_that_the_row_states_is_not_searched(tmp_path):
    plan = plan_of(tmp_path, methods=[{"method": "kd", "temperature": 2.0}])
    (*_, choice) = choices(plan).values()
    assert set(choice.space) == {"lr", "weight_decay", "weight"}
    assert {run.terms[0].parameters["temperature"] for trial in choice.trials for run in trial.runs} == {2.0}


def test_a_suite_states_its_own_space(tmp_path):
    space = {"lr": {"log": [0.02, 0.1]}, "weight": {"choices": [1.0]}, "kd.temperature": {"linear": [1.0, 2.0]}}
    choice = choices(plan_of(tmp_path, {**TUNING, "space": space}))["KD (tuned)"]
    for trial in choice.trials[1:]:
        assert 0.02 <= trial.settings["lr"] <= 0.1
        assert trial.settings["weight"] == 1.0
        assert 1.0 <= trial.settings["temperature"] <= 2.0


def test_a_whole_number_is_searched_by_factors_that_are_none(tmp_path):
    space = {"cc.dim": {"log": [0.5, 2.0], "times_default": True}}
    choice = choices(plan_of(tmp_path, {**TUNING, "space": space}, methods=["cc"]))["CC (tuned)"]
    assert all(64 <= trial.settings["dim"] <= 256 for trial in choice.trials)
    assert {type(trial.settings["dim"]) for trial in choice.trials} == {int}


def test_the_first_rung_has_a_scaled_schedule(tmp_path):
    training = {"epochs": 60, "milestones": [30, 45]}
    plan = plan_of(tmp_path, {**TUNING, "rungs": {6: 4, 60: 2}}, training=training)
    for choice in choices(plan).values():
        assert [trial.epochs for trial in choice.trials] == [6] * 4
        assert choice.trials[0].runs[0].training.milestones == (3, 4)
        assert choice.awaits == "tuning 0/6"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tuning": {"trials": 4}}, "tuning: give one of 'dev_per_class' and 'dev_fraction'"),
        (
            {"tuning": {**TUNING, "space": {"kd.temprature": {"log": [1, 2]}}}},
            "space.kd.temprature: unknown parameter. Did you",
        ),
        ({"tuning": {**TUNING, "space": {"lr": {"log": [0, 2]}}}}, "a logarithmic scale needs bounds above 0"),
        ({"tuning": {**TUNING, "space": {"lr": {"log": [3, 2]}}}}, "the first bound must be below the second"),
        (
            {"tuning": {**TUNING, "space": {"lr": {"linear": [-1, 2]}}}},
            "space.lr: found -1: must be greater",
        ),
        (
            {"tuning": {**TUNING, "space": {"cc.dim": {"choices": [0.5]}}}},
            "space.cc.dim: found 0.5: must be a whole number",
        ),
        (
            {"tuning": {**TUNING, "space": {"cc.dim": {"log": [0.01, 1000], "times_default": True}}}},
            "space.cc.dim: found 128000: must be",
        ),
        (
            {"tuning": {**TUNING, "space": {"sp.variant": {"log": [0.1, 10], "times_default": True}}}},
            "'times_default' needs a number",
        ),
        ({"tuning": {**TUNING, "space": {"lr": {}}}}, "give exactly one of log"),
        ({"tuning": {**TUNING, "rungs": {1: 3}}}, "the first one has all 4 trials; found"),
        ({"tuning": {**TUNING, "rungs": {2: 4, 1: 2}}}, "each has more epochs and no more trials"),
        ({"tuning": {**TUNING, "dev_per_class": 90}}, "leave at least one to train on"),
        (
            {"data": {"name": "digits", "resize": 32, "dev_per_class": 3}},
            "'data': with 'tuning', dev images",
        ),
        ({"teacher_data": "stl10"}, "so both need the same name; found stl10 and digits"),
        (
            {"teacher_data": {"name": "digits", "resize": 32, "dev_per_class": 3}},
            "'teacher_data': with 'tuning', dev images are stated there",
        ),
        ({"methods": [{"method": "kd", "label": "KD (tuned)"}]}, "is the label of a tuned row"),
        ({"task": "mutual"}, "'tuning' is for task: compression"),
    ],
    ids=str,
)
def test_a_search_that_cannot_be_made_is_refused(changes, message, tmp_path):
    with pytest.raises(RequestError) as refused:
        plan_of(tmp_path, **changes)
    assert message in str(refused.value)


@pytest.mark.parametrize("place", [0.0, 0.25, 0.999])
def test_a_value_is_at_the_place_that_gave_it(place):
    for dimension in (Dimension(0.01, 100.0, is_log=True), Dimension(1.0, 3.0)):
        assert dimension.place(dimension.at(place)) == pytest.approx(place, abs=0.003)


def test_choices_are_equally_frequent():
    values = [Dimension(choices=(1, 2, 4)).at(place / 30) for place in range(30)]
    assert values == [1] * 10 + [2] * 10 + [4] * 10


def test_the_expected_best_of_k_trials_is_the_mean_over_all_subsets():
    values = [30.0, 10.0, 50.0, 20.0, 50.0]
    brute = [mean(map(max, itertools.combinations(values, k))) for k in range(1, 6)]
    assert expected_best(values) == pytest.approx(brute)


def test_ranks_that_never_change_are_stable():
    assert rank_stability([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]) == [1.0, 1.0]
    assert rank_stability([[3.0, 2.0], [1.0, 4.0]])[0] == -1.0


def test_chance_alone_exceeds_the_stated_correlation_in_one_of_20_searches(tmp_path):
    choice = choices(plan_of(tmp_path, {**TUNING, "trials": 8}))["none (tuned)"]
    ended = replace(choice, trials=tuple(replace(trial, value=50.0) for trial in choice.trials))
    orders = np.random.default_rng(0).permuted(np.tile(np.arange(8), (4000, 1)), axis=1)
    found = np.corrcoef(np.arange(8), orders)[0, 1:]
    assert (np.abs(found) > by_chance(ended)).mean() == pytest.approx(0.05, abs=0.015)
