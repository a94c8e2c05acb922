"""`score`: metrics of finished runs from their answers, or from their weights, without training."""

import json
import shutil
import sys

import pytest
import torch
from safetensors.torch import load, save

from bench.cli import main
from bench.launch.launcher import Launcher
from bench.launch.score import Scorer
from bench.report.frame import results_frame
from bench.store import ANSWERS, WEIGHTS, Store
from bench.store.documents import CHECKSUM, FILES
from bench.tasks.objectives import ANSWERED, CORRUPTIONS
from tests.few import use_few_digits
from tests.train.conftest import Bench, Silent, cell, document

SCORED = ("scores", "to_teacher", "class_accuracy")
PEERS = {"method": "kd", "weight": 1.0, "task_weight": 1.0, "label": "DML"}


@pytest.fixture(autouse=True)
def few_digits(monkeypatch):
    use_few_digits(monkeypatch)


@pytest.fixture
def suite(tiny, tmp_path):
    """Return a tiny suite that was trained, in a folder of its own."""
    shutil.copytree(tiny.folder, tmp_path, dirs_exist_ok=True)
    return Bench(tmp_path, document())


def score(suite):
    """Score a suite; return its store and the reasons why runs are not scored, by run id."""
    work = suite.work()
    return Store(work.results), {run: one.reason for run, one in Scorer(work).run() if one.reason}


def as_before_answers(store, run):
    """Make a run like one of an earlier version, which left no answers."""
    path = store.folder(run) / "record.json"
    record = json.loads(path.read_text())
    record[FILES].pop(ANSWERS)
    (store.folder(run) / ANSWERS).unlink()
    for name in (*SCORED, CHECKSUM):
        record.pop(name, None)
    path.write_text(json.dumps(record))


def test_runs_without_answers_get_those_that_training_would_have_left(suite):
    plan, store = suite.plan(), Store(suite.folder / "results")
    before = {run: (store.content(run, ANSWERS), store.record(run)) for run in plan.runs}
    for run in plan.runs:
        as_before_answers(store, run)
    store, left = score(suite)
    assert left == {}
    for run, (answers, record) in before.items():
        now = store.record(run)
        assert store.content(run, ANSWERS) == answers
        assert now[FILES] == record[FILES]
        assert now["scores"].items() >= record["scores"].items()
        assert now["class_accuracy"] == record["class_accuracy"]


def test_a_scored_table_has_every_metric_of_every_student_and_of_the_undistilled_one(suite):
    store, _ = score(suite)
    frame = results_frame(suite.plan(), store)
    empty = {(one.label, one.metric) for one in frame.summaries if one.mean is None}
    assert empty == {("teacher", "agreement"), ("teacher", "teacher_kl")}
    assert {one.metric for one in frame.summaries} == {"top1", "top5", *(metric.name for metric in ANSWERED)}


def test_the_undistilled_student_is_compared_with_the_teacher_of_its_pair_before_it_is_scored(suite):
    plan, store = suite.plan(), Store(suite.folder / "results")
    place = (cell(plan, "none").pair, "agreement", "none")
    before = results_frame(plan, store).at(*place).by_seed
    assert before
    assert results_frame(plan, store, reads_answers=False).at(*place).by_seed == {}
    store, _ = score(suite)
    assert results_frame(plan, store, reads_answers=False).at(*place).by_seed == before


def test_what_is_scored_already_is_left_as_it_is(suite, monkeypatch):
    store, _ = score(suite)
    before = {run: (store.folder(run) / "record.json").stat().st_mtime_ns for run in suite.plan().runs}
    monkeypatch.setattr(Scorer, "_networks", lambda *_: pytest.fail("weights are read again"))
    store, left = score(suite)
    assert left == {}
    assert before == {run: (store.folder(run) / "record.json").stat().st_mtime_ns for run in before}


def test_a_run_whose_weights_are_damaged_is_named_and_the_others_are_scored(suite):
    plan, store = suite.plan(), Store(suite.folder / "results")
    run = cell(plan, "KD").runs[0].id
    (store.folder(run) / "student.safetensors").write_bytes(b"torn")
    outcomes = dict(Scorer(suite.work()).run())
    assert [name for name, one in outcomes.items() if one.is_fault] == [run]
    assert "student.safetensors: has changed since the run ended" in outcomes[run].reason
    others = [store.record(name)["scores"] for name in plan.runs if name != run]
    assert all(f"top1_{kind}" in found for found in others for kind in CORRUPTIONS)


