"""A run does not notice the company it keeps: alone, in a cohort, beside lanes that break, it ends the same."""

import pytest

from bench.spec import seed_from
from tests.few import short_or_whole
from tests.train.conftest import ALL, Bench, cell, document, rows, weights

BREAKS = """
import torch
from methods.base import Distiller, register


@register("breaks", weight=1.0)
class Breaks(Distiller):
    def __init__(self, student, teacher, data, *, how: str = "raise"):
        super().__init__(student, teacher, data)
        self.how, self.steps = how, 0
        if how == "build":
            raise RuntimeError("broken from the start")

    def loss(self, student, teacher, batch):
        self.steps += 1
        torch.rand(())  # draws of its own must not shift another lane's
        if self.steps == 3 and self.how == "raise":
            raise RuntimeError("broken on purpose\\nin two lines")
        return student.logits.sum() * (float("nan") if self.steps == 3 and self.how == "nan" else 0.0)
"""


@pytest.fixture
def breaks(tmp_path):
    path = tmp_path / "breaks.py"
    path.write_text(BREAKS)
    return path


@pytest.mark.parametrize("every", [7, pytest.param(1, marks=pytest.mark.slow)])  # each seventh row is trained alone
def test_a_run_alone_and_in_a_cohort_of_fourteen_ends_with_the_same_bits(bench, every):
    suite = bench(methods=ALL)
    plan, together, observer = suite.run("together")
    assert max(map(len, observer.cohorts)) == 14
    for one in plan.cells[::every]:
        if one.label != "teacher":
            _, alone, _ = suite.run(f"alone-{one.method}", only=[one.label], teachers=together)
            assert weights(alone, one.runs[0].id) == weights(together, one.runs[0].id), one.label
            assert rows(alone, one.runs[0].id) == rows(together, one.runs[0].id), one.label


def test_runs_of_one_order_share_a_cohort_whatever_their_initial_weights_and_end_as_alone(bench):
    suite = bench(methods=[{"method": "crd", "n_negatives": 16}], seeds={"init": 2, "order": [3]})
    plan, together, observer = suite.run("together")
    assert max(map(len, observer.cohorts)) == 4
    runs = cell(plan, "CRD n_negatives=16").runs
    _, alone, _ = bench(methods=[{"method": "crd", "n_negatives": 16}], seeds={"init": [2], "order": [3]}).run(
        "alone", only=["CRD n_negatives=16"], teachers=together
    )
    assert weights(alone, runs[1].id) == weights(together, runs[1].id)
    assert weights(together, runs[0].id) != weights(together, runs[1].id)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Return the store of some runs that trained beside none that breaks."""
    methods = ["kd", {"method": "crd", "n_negatives": 16}]
    return Bench(tmp_path_factory.mktemp("undisturbed"), document(methods=methods)).run()[1]


@pytest.mark.parametrize("how", ["raise", "nan", "build"])
def test_lanes_beside_one_that_breaks_go_on_unchanged(bench, breaks, undisturbed, how):
    methods = ["kd", {"method": "breaks", "how": how, "label": "broken"}, {"method": "crd", "n_negatives": 16}]
    suite = bench(methods=methods, plugins=[breaks])
    plan, store, _ = suite.run(teachers=undisturbed)

    failure = store.failure(cell(plan, "broken").runs[0].id)
    assert failure is not None
    assert failure.status == ("diverged" if how == "nan" else "failed")
    assert {"raise": "broken on purpose", "nan": "not finite", "build": "broken from the start"}[how] in failure.reason
    assert "\n" not in failure.reason
    for label in ("none", "KD", "CRD n_negatives=16"):
        run_id = cell(plan, label).runs[0].id
        assert weights(store, run_id) == weights(undisturbed, run_id), label


def test_the_labels_that_a_method_is_told_of_are_its_own(bench, tmp_path, undisturbed):
    code = BREAKS.replace("breaks", "relabels").replace("self.steps += 1", "self.targets.zero_()")
    code = code.replace("self.steps = 0", "self.steps, self.targets = 0, data.targets")
    (tmp_path / "relabels.py").write_text(code)
    plan, store, _ = bench(methods=["relabels", "kd"], plugins=[tmp_path / "relabels.py"]).run(teachers=undisturbed)
    run_id = cell(plan, "KD").runs[0].id
    assert weights(store, run_id) == weights(undisturbed, run_id)


def test_every_method_starts_from_the_same_student_and_sees_the_same_batches(bench, undisturbed):
    suite = bench(methods=[{"method": "kd", "weight": 0.0, "task_weight": 1.0}, {"method": "pkt", "weight": 0.0}])
    plan, store, _ = suite.run(teachers=undisturbed)
    ids = [one.runs[0].id for one in plan.cells if one.label != "teacher"]
    assert len(set(ids)) == 3
    assert len({weights(store, run_id) for run_id in ids}) == 1  # with weight 0, a method has no effect


def test_seeds_differ_in_initialisation_and_batches(bench):
    plan, store, _ = bench(methods=["none"], seeds=2).run(only=["none"])
    first, second = (rows(store, run.id)[0]["loss"] for run in cell(plan, "none").runs)
    assert first != second


def test_a_teacher_is_trained_once_for_all_seeds_and_pairs(bench):
    pairs = [{"teacher": "resnet14", "student": "resnet8"}, {"teacher": "resnet14", "student": "resnet14"}]
    epochs = short_or_whole(1, 2)
    training = {"epochs": epochs, "batch_size": 16, "milestones": [1]}
    plan, _, observer = bench(pairs=pairs, seeds=2, training=training).run()
    teachers = {run.id for one in plan.cells if one.label == "teacher" for run in one.runs}
    assert len(teachers) == 1
    assert observer.epochs[teachers.pop()] == epochs


def test_several_terms_of_one_lane_draw_from_adapters_of_their_own(bench, undisturbed):
    terms = [{"terms": ["cc", {"method": "crd", "n_negatives": 16}], "label": "CC+CRD"}]
    plan, store, _ = bench(methods=terms).run(only=["CC+CRD"], teachers=undisturbed)
    last = rows(store, cell(plan, "CC+CRD").runs[0].id)[-1]
    assert {"term0_cc", "term1_crd"} <= last.keys()


def test_seeds_are_told_apart_by_every_part_and_their_order():
    assert len({seed_from("a", "bc"), seed_from("ab", "c"), seed_from("bc", "a"), seed_from("a", "b", "c")}) == 4
