"""Given teachers: how their checkpoints are read, and in which order they name classes."""

import shutil
from pathlib import Path

import pytest
import torch

from bench.launch.preparation import check_inputs
from bench.models import build
from bench.plan import build_plan as planned
from bench.plan.repeat import ENTRY, suite_files
from bench.suite import load
from bench.suite.packaged import find_suite
from bench.types import RequestError
from bench.workflow import teachers_found
from tests.data.test_imagefolder import write_image
from tests.stores import METHODS, plan_of

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


# the published teachers

PUBLISHED = {
    "wrn_40_2": 75.61,
    "resnet56": 72.34,
    "resnet110": 74.31,
    "resnet32x4": 79.42,
    "vgg13": 74.64,
    "ResNet50": 79.34,
}
LAYOUTS = {"RepDistiller": "save/models", "mdistiller": "download_ckpts/cifar_teachers", "its own folder": "."}


def write_teachers(folder, names=tuple(PUBLISHED), layout="save/models"):
    for name in names:
        file = folder / layout / f"{name}_vanilla" / "ckpt_epoch_240.pth"
        file.parent.mkdir(parents=True)
        file.write_bytes(name.encode())
    return str(folder)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("table", ["cifar100_similar_arch", "cifar100_different_arch"])
def test_the_papers_tables_take_all_teachers_from_a_folder_of_their_authors(table, layout, tmp_path):
    write_teachers(tmp_path / "zoo", layout=LAYOUTS[layout])
    file = find_suite(Path(table))
    plan = planned(load(file, METHODS, [f"teachers={tmp_path / 'zoo'}"]), file, METHODS)
    taken = {plan.runs[run_id].student.network: given for run_id, given in plan.checkpoints.items()}
    teachers = {name for pair in plan.suite.pairs for name in [pair.teacher_name]}
    assert {name: given.accuracy for name, given in taken.items()} == {name: PUBLISHED[name] for name in teachers}
    assert all(given.path.read_bytes() == name.encode() for name, given in taken.items())
    assert all(run.checkpoint for run_id, run in plan.runs.items() if run_id in plan.checkpoints)


def test_which_file_is_whose_teacher_is_told(tmp_path):
    folder = write_teachers(tmp_path / "zoo", ["resnet56"])
    plan = plan_with(tmp_path, "resnet56", teachers=folder, data="cifar100")
    file = tmp_path / "zoo" / "save" / "models" / "resnet56_vanilla" / "ckpt_epoch_240.pth"
    assert teachers_found(plan) == [f"teacher resnet56: {file}; must reach 72.34 % within 0.1 points"]


def test_a_teacher_on_other_data_than_the_papers_has_no_published_accuracy(tmp_path):
    plan = plan_with(tmp_path, "resnet56", teachers=write_teachers(tmp_path / "zoo", ["resnet56"]))
    assert [given.accuracy for given in plan.checkpoints.values()] == [None]


def test_a_pair_keeps_the_checkpoint_that_it_names(foreign, tmp_path):
    plan = plan_with(tmp_path, foreign, teachers=write_teachers(tmp_path / "zoo", ["resnet14"]))
    assert [given.path.name for given in plan.checkpoints.values()] == ["foreign.pth"]


def test_a_missing_teacher_is_refused_with_those_that_are_there(tmp_path):
    folder = write_teachers(tmp_path / "zoo", ["vgg13", "resnet56"])
    with pytest.raises(
        RequestError, match=r"zoo: no weights of resnet14; found are: resnet56, vgg13\. Looked for NAME_"
    ):
        plan_with(tmp_path, "resnet14", teachers=folder)


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(RequestError, match=r"teachers: .*zoo: there is no such folder"):
        plan_with(tmp_path, "resnet14", teachers="zoo")


def test_several_teachers_of_one_network_are_not_published(tmp_path):
    pairs = [{"teachers": {"network": "resnet56", "n": 2}, "student": "resnet8"}]
    with pytest.raises(RequestError, match=r"has one teacher of each network, but resnet56x2->resnet8 needs several"):
        plan_of(tmp_path, pairs=pairs, teachers=write_teachers(tmp_path / "zoo", ["resnet56"]))


def test_seeds_of_teachers_and_published_teachers_exclude_each_other(tmp_path):
    with pytest.raises(RequestError, match=r"'teachers': published teachers have one set of weights, but 'seeds' has"):
        plan_with(tmp_path, "resnet56", teachers="zoo", seeds={"teacher": 2})


def test_a_plan_can_be_rebuilt_when_the_folder_of_the_teachers_is_gone(tmp_path):
    folder = write_teachers(tmp_path / "zoo", ["resnet56"])
    plan = plan_with(tmp_path, "resnet56", teachers=folder)
    shutil.rmtree(folder)
    again = planned(load(plan.file, METHODS), plan.file, METHODS, plan.sources)
    assert list(again.runs) == list(plan.runs)


def test_a_stored_run_repeats_how_its_teacher_was_read(foreign, birds, tmp_path):
    (tmp_path / "classes.txt").write_text("Owl\nauk\nwren\n")
    plan = plan_with(tmp_path, foreign | FOREIGN | {"classes": "classes.txt"}, data=birds)
    assert_repeats(plan, tmp_path / "elsewhere")


def test_a_stored_run_repeats_its_published_teacher(tmp_path):
    write_teachers(tmp_path / "zoo", ["resnet56"])
    assert_repeats(plan_with(tmp_path, "resnet56", teachers="zoo"), tmp_path / "elsewhere")


def assert_repeats(plan, folder):
    """Assert that the suite files that runs are stored with, in another folder, ask for the same runs."""
    folder.mkdir()
    for run in plan.runs.values():
        for name, text in suite_files(plan, run).items():
            (folder / name).write_text(text)
        assert run.id in planned(load(folder / ENTRY, METHODS), folder / ENTRY, METHODS).runs