def overflow(store, run):
    """Let a run's weights be finite ones with which logits are not."""
    state = load(store.weights(run))
    store.write(run, WEIGHTS, save(state | {"fc.weight": torch.full_like(state["fc.weight"], 3e38)}))
    store.amend(run, {}, [WEIGHTS])


def test_a_run_with_logits_that_are_not_finite_is_named_and_gets_no_answers(suite):
    plan, store = suite.plan(), Store(suite.folder / "results")
    run = cell(plan, "none").runs[0].id
    as_before_answers(store, run)
    overflow(store, run)
    store, left = score(suite)
    assert left == {run: "the logits of the student on the test images are not finite"}
    assert "scores" not in store.record(run)
    assert store.content(run, ANSWERS) is None


def test_corrupted_images_with_logits_that_are_not_finite_are_named_and_left_out(suite):
    plan, store = suite.plan(), Store(suite.folder / "results")
    run = cell(plan, "none").runs[0].id
    before = store.record(run)["scores"]
    overflow(store, run)
    store, left = score(suite)
    assert left.keys() == {run}
    assert "the logits of the student on the test images with JPEG compression are not finite" in left[run]
    assert store.record(run)["scores"] == before


def test_runs_that_are_not_done_are_named_and_are_no_fault(suite):
    plan, store = suite.plan(), Store(suite.folder / "results")
    run = cell(plan, "KD").runs[0].id
    shutil.rmtree(store.folder(run))
    outcomes = dict(Scorer(suite.work()).run())
    assert (outcomes[run].reason, outcomes[run].is_fault) == ("it is waiting", False)


def test_networks_that_teach_each_other_are_compared_with_each_other(tmp_path):
    suite = Bench(tmp_path, document(task="mutual", methods=[PEERS]))
    plan, store, _ = suite.run(only=["DML"])
    run = cell(plan, "DML").runs[0].id
    trained = store.record(run)["scores"]
    as_before_answers(store, run)
    store, _ = score(suite)
    found = store.record(run)["scores"]
    assert found.items() >= trained.items()
    assert found["agreement"] == found["peer_agreement"]
    assert {f"peer_top1_{kind}" for kind in CORRUPTIONS} <= found.keys()
    frame = results_frame(plan, store)
    assert frame.at(cell(plan, "DML").pair, "nll", "DML (teacher)").mean == found["peer_nll"]


def test_several_teachers_answer_together(tmp_path):
    pairs = [{"teachers": {"network": "resnet8", "n": 2}, "student": "resnet8"}]
    suite = Bench(tmp_path, document(pairs=pairs))
    plan, store, _ = suite.run()
    together, student = (cell(plan, label).runs[0].id for label in ("teacher", "KD"))
    assert store.record(together)["scores"]["nll"] > 0
    store, left = score(suite)
    assert left == {}
    assert list(store.record(student)["to_teacher"]) == [together]


def test_probes_are_rebuilt_from_their_network_and_their_weights(suite, tmp_path):
    data = {"name": "digits", "resize": 32, "train_per_class": 5, "augment": "none"}
    training = {"epochs": 1, "batch_size": 16, "milestones": [1]}
    evaluations = [{"data": data, "training": training}, {"data": data, "training": training, "kind": "finetune"}]
    transfer = Bench(
        tmp_path,
        {"title": "transfer", "task": "transfer", "from": {"suite": "tiny"}, "evaluations": evaluations, "workers": 0},
        name="transfer",
    )
    Launcher(transfer.work()).run(Silent())
    plan, store = transfer.plan(), transfer.store()
    probes = [run for one in plan.cells if one.label == "KD" for run in one.runs]
    before = {run.id: store.content(run.id, ANSWERS) for run in probes}
    assert len(before) == 2
    for run in before:
        as_before_answers(store, run)
    store, left = score(transfer)
    assert left == {}
    assert before == {run: store.content(run, ANSWERS) for run in before}


def test_the_command_writes_the_tables_and_says_what_it_could_not_score(suite, monkeypatch, capsys):
    monkeypatch.chdir(suite.folder)
    monkeypatch.setattr("bench.workflow.reported", lambda plan, store, *_: (results_frame(plan, store), []))
    monkeypatch.setattr(sys, "argv", ["run_suite.py", "score", "tiny.yaml", "--device", "cpu"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 0
    assert "Scored: 3 of 3 runs" in capsys.readouterr().out
    run = cell(suite.plan(), "KD").runs[0].id
    (suite.folder / "results/runs" / run / ANSWERS).write_bytes(b"torn")
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 1
    assert f"not scored: run {run}: results/runs/{run}/{ANSWERS}: has changed" in capsys.readouterr().out
