"""The keys of recipes in a suite file: what they mean for runs, and which are refused."""

import pytest
import yaml

from bench.plan import build_plan, work_units
from bench.plan.repeat import suite_files
from bench.report.conditions import conditions
from bench.schedule import Schedule
from bench.suite import load
from bench.suite.evaluations import problems_of_schedule
from bench.tasks import TASKS
from bench.types import RequestError
from tests.stores import METHODS, cell_of, plan_of, write_suite


def test_a_key_with_the_value_that_leaves_it_unused_changes_no_id(tmp_path):
    stated = {"epochs": 1, "optimizer": "sgd", "schedule": "steps", "nesterov": False, "ema": 0.0, "mixup": 0.0}
    plain = plan_of(tmp_path)
    assert list(plan_of(tmp_path, training=stated).runs) == list(plain.runs)


def test_a_recipe_of_a_network_holds_for_students_and_teachers(tmp_path):
    own = {"resnet8": {"optimizer": "adamw", "lr": 0.001}, "resnet14": {"schedule": "cosine"}}
    plan = plan_of(tmp_path, recipe_by_network=own, teacher_training={"label_smoothing": 0.1})
    teacher, student = (cell_of(plan, label).runs[0].training for label in ("teacher", "KD"))
    assert (student.optimizer, student.lr, student.schedule, student.label_smoothing) == ("adamw", 0.001, None, None)
    assert (teacher.optimizer, teacher.lr, teacher.schedule, teacher.label_smoothing) == (None, 0.05, "cosine", 0.1)


def test_students_with_other_optimizers_still_see_the_same_batches(tmp_path):
    pairs = [{"teacher": "resnet14", "student": student} for student in ("resnet8", "resnet20")]
    plain = plan_of(tmp_path, pairs=pairs)
    own = {"resnet20": {"optimizer": "adamw", "schedule": "cosine", "label_smoothing": 0.1, "ema": 0.9}}
    changed = plan_of(tmp_path, pairs=pairs, recipe_by_network=own)
    assert list(changed.runs) != list(plain.runs)
    assert len(work_units(list(changed.runs.values()))) == len(work_units(list(plain.runs.values())))


def test_students_whose_images_are_mixed_see_batches_of_their_own(tmp_path):
    pairs = [{"teacher": "resnet14", "student": student} for student in ("resnet8", "resnet20")]
    mixed = plan_of(tmp_path, pairs=pairs, recipe_by_network={"resnet20": {"mixup": 0.8}})
    plain = plan_of(tmp_path, pairs=pairs)
    assert len(work_units(list(mixed.runs.values()))) == len(work_units(list(plain.runs.values()))) + 1


def test_the_suite_that_repeats_a_run_gives_the_teacher_none_of_the_students_recipe(tmp_path):
    training = {"epochs": 1, "optimizer": "adamw", "ema": 0.9}
    own = {"resnet8": {"schedule": "cosine"}}
    plan = plan_of(
        tmp_path, training=training, teacher_training={"optimizer": "sgd", "ema": 0.0}, recipe_by_network=own
    )
    run = cell_of(plan, "KD").runs[0]
    (name, text), *_ = suite_files(plan, run).items()
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    assert yaml.safe_load(text)["recipe_by_network"] == own
    assert run.id in build_plan(load(path, METHODS), path, METHODS).runs


def test_the_caption_states_the_recipe(tmp_path):
    plan = plan_of(tmp_path, training={"epochs": 1, "ema": 0.9}, recipe_by_network={"resnet8": {"optimizer": "adamw"}})
    assert "Training with ema=0.9. resnet8 with optimizer=adamw." in conditions(plan)


