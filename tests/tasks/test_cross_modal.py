"""Students that see another modality than their teachers, and no labels."""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from bench.launch.preparation import unserved
from bench.plan import Plan, build_plan
from bench.plan.repeat import ENTRY, suite_files
from bench.spec import RunSpec
from bench.suite import load
from bench.train.networks import backbone_data, build_network
from bench.types import RequestError
from methods import catalog
from tests.train.conftest import Bench, document, rows, weights

SUITES = Path(__file__).parents[2] / "suites"
AS_THEY_ARE = {"mean": [0.4] * 3, "std": [0.2] * 3}
TRAINING = {"epochs": 1, "batch_size": 8, "milestones": [1], "initial_epochs": 1}


@pytest.fixture
def pictures(tmp_path):
    """Return data of 8 training and 4 test pictures of each of 3 classes, which differ in their colours."""
    chance = np.random.default_rng(0)
    for label, colour in enumerate(np.eye(3)):
        for split, count in (("train", 8), ("test", 4)):
            folder = tmp_path / "pictures" / split / f"class{label}"
            folder.mkdir(parents=True)
            for number in range(count):
                picture = chance.integers(0, 128, (32, 32, 3)) + 100 * colour
                Image.fromarray(picture.astype(np.uint8)).save(folder / f"{number}.png")
    return {"name": "imagefolder", "path": "pictures", "augment": "none"}


@pytest.fixture
def cross_modal(tmp_path, pictures):
    """Return a way to make a suite whose teachers see luminance and whose students see chrominance."""

    def make(**changes: object) -> Bench:
        suite = document(
            task="cross_modal",
            data=pictures | {"view": "chrominance"},
            teacher_data=pictures | {"view": "luminance"},
            methods=["at", {"method": "crd", "negatives": "other_sample", "n_negatives": 8, "label": "CRD"}],
            training=TRAINING,
            evaluations=[{"data": pictures | AS_THEY_ARE, "stages": [3], "training": TRAINING}],
        )
        return Bench(tmp_path, {key: value for key, value in (suite | changes).items() if value is not None})

    return make


def evaluated(plan: Plan, label: str) -> RunSpec:
    return next(cell for cell in plan.cells if cell.label == label).runs[0]


def test_a_student_learns_in_its_view_from_its_teacher_alone(cross_modal):
    plan, store, observer = cross_modal().run()
    student = plan.trained(evaluated(plan, "CRD"))
    assert student.data.view == "chrominance"
    assert student.data.channels == 2
    assert plan.runs[student.teachers[0]].data.view == "luminance"
    assert observer.epochs[student.id] == 1
    (row,) = rows(store, student.id)
    assert row["loss"] == pytest.approx(0.8 * row["term0_crd"])
    assert not row.keys() & {"ce", "train_top1", "top1"}
    assert store.record(student.id)["metrics"] == {}
    assert store.record(evaluated(plan, "CRD").id)["metrics"].keys() == {"top1", "top5"}


def test_a_student_without_a_teacher_is_evaluated_with_its_initial_weights(cross_modal):
    plan, store, observer = cross_modal().run(only=["none"])
    run = evaluated(plan, "none")
    assert list(observer.epochs) == [run.id]
    assert run.source is None
    probe = load_file(store.folder(run.id) / "student.safetensors")
    assert probe.keys() == {"classifier.weight", "classifier.bias"}
    started = build_network(run.student, backbone_data(run), run.seed)
    distilled = build_network(run.student, plan.trained(evaluated(plan, "AT")).data, run.seed)
    assert all(torch.equal(one, other) for one, other in zip(started.parameters(), distilled.parameters(), strict=True))


def test_untrained_students_that_are_evaluated_together_each_read_their_own_network(cross_modal):
    pairs = [{"teacher": "resnet14", "student": name} for name in ("resnet8", "resnet14")]
    plan, store, observer = cross_modal(pairs=pairs).run(only=["none"])
    ids = [cell.runs[0].id for cell in plan.cells if cell.label == "none"]
    assert observer.cohorts == [ids]
    _, alone, _ = cross_modal(pairs=pairs[1:]).run("alone", only=["none"])
    assert weights(alone, ids[1]) == weights(store, ids[1])


