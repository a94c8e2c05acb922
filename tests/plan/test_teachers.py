"""Given teachers: how their checkpoints are read, and in which order they name classes."""

import pytest
import torch

from bench.launch.preparation import check_inputs
from bench.models import build
from bench.types import RequestError
from tests.data.test_imagefolder import write_image
from tests.stores import plan_of

FOREIGN = {"key": "nets.best", "rename": {"linear": "fc"}}


@pytest.fixture
def foreign(tmp_path):
    """Write a checkpoint whose weights have a place and names of their own, and return the keys of its teacher."""
    state = build("resnet14", num_classes=10).state_dict()
    best = {name.replace("fc.", "linear."): value for name, value in state.items()}
    torch.save({"nets": {"best": best}}, tmp_path / "foreign.pth")
    return {"network": "resnet14", "checkpoint": "foreign.pth"}


def plan_with(folder, teacher, **changes):
    return plan_of(folder, pairs=[{"teacher": teacher, "student": "resnet8"}], methods=["kd"], **changes)


def teacher_id(plan):
    return next(iter(plan.checkpoints))


def test_a_dry_run_reads_a_checkpoint_as_the_suite_says(foreign, tmp_path):
    plan = plan_with(tmp_path, foreign | FOREIGN)
    assert check_inputs(plan, plan.runs.values(), tmp_path) == []
    plan = plan_with(tmp_path, foreign)
    with pytest.raises(RequestError, match=r"pairs\[0\]\.teacher: .*foreign\.pth: no weights found, but the keys nets"):
        check_inputs(plan, plan.runs.values(), tmp_path)


def test_where_a_checkpoint_has_its_weights_and_their_names_are_part_of_a_runs_identity(foreign, tmp_path):
    ways = [{}, {"key": "nets.best"}, {"rename": {"linear": "fc"}}, FOREIGN]
    assert len({teacher_id(plan_with(tmp_path, foreign | way)) for way in ways}) == len(ways)


def test_a_part_that_keeps_its_name_changes_no_identity(foreign, tmp_path):
    same = teacher_id(plan_with(tmp_path, foreign | {"rename": {"fc": "fc"}}))
    assert same == teacher_id(plan_with(tmp_path, foreign))


@pytest.mark.parametrize("key", ["key", "rename", "classes"])
def test_how_a_checkpoint_is_read_is_not_said_without_one(key, tmp_path):
    value = {"linear": "fc"} if key == "rename" else "x"
    with pytest.raises(RequestError, match=f"'{key}' says how a checkpoint is read: name a 'checkpoint', or leave it"):
        plan_with(tmp_path, {"network": "resnet14", key: value})


# the order of classes


@pytest.fixture
def birds(tmp_path):
    for split in ("train", "test"):
        for name in ("wren", "auk", "Owl"):
            write_image(tmp_path / "birds" / split / name / "0.png")
    return {"name": "imagefolder", "path": "birds", "mean": [0.5] * 3, "std": [0.2] * 3, "augment": "none"}


def test_classes_in_the_order_of_the_folders_are_taken(foreign, birds, tmp_path):
    (tmp_path / "classes.txt").write_text("Owl\nauk\nwren\n")
    before = teacher_id(plan_with(tmp_path, foreign, data=birds))
    assert teacher_id(plan_with(tmp_path, foreign | {"classes": "classes.txt"}, data=birds)) == before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("auk\nOwl\nwren\n", r"output 0 is 'auk' in .*classes\.txt, but 'Owl' in .*birds, whose folders are sorted"),
        ("Owl\nauk\n", r"classes\.txt names 2 classes, but .*birds has 3"),
        (None, r"classes\.txt: cannot be read"),
    ],
    ids=["another order", "another number", "no file"],
)
def test_classes_in_another_order_are_refused(text, message, foreign, birds, tmp_path):
    if text is not None:
        (tmp_path / "classes.txt").write_text(text)
    with pytest.raises(RequestError, match=rf"pairs\[0\]\.teacher\.classes: .*{message}"):
        plan_with(tmp_path, foreign | {"classes": "classes.txt"}, data=birds)


def test_classes_of_data_whose_names_are_not_known_are_refused(foreign, tmp_path):
    with pytest.raises(RequestError, match=r"classes: the names of the classes of digits are not known here"):
        plan_with(tmp_path, foreign | {"classes": "classes.txt"})
