"""What `cost` measures, and what it writes."""

import csv
import sys
from functools import partial

import pytest
import torch
import yaml
from torch import nn

from bench.cli import main
from bench.cost import Stopwatch, measure, peak_bytes, stand_in
from bench.lane import MAIN
from bench.train import teacher_features
from tests.train.conftest import ALL, document


@pytest.fixture
def answered(tmp_path, monkeypatch, capsys):
    """Return the rows of cost.csv, the text printed and the results' folder of a small suite."""
    path, results = tmp_path / "tiny.yaml", tmp_path / "results"
    pairs = [{"teacher": "resnet14", "student": "resnet8"}, {"teacher": "wrn_16_2", "student": "resnet8"}]
    path.write_text(yaml.safe_dump(document(methods=ALL, pairs=pairs)))
    monkeypatch.setattr(sys, "argv", ["run_suite.py", "cost", str(path), "--results", str(results), "--steps", "1"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 0
    with (results / "tiny" / "cost.csv").open() as file:
        return list(csv.DictReader(file)), capsys.readouterr().out, results


def test_every_row_and_stage_is_measured_and_what_cannot_serve_a_pair_is_left_out(answered):
    rows, printed, results = answered
    first = [(row["label"], row["stage"]) for row in rows if row["pair"] == "resnet14->resnet8"]
    assert len(first) == len(ALL) + 1 + 3
    assert {label for label, stage in first if stage == "initial"} == {"AB", "FT", "FSP"}
    second = {row["label"] for row in rows if row["pair"] == "wrn_16_2->resnet8"}
    assert {label for label, _ in first} - second == {"FSP"}  # unequal channels
    assert "CRD n_negatives=64" in printed
    assert sorted(path.name for path in (results / "tiny").rglob("*") if path.is_file()) == [
        "cost.csv",
        "cost.pdf",
        "cost.png",
    ]
    assert not (results / "runs").exists()


def test_the_phases_make_up_the_step_and_the_own_share_is_beyond_the_undistilled_one(answered):
    rows, _, _ = answered
    plain = float(rows[0]["step_ms"])
    for row in rows[:17]:
        step = float(row["step_ms"])
        assert step == pytest.approx(
            sum(float(row[f"{p}_ms"]) for p in ("student", "term", "backward", "optimizer")), abs=0.01
        )
        beyond = 0 if (row["label"], row["stage"]) == ("FT", "initial") else plain
        assert float(row["own_percent"]) == pytest.approx(100 * (step - beyond) / plain, abs=0.1)


def test_extra_parameters_and_arithmetic_are_counted_exactly(cohort):
    lanes, data, teachers, _ = cohort(training={"epochs": 1, "batch_size": 16, "initial_epochs": 0})
    none, crd = measure([lanes["none"], lanes["CRD"]], teachers, data, steps=1)
    assert (none["extra_parameters"], crd["extra_parameters"]) == (0, 2 * (64 * 128 + 128))
    convolutions = [
        (3, 16, 32), *[(16, 16, 32)] * 2, (16, 32, 16), (32, 32, 16), (32, 64, 8), (64, 64, 8),
    ]  # fmt: skip
    forward = sum(2 * 16 * 9 * a * b * size**2 for a, b, size in convolutions)
    forward += sum(2 * 16 * a * b * size**2 for a, b, size in [(16, 32, 16), (32, 64, 8)]) + 2 * 16 * 64 * 10
    first = 2 * 16 * 9 * 3 * 16 * 32**2  # images need no gradient
    assert none["step_gflop"] == pytest.approx((3 * forward - first) / 1e9)


def test_the_peak_holds_the_largest_tensors_of_a_step(cohort):
    lanes, data, teachers, _ = cohort(methods=["kd"], training={"epochs": 1, "batch_size": 16, "initial_epochs": 0})
    lane = lanes["KD"]
    batch = next(iter(data.epoch(1, MAIN, 1, 16)))
    features = teacher_features(teachers, [lane], batch.images)
    lane.begin_epoch()
    step = partial(lane.step, batch, features, 0)
    step()  # momentum is there from then on
    small = peak_bytes(step, lane.device)
    loss = lane.terms[0].distiller.loss

    def wasteful(*arguments):
        torch.ones(10_000_000)
        return loss(*arguments)

    lane.terms[0].distiller.loss = wasteful
    assert peak_bytes(step, lane.device) > small + 20_000_000


def test_a_stand_in_teachers_maps_stay_finite_however_deep_it_is(cohort):
    lanes, data, _, _ = cohort(methods=["kd"])
    network = lanes["none"].spec.student.model_copy(update={"network": "resnet110"})
    teacher = stand_in(network, data)
    with torch.no_grad():
        features = teacher.network.features(next(iter(data.epoch(1, MAIN, 1, 16))).images)
    assert all(bool(stage.isfinite().all()) and float(stage.std()) < 1e3 for stage in features.stages)
    assert not any(isinstance(m, nn.BatchNorm2d) and m.training for m in teacher.network.modules())


def test_a_stopwatch_gives_the_median_after_the_warm_up():
    watch = Stopwatch(torch.device("cpu"))
    watch.times["term"] = [100.0, 100.0, 1.0, 9.0, 2.0]
    assert watch.read() == {"term": 2.0}