REFUSED = {
    "min_lr alone": ({"training": {"min_lr": 0.1}}, "min_lr is for schedule: cosine: leave it out, or set min_lr: 0"),
    "warmup_lr alone": ({"training": {"warmup_lr": 0.1}}, "warmup_lr is for warmup_epochs: leave it out"),
    "nesterov with adamw": (
        {"training": {"optimizer": "adamw"}, "recipe_by_network": {"resnet8": {"nesterov": True}}},
        "recipe_by_network.resnet8: nesterov is for optimizer: sgd with momentum",
    ),
    "momentum with adamw": (
        {"training": {"optimizer": "adamw", "momentum": 0.8}},
        "training.momentum: found 0.8, which is for optimizer: sgd and is not used here: leave it out, or set "
        "momentum: 0.9",
    ),
    "milestones of a teacher with cosine": (
        {"teacher_training": {"schedule": "cosine", "milestones": [3]}},
        "teacher_training.milestones: found [3], which is for schedule: steps",
    ),
    "the factor of milestones with cosine": (
        {"training": {"schedule": "cosine"}, "recipe_by_network": {"resnet8": {"lr_decay": 0.5}}},
        "recipe_by_network.resnet8.lr_decay: found 0.5, which is for schedule: steps",
    ),
    "an unknown optimizer": ({"training": {"optimizer": "adam"}}, 'training.optimizer: found "adam": must be'),
    "an average that never moves": ({"training": {"ema": 1.0}}, "training.ema: found 1.0: must be less than 1"),
    "an unknown network": ({"recipe_by_network": {"resnet9": {}}}, "unknown network 'resnet9'. Did you mean"),
    "epochs of one network": ({"recipe_by_network": {"resnet8": {"epochs": 3}}}, "recipe_by_network.resnet8.epochs"),
    "two rates": (
        {"recipe_by_network": {"resnet8": {"lr": 0.1}}, "lr_by_network": {"resnet8": 0.2}},
        "recipe_by_network.resnet8.lr: lr_by_network states it too",
    ),
    "recipes of peers": (
        {"task": "mutual", "methods": [{"method": "kd"}], "recipe_by_network": {"resnet8": {"ema": 0.5}}},
        "recipe_by_network.resnet8: with task mutual, two networks train together",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_recipe_that_cannot_be_trained_is_refused(name, tmp_path):
    changes, message = REFUSED[name]
    with pytest.raises(RequestError) as error:
        load(write_suite(tmp_path, **changes), METHODS)
    assert message in str(error.value)


def test_a_key_that_another_network_uses_is_no_fault_and_the_run_can_be_repeated(tmp_path):
    training = {"epochs": 1, "optimizer": "adamw", "momentum": 0.8, "milestones": [3], "lr_decay": 0.1}
    own = {"resnet8": {"schedule": "cosine"}}
    plan = plan_of(tmp_path, training=training, teacher_training={"optimizer": "sgd"}, recipe_by_network=own)
    run = cell_of(plan, "KD").runs[0]
    (name, text), *_ = suite_files(plan, run).items()
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    assert run.id in build_plan(load(path, METHODS), path, METHODS).runs


def test_no_momentum_and_no_milestones_may_be_stated_where_they_are_not_used(tmp_path):
    training = {"optimizer": "adamw", "momentum": 0.0, "schedule": "cosine", "milestones": [], "lr_decay": 0.1}
    assert load(write_suite(tmp_path, training=training), METHODS).training.momentum == 0


def test_a_command_line_that_makes_a_key_useless_is_refused_with_the_value_to_set(tmp_path):
    path = write_suite(tmp_path, training={"epochs": 1, "milestones": [1]})
    with pytest.raises(RequestError, match=r"leave it out, or set milestones: \[150, 180, 210\]"):
        load(path, METHODS, ["training.schedule=cosine"])
    load(path, METHODS, ["training.schedule=cosine", "training.milestones=[150, 180, 210]"])


def test_lamb_without_timm_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setattr("bench.suite.evaluations.find_spec", lambda name: None)
    with pytest.raises(RequestError, match=r"pip install 'distillation-bench\[timm\]', or choose sgd or adamw"):
        load(write_suite(tmp_path, training={"optimizer": "lamb"}), METHODS)


REFUSED_OF_EVALUATIONS = {
    "an average": ({"training": {"ema": 0.5}}, "training.ema is for students and teachers"),
    "momentum with adamw": (
        {"training": {"optimizer": "adamw", "momentum": 0.8}},
        "evaluations[0]: training.momentum: found 0.8, which is for optimizer: sgd",
    ),
    "mixed maps of labels": (
        {"kind": "segmentation", "data": "nyu_depth_v2", "training": {"mixup": 0.5}},
        "training: mixup is for networks that learn one label per image: leave it out",
    ),
}


@pytest.mark.parametrize("name", REFUSED_OF_EVALUATIONS)
def test_a_recipe_that_an_evaluation_cannot_have_is_refused(name, tmp_path):
    changes, message = REFUSED_OF_EVALUATIONS[name]
    evaluation = {"data": "stl10", **changes}
    path = write_suite(tmp_path, task="transfer", data=None, pairs=None, methods=None, training=None)
    document = yaml.safe_load(path.read_text(encoding="utf-8")) | {"from": {"suite": "x"}, "evaluations": [evaluation]}
    with pytest.raises(RequestError) as error:
        load(write_suite(tmp_path, text=yaml.safe_dump(document)), METHODS)
    assert message in str(error.value)


def test_students_without_labels_have_no_recipe_for_labels():
    found = list(problems_of_schedule(Schedule(label_smoothing=0.1, ema=0.9), TASKS["cross_modal"]))
    assert found == ["label_smoothing is for networks that learn one label per image: leave it out"]
