"""What `cost` measures, and what it writes."""

import csv
import gc
import io
import json
import sys
from contextlib import redirect_stdout
from functools import partial

import pytest
import torch
import typer
import yaml
from torch import nn

from bench.cli import main
from bench.cost.measure import Stopwatch, measure, peak_bytes
from bench.cost.rows import Cost, write
from bench.figures.write import write_cost
from bench.store import Store
from bench.train.epoch import teacher_features
from bench.train.learner import MAIN
from bench.train.rehearsal import stand_in
from benchmarks.__main__ import main as benchmark
from benchmarks.memory import resident_peak
from tests.few import short_or_whole
from tests.train.conftest import ALL, document

# those with an initial stage, and the one that owns the most
METHODS = short_or_whole(["kd", "ab", "ft", "fsp", ALL[-1]], ALL)


def run_cost(folder, patch, *arguments, **changes):
    """Measure a small suite; return the exit status and the rows of cost.csv."""
    path, table = folder / "tiny.yaml", folder / "results" / "tiny" / "cost.csv"
    path.write_text(yaml.safe_dump(document(**changes)))
    fixed = ["run_suite.py", "cost", str(path), "--results", str(folder / "results"), "--steps", "1"]
    patch.setattr(sys, "argv", [*fixed, *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        main()
    return end.value.code, list(csv.DictReader(table.read_text().splitlines())) if table.exists() else []


@pytest.fixture
def ask(tmp_path, monkeypatch, capsys):
    """Return a way to measure a small suite: its exit status, the rows of cost.csv and the texts printed."""
    return lambda *arguments, **changes: (
        *run_cost(tmp_path, monkeypatch, *arguments, **changes),
        capsys.readouterr(),
    )


@pytest.fixture(scope="module")
def answered(tmp_path_factory):
    """Return the rows of cost.csv, the text printed and the results' folder of a small suite."""
    folder = tmp_path_factory.mktemp("answered")
    pairs = [{"teacher": "resnet14", "student": "resnet8"}, {"teacher": "wrn_16_2", "student": "resnet8"}]
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()) as printed:
        code, rows = run_cost(folder, patch, methods=METHODS, pairs=pairs)
    assert code == 0
    return rows, printed.getvalue(), folder / "results"


def test_every_row_and_stage_is_measured_and_what_cannot_serve_a_pair_is_left_out(answered):
    rows, printed, results = answered
    first = [(row["label"], row["stage"]) for row in rows if row["pair"] == "resnet14->resnet8"]
    assert len(first) == len(METHODS) + 1 + 3
    assert {label for label, stage in first if stage == "initial"} == {"AB", "FT", "FSP"}
    second = {row["label"] for row in rows if row["pair"] == "wrn_16_2->resnet8"}
    assert {label for label, _ in first} - second == {"FSP"}  # unequal channels
    assert "CRD n_negatives=64" in printed
    assert "\nFSP: inapplicable: " in printed
    assert sorted(path.name for path in (results / "tiny").rglob("*") if path.is_file()) == [
        "cost.csv",
        "cost.pdf",
        "cost.svg",
    ]
    assert not (results / "runs").exists()


def test_the_phases_make_up_the_step_and_the_own_share_is_beyond_the_undistilled_one(answered):
    rows, _, _ = answered
    plain = float(rows[0]["step_ms"])
    for row in rows[: len(METHODS) + 1 + 3]:
        step = float(row["step_ms"])
        assert step == pytest.approx(
            sum(float(row[f"{p}_ms"]) for p in ("student", "term", "backward", "optimizer")), abs=0.01
        )
        beyond = 0 if (row["label"], row["stage"]) == ("FT", "initial") else plain
        assert float(row["own_percent"]) == pytest.approx(100 * (step - beyond) / plain, abs=0.1)


def test_extra_parameters_and_arithmetic_are_counted_exactly(cohort_of_50):
    lanes, data, teachers, _ = cohort_of_50(training={"epochs": 1, "batch_size": 16, "initial_epochs": 0})
    none, crd = measure([lanes["none"], lanes["CRD"]], teachers, data, steps=1)
    assert (none["extra_parameters"], crd["extra_parameters"]) == (0, 2 * (64 * 128 + 128))
    convolutions = [
        (3, 16, 32), *[(16, 16, 32)] * 2, (16, 32, 16), (32, 32, 16), (32, 64, 8), (64, 64, 8),
    ]  # fmt: skip
    forward = sum(2 * 16 * 9 * a * b * size**2 for a, b, size in convolutions)
    forward += sum(2 * 16 * a * b * size**2 for a, b, size in [(16, 32, 16), (32, 64, 8)]) + 2 * 16 * 64 * 10
    first = 2 * 16 * 9 * 3 * 16 * 32**2  # images need no gradient
    assert none["step_gflop"] == pytest.approx((3 * forward - first) / 1e9)


def test_the_layers_that_simkd_adds_to_its_student_are_extra_parameters(cohort):
    lanes, data, teachers, _ = cohort(methods=["simkd"], training={"epochs": 1, "batch_size": 16})
    none, simkd = measure([lanes["none"], lanes["SimKD"]], teachers, data, steps=1)
    projector = 64 * 32 + 9 * 32 * 32 + 32 * 64 + 2 * (32 + 32 + 64)
    assert simkd["extra_parameters"] == projector + 64 * 10 + 10
    assert simkd["step_gflop"] > none["step_gflop"]


def test_the_peak_holds_the_largest_tensors_of_a_step(cohort):
    lanes, data, teachers, _ = cohort(methods=["kd"], training={"epochs": 1, "batch_size": 16, "initial_epochs": 0})
    lane = lanes["KD"]
    batch = next(iter(data.epoch(1, MAIN, 1, 16)))
    features = teacher_features(teachers, [lane], batch)
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
    images = next(iter(data.epoch(1, MAIN, 1, 16))).images
    teacher = stand_in(network, data.spec, images, seed=0)
    with torch.no_grad():
        features = teacher.network.features(images)
    assert all(bool(stage.isfinite().all()) and float(stage.std()) < 1e3 for stage in features.stages)
    assert not any(isinstance(m, nn.BatchNorm2d) and m.training for m in teacher.network.modules())


def test_a_stopwatch_gives_the_median_after_the_warm_up():
    watch = Stopwatch(torch.device("cpu"))
    watch.times["term"] = [100.0, 100.0, 1.0, 9.0, 2.0]
    assert watch.read() == {"term_ms": 2.0}


BROKEN = """
from methods.base import Distiller, register

@register("broken", weight=1.0)
class Broken(Distiller):
    def loss(self, student, teacher, batch):
        raise ValueError("out of luck")
"""


def test_a_row_that_raises_costs_itself_alone(ask, tmp_path):
    (tmp_path / "broken.py").write_text(BROKEN)
    code, rows, printed = ask("--plugin", tmp_path / "broken.py", methods=["broken", "kd"])
    assert code == 1
    assert [row["label"] for row in rows] == ["none", "KD"]
    assert "\nBroken: failed: ValueError: out of luck" in printed.out


def test_what_does_not_fit_any_pair_is_found_before_a_step_is_measured(ask):
    wrong = {"network": "resnet8", "stages": ["layer1"]}
    pairs = [{"teacher": "resnet14", "student": "resnet8"}, {"teacher": "resnet14", "student": wrong}]
    code, rows, printed = ask(pairs=pairs)
    assert (code, rows, printed.out) == (2, [], "")


def test_where_no_teacher_runs_its_time_is_a_dash(ask):
    code, (row,), printed = ask("--only", "none")
    assert (code, row["teacher_ms"]) == (0, "")
    assert "teacher — ms" in printed.out


def test_no_checkpoint_is_read(ask, tmp_path):
    sources = tmp_path / "results" / "tiny" / "sources.json"
    sources.parent.mkdir(parents=True)
    sources.write_text(json.dumps({"checkpoint gone.pth": "0" * 64}))
    code, rows, _ = ask(pairs=[{"teacher": {"network": "resnet14", "checkpoint": "gone.pth"}, "student": "resnet8"}])
    assert (code, len(rows)) == (0, 2)


def test_without_initial_epochs_no_initial_stage_is_measured(ask):
    _, rows, _ = ask("--set", "training.initial_epochs=0", methods=["ab"])
    assert [(row["label"], row["stage"]) for row in rows] == [("none", "main"), ("AB", "main")]


def test_titles_and_labels_are_drawn_as_they_are_written_each_row_with_a_bar_of_its_own(bench, tmp_path, monkeypatch):
    from matplotlib.axes import Axes

    places, barh = set(), Axes.barh
    monkeypatch.setattr(Axes, "barh", lambda axis, y, *a, **k: places.update(y) or barh(axis, y, *a, **k))
    rows = [("AB", "main"), ("AB", "initial"), ("AB (initial)", "main"), (r"$\foo$", "main")]
    found = [Cost("resnet14->resnet8", label, stage, *[1.0] * 9, 0, 1.0) for label, stage in rows]
    plan, store = bench(title=r"$\bar$").plan(), Store(tmp_path)
    assert write(plan, store, found).name == "cost.csv"
    assert [file.name for file in write_cost(plan, store)] == ["cost.pdf", "cost.svg"]
    assert len(places) == 4


def test_the_table_stands_even_if_the_chart_cannot_be_drawn(ask, tmp_path, caplog):
    figures = tmp_path / "results" / "tiny" / "figures"
    figures.parent.mkdir(parents=True)
    figures.touch()  # a file in the folder's place
    code, rows, _ = ask("--only", "none")
    assert (code, len(rows)) == (1, 1)
    assert "cost.pdf: cannot be written" in caplog.text


def test_rows_that_were_measured_earlier_stay(bench, tmp_path):
    plan, store = bench(methods=["kd", "at"]).plan(), Store(tmp_path)
    for label, own_percent in (("AT", -1.5), ("KD", 2.0), ("AT", None)):
        path = write(plan, store, [Cost("resnet14->resnet8", label, "main", *[1.0] * 7, own_percent, 1.0, 7, 1.0)])
    with path.open(encoding="utf-8") as file:
        rows = [(row["label"], row["own_percent"], row["extra_parameters"]) for row in csv.DictReader(file)]
    assert rows == [("KD", "2.0", "7"), ("AT", "", "7")]


def test_rows_of_another_setting_go(bench, tmp_path):
    plan, store = bench(methods=["kd", "at"]).plan(), Store(tmp_path)
    for label, setting in (("AT", "cpu; 1 threads"), ("KD", "cpu; 2 threads"), ("none", "cpu; 2 threads")):
        path = write(plan, store, [Cost("resnet14->resnet8", label, "main", *[1.0] * 9, 7, 1.0, setting)])
    with path.open(encoding="utf-8") as file:
        assert [row["label"] for row in csv.DictReader(file)] == ["none", "KD"]


# the benchmark


def test_the_benchmark_names_an_unknown_part(capsys):
    with pytest.raises(typer.Exit) as end:
        benchmark(only="memory,foo")
    assert end.value.exit_code == 2
    assert "unknown part foo. Known: naive, " in capsys.readouterr().err


def test_resident_memory_rises_by_what_a_step_touches():
    gc.collect()  # or what tests before left behind goes meanwhile, and takes the rise away
    kept = []  # still there when the step ends: a sampling thread may get no turn on a busy machine
    # three attempts: a system that is short of memory may take other pages away at the same time
    peaks = [resident_peak(lambda: kept.append(torch.ones(16_000_000))) for _ in range(3)]
    assert any(60e6 < peak < 120e6 for peak in peaks)


def test_two_networks_that_train_together_are_one_row_with_the_arithmetic_of_both(ask):
    pairs = [{"teacher": "resnet14", "student": "resnet8"}, {"teacher": "resnet8", "student": "resnet14"}]
    code, rows, _ = ask(task="mutual", methods=["kd"], pairs=pairs)
    assert code == 0
    assert [row["label"] for row in rows] == ["none", "KD"] * 2
    shallow, together, deep, mirrored = (float(row["step_gflop"]) for row in rows)
    assert together == mirrored == pytest.approx(shallow + deep, abs=2e-3)


def test_of_a_suite_that_evaluates_networks_their_training_is_measured(ask):
    patches = {"name": "photo_patches", "train_per_class": 4}
    code, rows, printed = ask(
        task="cross_modal",
        data=patches | {"view": "chrominance", "resize": 40},
        teacher_data=patches | {"view": "luminance"},
        methods=["at", {"method": "crd", "negatives": "other_sample", "n_negatives": 8, "label": "CRD"}],
        evaluations=[{"data": patches, "stages": [0, 1]}],
    )
    assert code == 0, printed.err
    assert [row["label"] for row in rows] == ["AT", "CRD"]  # `none` keeps its initial weights
    assert float(rows[1]["extra_parameters"]) == 2 * (64 + 1) * 128
    assert all(float(row["teacher_ms"]) > 0 for row in rows)
