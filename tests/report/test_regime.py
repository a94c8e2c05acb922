"""The line under a table that says whether its pairs are those that distillation was made for."""

import math
from collections.abc import Sequence
from pathlib import Path

import pytest

from bench.report.frame import Frame, results_frame
from bench.report.latex import to_latex
from bench.report.markdown import to_markdown
from bench.report.regime import last_fall, regime_line, regimes
from bench.store import Store
from tests.stores import cell_of, finish, plan_of

CURVE = [2.0, 1.0, 0.6, 0.5, 0.5, 0.5]  # of a training loss that has stopped falling
TOP1 = {"teacher": [90.0], "none": [80.0, 81.0, 82.0], "KD": [83.0, 84.5, 85.0], "AT": [82.0, 82.0, 83.0]}


def frame_of(folder: Path, losses: Sequence[float] = CURVE, train: float = 85.0, **top1: Sequence[float]) -> Frame:
    """Return results whose undistilled students have a curve of losses, and end with a training accuracy."""
    training = {"epochs": len(losses), "batch_size": 16}
    plan = plan_of(folder, methods=["kd", "at"], seeds=3, training=training)
    store = Store(folder / "results")
    for label, values in (TOP1 | top1).items():
        cell = cell_of(plan, label)
        for run in cell.runs if label == "none" else ():
            store.begin(run)
            epochs = enumerate(losses, start=1)
            rows = [{"stage": "main", "epoch": n, "loss": loss, "ce": loss, "train_top1": train} for n, loss in epochs]
            store.write_epochs(run.id, rows)
        finish(store, cell, values)
    return results_frame(plan, store)


def test_a_regimes_facts_are_those_of_the_stored_curves(tmp_path):
    frame = frame_of(tmp_path)
    (found,) = regimes(frame)
    variance = next(iter(frame.models.values())).variances["none"]
    assert (found.gap, found.ahead, found.last_fall) == pytest.approx((9.0, 4.0, 0.0))
    assert found.spreads == pytest.approx(9 / math.sqrt(variance))
    assert found.steps == 6 * 3  # 40 images in batches of 16


def test_the_line_stands_under_the_tables_and_names_no_fault_of_a_pair_within_the_regime(tmp_path):
    frame = frame_of(tmp_path)
    line = regime_line(frame)
    assert line.startswith("Regime: the teacher is 9.0 points above none, ")
    assert line.endswith(
        " times the noise over seeds. In training, none is 4.0 points better than on test images. Training none takes "
        "18 steps. In the last tenth of the epochs, the training loss falls by 0.0 % of its whole fall; up to 1 % "
        "counts as converged."
    )
    markdown = to_markdown(frame)
    assert markdown.index("| AT |") < markdown.index("Regime: ") < markdown.index("## Last epoch")
    assert "Regime: the teacher is 9.0 points above none" in to_latex(frame)


def test_facts_below_zero_are_told_in_words_and_one_step_in_the_singular(tmp_path):
    rising = {"losses": [2.0, 1.0, 0.6, 0.5, 0.5, 0.6], "train": 79.0, "teacher": [70.0]}
    line = regime_line(frame_of(tmp_path, **rising))
    assert line.startswith("Regime: the teacher is 11.0 points below none, ")
    assert "In training, none is 2.0 points worse than on test images." in line
    assert "the training loss rises by 1.8 % of" in line  # 0.05 an epoch, half an epoch of 1.4
    plain = results_frame(
        plan_of(tmp_path, data={"name": "digits", "resize": 32, "train_per_class": 1}), Store(tmp_path)
    )
    finish(plain.store, cell_of(plain.plan, "none"), [80.0])
    assert regime_line(results_frame(plain.plan, plain.store)) == "Regime: training none takes 1 step."


def test_several_pairs_have_the_lowest_and_the_highest_value(tmp_path):
    pairs = [{"teacher": teacher, "student": "resnet8"} for teacher in ("resnet14", "resnet20")]
    plan, store = plan_of(tmp_path, pairs=pairs), Store(tmp_path / "results")
    for cell in plan.cells:
        if cell.label != "KD":
            value = 80.0 if cell.label == "none" else 85.0 if cell.teacher == "resnet14" else 77.5
            finish(store, cell, [value])
    line = regime_line(results_frame(plan, store))
    assert line.startswith(
        "Regime: the teacher is 2.5 points below to 5.0 points above none. Training none takes 1 step."
    )
    assert line.endswith(": the teacher is not 2 spreads above none, so its lead may be chance (resnet20->resnet8).")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"teacher": [81.1]}, "the teacher is not 2 spreads above none"),
        ({"teacher": [70.0]}, "the teacher is not 2 spreads above none"),
        ({"train": 79.0}, "none is worse in training than on test images"),
        ({"losses": [1.0] * 6}, "the training loss of none has not fallen"),
        ({"losses": [2.0, 1.8, 1.6, 1.4, 1.2, 1.0]}, "none still learns when its training ends"),
    ],
    ids=str,
)
def test_a_pair_outside_the_regime_is_told_in_words(changes, said, tmp_path):
    assert f"Outside the regime that distillation was made for: {said}" in regime_line(frame_of(tmp_path, **changes))


@pytest.mark.parametrize("epochs", [12, 101])
def test_the_last_fall_of_a_straight_line_is_a_tenth_however_many_epochs_there_are(epochs):
    assert last_fall([100.0 - epoch for epoch in range(epochs)]) == pytest.approx(0.1)


def test_a_loss_that_has_not_fallen_has_not_converged():
    assert last_fall([1.0] * 10) == math.inf


def test_few_epochs_do_not_tell_whether_training_has_converged():
    assert last_fall([3.0, 2.0, 1.0, 1.0, 1.0]) is None


def test_without_results_of_the_student_there_is_no_line(tmp_path):
    assert regime_line(results_frame(plan_of(tmp_path), Store(tmp_path / "results"))) == ""
