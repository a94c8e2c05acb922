"""The status of finished runs after something has changed: nothing stale passes for fresh."""

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from bench.plan import Plan, build_plan, run_status
from bench.plan.status import to_train_again
from bench.report.frame import results_frame
from bench.store import WEIGHTS, Store
from bench.suite import load
from methods import catalog
from tests.stores import SUITE, cell_of, plan_of, write_suite

PULL = '''"""Pull: matches logits."""
from methods.base import Distiller, register


@register("pull", weight=1.0)
class Pull(Distiller):
    def loss(self, student, teacher, batch):
        return (student.logits - teacher.logits).square().mean()
'''
METRICS = {"metrics": {"top1": 70.0, "top5": 99.0}, "best": None, "epochs": 0}


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "results")


def pull_plan(folder: Path, source: str = PULL) -> Plan:
    """Return the plan of a suite with a method of one's own."""
    (folder / "pull.py").write_text(source)
    path, known = write_suite(folder, methods=["pull", "kd"], seeds=2), catalog([folder / "pull.py"])
    return build_plan(load(path, known), path, known)


def finish_as_now(store: Store, plan: Plan) -> None:
    """Finish every run with the present code, and with weights that say which run they are of."""
    for run in plan.runs.values():
        store.begin(run)
        store.write(run.id, WEIGHTS, run.id.encode())
        hashes = {term.method: plan.code[term.method].sha256 for term in run.terms}
        teachers = {name: store.weights_sha256(name) for name in run.teachers}
        store.finish(run.id, METRICS | {"methods_sha256": hashes, "teachers_sha256": teachers})


def stale(plan: Plan, store: Store) -> set[str]:
    """Return the labels of the rows with a stale run."""
    rows = {run.id: cell.label for cell in plan.cells for run in cell.runs}
    return {rows[run.id] for run in plan.runs.values() if run_status(run, plan, store)[0] == "stale"}


def test_without_a_change_every_run_is_done(tmp_path, store):
    plan = pull_plan(tmp_path)
    finish_as_now(store, plan)
    assert {run_status(run, plan, store) for run in plan.runs.values()} == {("done", "")}


@pytest.mark.parametrize(
    ("edit", "rows"),
    [
        (("logits -", "logits +"), {"Pull"}),
        (("matches logits", "matches the teacher's logits"), set()),
        (("        return", "        # why\n        return"), set()),
    ],
    ids=["code", "docstring", "comment"],
)
def test_a_changed_method_makes_its_rows_stale_and_nothing_else(edit, rows, tmp_path, store):
    finish_as_now(store, pull_plan(tmp_path))
    plan = pull_plan(tmp_path, PULL.replace(*edit))
    assert stale(plan, store) == rows


def test_a_stale_row_has_no_number_and_its_reason_names_the_file(tmp_path, store):
    finish_as_now(store, pull_plan(tmp_path))
    plan = pull_plan(tmp_path, PULL.replace("mean()", "sum()"))
    frame = results_frame(plan, store)
    one = frame.at("resnet14->resnet8", "top1", "Pull")
    assert (one.status, one.n, one.mean, one.best_mean) == ("stale", 0, None, None)
    assert one.reason.startswith("pull.py has changed since: the next run trains it again")
    assert not {run.id for run in one.cell.runs} & (frame.records.keys() | {run.id for run in frame.shown_runs})


def test_a_method_of_ones_own_trains_again_by_itself_but_not_one_of_the_project(tmp_path, store):
    finish_as_now(store, pull_plan(tmp_path))
    plan = pull_plan(tmp_path, PULL.replace("mean()", "sum()"))
    other = {"kd": replace(plan.code["kd"], sha256="0" * 64, path=tmp_path / "pull.py")}
    plan = replace(plan, code={**plan.code, **other})
    runs, labels = list(plan.runs.values()), {run.id: cell.label for cell in plan.cells for run in cell.runs}
    assert stale(plan, store) == {"Pull", "KD"}
    assert {labels[run_id] for run_id in to_train_again(runs, plan, store)} == {"Pull"}
    assert {labels[run_id] for run_id in to_train_again(runs, plan, store, everything=True)} == {"Pull", "KD"}


def test_a_teacher_that_was_trained_again_makes_its_students_stale(tmp_path, store):
    plan = plan_of(tmp_path)
    finish_as_now(store, plan)
    teacher, student = cell_of(plan, "teacher").runs[0], cell_of(plan, "KD").runs[0]
    store.write(teacher.id, WEIGHTS, b"others")
    store.finish(teacher.id, METRICS)
    assert stale(plan, store) == {"KD"}
    assert f"the weights of run {teacher.id}, which it needs, have changed" in run_status(student, plan, store)[1]
    assert to_train_again(plan.runs.values(), plan, store) == []
    assert to_train_again(plan.runs.values(), plan, store, everything=True) == [student.id]


def test_records_that_name_no_code_and_no_weights_are_not_stale(tmp_path, store):
    plan = plan_of(tmp_path)
    for run in plan.runs.values():
        store.begin(run)
        store.finish(run.id, METRICS)
    assert stale(plan, store) == set()


def test_what_needs_a_stale_run_is_stale_and_trains_again_with_it(tmp_path, store):
    (tmp_path / "pull.py").write_text(PULL)
    write_suite(tmp_path, "first", methods=["pull"])
    second = {"task": "transfer", "from": {"suite": "first"}, "evaluations": [{"data": SUITE["data"]}]}
    path = write_suite(tmp_path, "second", yaml.safe_dump({"title": "Another", **second}))
    known = catalog([tmp_path / "pull.py"])
    finish_as_now(store, build_plan(load(path, known), path, known))
    (tmp_path / "pull.py").write_text(PULL.replace("mean()", "sum()"))
    known = catalog([tmp_path / "pull.py"])
    plan = build_plan(load(path, known), path, known)
    trained = [run for run in plan.runs.values() if run.terms]
    probes = [run for run in plan.runs.values() if run.source in {run.id for run in trained}]
    assert [run_status(run, plan, store)[0] for run in (*trained, *probes)] == ["stale", "stale"]
    again = to_train_again(plan.runs.values(), plan, store)
    assert set(again) == {trained[0].id, probes[0].id}
    assert {run_status(run, plan, store, again)[0] for run in (*trained, *probes)} == {"waiting"}
