"""How tables say that their numbers were made."""

from pathlib import Path

import pytest

from bench.plan import build_plan
from bench.report.caption import caption
from bench.report.conditions import conditions
from bench.report.frame import results_frame
from bench.store import Store
from bench.suite import load
from tests.stores import METHODS, plan_of, write_suite

SUITES = Path(__file__).parents[2] / "suites"


def test_the_conditions_name_epochs_seeds_and_what_is_not_the_default(tmp_path):
    methods = [
        "at",
        {"method": "kd", "temperature": 4.0, "weight": 0.5},
        {"method": "crd", "kd": 1.0, "n_negatives": 8, "label": "CRD+KD"},
        {"method": "crd", "dim": 64, "objective": ["crd", "infonce"], "n_negatives": 8},
    ]
    plan = plan_of(tmp_path, methods=methods, training={"epochs": 7}, seeds=2)
    said = conditions(plan)
    assert "after the last of 7 epochs, never the best one;" in said
    assert "2 requested; fp32. " in said
    rows = [f"CRD dim=64, objective={one}, n_negatives=8" for one in ("crd", "infonce")]
    assert f" Not the methods' defaults: KD weight=0.5; CRD+KD (n_negatives=8); {'; '.join(rows)}." in said


def test_the_conditions_name_the_pairs_of_settings_that_differ_between_pairs(tmp_path):
    pairs = [
        {"teacher": teacher, "student": "resnet8"}
        for teacher in ("resnet14", "resnet20", "resnet32", "resnet44", "wrn_16_1")
    ]
    by_pair = {"resnet14->resnet8": {"weight": 0.5}, "resnet20->resnet8": {"weight": 0.5}}
    said = conditions(plan_of(tmp_path, pairs=pairs, methods=[{"method": "kd", "by_pair": by_pair}]))
    assert "defaults: KD (weight=0.5 for resnet14->resnet8, resnet20->resnet8; otherwise defaults)." in said


def test_the_conditions_name_the_students_that_keep_more_layers(tmp_path):
    both = {"terms": [{"method": "at"}, {"method": "simkd"}], "label": "AT+SimKD"}
    said = conditions(plan_of(tmp_path, methods=["kd", "simkd", both]))
    assert "Students of SimKD, AT+SimKD keep a projector and the teacher's classifier, with which they predict." in said


def test_the_conditions_say_how_teachers_were_made_where_students_were_made_otherwise(tmp_path):
    changes = {"teacher_training": {"epochs": 5}, "teacher_data": {"name": "digits", "resize": 32}}
    said = conditions(plan_of(tmp_path, **changes))
    assert said.endswith(
        " fp32. Teacher resnet14 after 5 epochs on digits (all training images); "
        "students on digits (4 training images per class)."
    )
    other = {"teacher_training": {"lr": 0.3, "batch_size": 8}}
    assert conditions(plan_of(tmp_path, **other)).endswith(" fp32. Teacher resnet14 with batch_size=8, lr=0.3.")
    (tmp_path / "teacher.pth").write_bytes(b"weights")
    pairs = [{"teacher": {"network": "resnet14", "checkpoint": "teacher.pth"}, "student": "resnet8"}]
    assert conditions(plan_of(tmp_path, pairs=pairs)).endswith(" fp32. Teacher resnet14 read from a checkpoint.")
    assert conditions(plan_of(tmp_path)).endswith(" fp32.")


def test_the_conditions_of_a_cross_modal_suite_say_what_students_and_teachers_saw(tmp_path):
    patches = {"name": "photo_patches", "train_per_class": 4}
    training = {"epochs": 3, "precision": "bf16", "processes": 2}
    evaluation = {"data": patches | {"train_per_class": 20}, "stages": [1], "most_values": 900, "training": training}
    said = conditions(
        plan_of(
            tmp_path,
            task="cross_modal",
            data=patches | {"view": "chrominance"},
            teacher_data=patches | {"view": "luminance"},
            evaluations=[evaluation],
        )
    )
    assert (
        "stage1_top1: a linear classifier of the frozen stage, averaged to at most 900 values, trained on "
        "photo_patches (20 training images per class) for 3 epochs "
        "(learning rate 0.05, batch size 64, bf16, each batch shared by 2 processes)."
    ) in said
    assert "Students trained on the chrominance of photo_patches (4 training images per class) for 1 epoch." in said
    assert said.endswith(
        "Teacher resnet14 on the luminance of photo_patches (4 training images per class); "
        "students on the chrominance of photo_patches (4 training images per class)."
    )


def test_the_conditions_say_of_several_teachers_how_they_were_made(tmp_path):
    pairs = [{"teachers": {"network": "resnet14", "n": 2}, "student": "resnet8"}]
    assert conditions(plan_of(tmp_path, pairs=pairs)).endswith(" fp32.")
    changed = plan_of(tmp_path, pairs=pairs, teacher_training={"epochs": 5})
    assert conditions(changed).endswith(" fp32. Teacher resnet14x2 after 5 epochs.")


def test_the_caption_says_that_students_and_teachers_that_train_together_are_told_apart(tmp_path):
    plan = plan_of(tmp_path, task="mutual", methods=["kd", "at"], seeds=2)
    said = caption(results_frame(plan, Store(tmp_path / "results")))
    assert "told apart from the best one at 5 %, students and teachers separately." in said


def test_the_conditions_name_what_the_command_line_changed(tmp_path):
    path = write_suite(tmp_path)
    changes = ["training.epochs=2"]
    plan = build_plan(load(path, METHODS, changes), path, METHODS, changes=changes)
    assert conditions(plan).endswith(" fp32. Changed on the command line: training.epochs=2.")


@pytest.mark.parametrize(
    ("methods", "said"),
    [
        (
            ["ft", "crd"],
            "From the CRD paper, not its code: FT's weight 500 (code: 200), CRD's temperature 0.1 (code: 0.07).",
        ),
        ([{"method": "ft", "weight": 200.0}], "From the CRD paper's code: FT's weight 200 (paper: 500)."),
    ],
    ids=["paper", "code"],
)
def test_the_conditions_say_which_settings_are_the_papers_and_which_its_codes(methods, said, tmp_path):
    assert said in conditions(plan_of(tmp_path, methods=methods))


def test_the_conditions_of_imagenet_name_torchvisions_weights_and_no_other_temperature_of_the_paper():
    path = SUITES / "imagenet.yaml"
    said = conditions(build_plan(load(path, METHODS), path, METHODS))
    assert "Teacher torchvision.resnet34 with torchvision's weights IMAGENET1K_V1. Not the methods' defaults: " in said
    assert "CRD paper" not in said  # which has 0.07 there too


def test_the_conditions_do_not_name_the_papers_settings_where_they_are_what_varies(tmp_path):
    assert "CRD paper" not in conditions(plan_of(tmp_path, methods=[{"method": "crd", "temperature": [0.07, 0.1]}]))