def test_the_teacher_is_evaluated_in_its_own_view(cross_modal):
    plan = cross_modal().plan()
    assert evaluated(plan, "teacher").data.view == "luminance"
    assert evaluated(plan, "AT").data.view == "chrominance"
    assert evaluated(plan, "teacher").source == plan.trained(evaluated(plan, "AT")).teachers[0]


def test_weights_that_are_given_are_not_evaluated_unless_an_accuracy_is_stated(cross_modal, tmp_path, pictures):
    plan, store, _ = cross_modal().run(only=["teacher"])
    source = evaluated(plan, "teacher").source
    (tmp_path / "teacher.safetensors").write_bytes(weights(store, source))
    elsewhere = pictures | {"view": "luminance"}
    given = {"network": "resnet14", "checkpoint": "teacher.safetensors"}
    suite = cross_modal(pairs=[{"teacher": given, "student": "resnet8"}], teacher_data=elsewhere)
    plan, store, observer = suite.run("given", only=["AT"])
    teacher = plan.trained(evaluated(plan, "AT")).teachers[0]
    assert store.record(teacher)["metrics"] == {}
    assert teacher not in observer.epochs
    stated = given | {"accuracy": 1.0}
    suite = cross_modal(pairs=[{"teacher": stated, "student": "resnet8"}])
    with pytest.raises(RequestError, match=r"on the test split, but the suite says 1\.0 %"):
        suite.run("stated", only=["AT"])


def test_a_method_that_reads_a_second_view_is_inapplicable(cross_modal):
    suite = cross_modal(methods=["mlld"])
    plan = suite.plan()
    reasons = unserved(plan, plan.runs.values(), suite.methods)
    assert set(reasons.values()) == {"mlld needs a second view of each image, which other modalities do not have"}


@pytest.mark.parametrize("suite", ["luminance_chrominance", "rgb_depth", "small/motorcycle_rgb_disparity"])
def test_what_show_says_to_repeat_a_student_plans_that_student(suite, tmp_path):
    path, methods = SUITES / f"{suite}.yaml", catalog()
    plan = build_plan(load(path, methods), path, methods)
    students = {run.terms[0].method: run for run in plan.runs.values() if run.task == "cross_modal" and run.terms}
    for run in students.values():
        assert run.id in Bench(tmp_path, yaml.safe_load(suite_files(plan, run)[ENTRY]), name="again").plan().runs


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"evaluations": None}, "needs 'evaluations': how its students are evaluated"),
        ({"teacher_data": None}, "needs 'teacher_data'"),
        ({"task": "compression"}, "'evaluations' are for task: cross_modal or transfer"),
        ({"methods": [{"method": "at", "task_weight": 0.5}]}, "'task_weight' is for students that learn from labels"),
        ({"methods": ["crd"]}, "without labels use negatives=other_sample"),
        ({"evaluations": [{"data": {"name": "digits", "resize": 32}}]}, "digits has no colours"),
        ({"evaluations": [{"data": {"name": "stl10", "view": "chrominance"}}]}, "'view' is not allowed here"),
        (
            {"evaluations": [{"data": "stereo_motorcycle"}]},
            "kind is 'probe', but stereo_motorcycle has a label of each pixel, and one of each image is needed",
        ),
        (
            {"evaluations": [{"kind": "segmentation", "data": "photo_patches"}]},
            "kind is 'segmentation', but photo_patches has a label of each image",
        ),
        ({"teacher_data": "stl10_unlabelled"}, "'teacher_data': stl10_unlabelled has no labels"),
    ],
)
def test_a_wrong_cross_modal_suite_is_refused_with_the_reason(cross_modal, changes, message):
    with pytest.raises(RequestError, match=message):
        cross_modal(**changes).run()
