"""The figures of a suite's searches."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from bench.figures import tuning
from bench.figures.findings import Findings
from bench.plan import Plan, build_plan
from bench.report.frame import results_frame
from bench.report.tuning import expected_best
from bench.store import Store
from bench.suite import load
from tests.stores import METHODS, end, plan_of, write_suite

PAIR = "resnet14->resnet8"
DEV: dict[str, Sequence[float | None]] = {
    "none": [60.0, 61.0, 62.0, 63.0],
    "KD": [50.0, 80.0, 70.0, None],
    "AT": [66.0, 40.0, 30.0, 65.0],
}


def searched(folder: Path, dev: Mapping[str, Sequence[float | None]] = DEV) -> Findings:
    """Return what figures are drawn from, with the trials' results by row."""
    changes = {"methods": ["kd", "at"], "tuning": {"trials": 4, "dev_per_class": 3}}
    store, path = Store(folder / "results"), write_suite(folder, "tuned", **changes)

    def plan() -> Plan:
        return build_plan(load(path, METHODS), path, METHODS, store=store)

    for cell in plan().cells:
        if cell.choice is not None:
            for trial, value in zip(cell.choice.trials, dev[cell.label.removesuffix(" (tuned)")], strict=False):
                end(store, trial, value)
    return Findings(results_frame(plan(), store), store, METHODS)


@pytest.fixture(scope="module")
def findings(tmp_path_factory) -> Findings:
    return searched(tmp_path_factory.mktemp("searched"))


@pytest.fixture(scope="module")
def drawn(findings) -> dict[str, Figure]:
    return dict(tuning.draw(findings))


def test_a_tuned_pair_has_a_figure_of_the_best_trials_one_of_ranks_and_one_of_sensitivity(drawn):
    assert list(drawn) == [f"tuning_{what}_{PAIR}" for what in ("best", "ranks", "sensitivity")]


def test_a_panel_has_a_rows_expected_best_of_k_trials_and_its_own_settings_the_best_row_first(drawn):
    axes = drawn[f"tuning_best_{PAIR}"].axes
    assert [axis.get_title() for axis in axes] == ["KD  80.00", "AT  66.00", "none  63.00"]
    plain, own, curve = axes[1].get_lines()
    assert plain.get_ydata() == pytest.approx(expected_best([60.0, 61.0, 62.0, 63.0]))
    assert set(own.get_ydata()) == {66.0}
    assert curve.get_xydata().tolist() == [
        [k, pytest.approx(value)] for k, value in enumerate(expected_best([66.0, 40.0, 30.0, 65.0]), start=1)
    ]


def test_the_best_figure_says_that_a_trial_without_a_result_counts_as_zero(drawn, tmp_path):
    assert "a trial without a result counts as 0 %" in drawn[f"tuning_best_{PAIR}"].get_label()
    figure = next(figure for _, figure in tuning.draw(searched(tmp_path, {**DEV, "KD": DEV["AT"]})))
    assert "without a result" not in figure.get_label()


def test_a_line_joins_a_rows_places_after_k_trials_and_is_named_at_both_ends(drawn):
    axis, *_ = drawn[f"tuning_ranks_{PAIR}"].axes
    assert [line.get_ydata().tolist() for line in axis.get_lines()] == [[3, 1, 1, 1], [2, 3, 2, 2], [1, 2, 3, 3]]
    right, top = axis.child_axes
    first = dict(zip(axis.get_yticks().tolist(), [text.get_text() for text in axis.get_yticklabels()], strict=True))
    assert first == {3: "KD", 2: "AT", 1: "none"}
    assert [text.get_text() for text in right.get_yticklabels()] == ["1 KD", "2 AT", "3 none"]
    assert [text.get_text() for text in top.get_xticklabels()] == ["-1.00", "0.33", "1.00", "1.00"]


def test_rows_that_move_far_have_their_own_colour_and_the_others_are_grey(drawn, findings):
    axis, *_ = drawn[f"tuning_ranks_{PAIR}"].axes
    colours = [line.get_color() for line in axis.get_lines()]
    assert colours == [findings.looks["KD"]["color"], "0.75", findings.looks["none"]["color"]]


def test_dots_are_correlations_of_settings_filled_where_chance_seldom_gives_as_much(findings, tmp_path):
    weights = [trial.settings["weight"] for trial in tuning.searches(findings.frame)[PAIR]["KD"].first_rung]
    falling = [-float(sorted(weights).index(one)) for one in weights]
    dev = {"none": [50.0] * 4, "KD": [50.0 + one for one in falling], "AT": [50.0, 51.0, 50.5, 50.2]}
    figure = dict(tuning.draw(searched(tmp_path, dev)))[f"tuning_sensitivity_{PAIR}"]
    (axis,) = (axis for axis in figure.axes if axis.get_title() == "weight")
    (dots,) = (one for one in axis.collections if len(one.get_facecolors()))
    assert dots.get_offsets().tolist()[0] == [pytest.approx(-1), 0]
    assert [to_hex(colour) == "#ffffff" for colour in dots.get_facecolors()] == [False, True]
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == ["KD", "AT"]


@pytest.mark.parametrize("ended", [0, 1])
def test_before_each_row_has_ended_two_trials_there_is_no_figure(ended, tmp_path):
    dev = {label: values[: ended if label == "AT" else 4] for label, values in DEV.items()}
    assert list(tuning.draw(searched(tmp_path, dev))) == []


def test_a_suite_without_a_search_has_no_such_figure(tmp_path):
    plan = plan_of(tmp_path)
    assert list(tuning.draw(Findings(results_frame(plan, Store(tmp_path)), Store(tmp_path), METHODS))) == []
