import json
import shutil

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from bench.data import DataChoice, resolve
from bench.plan import Plan, build_plan, cohorts
from bench.schedule import Schedule
from bench.spec import NetworkSpec, RunSpec
from bench.suite import load
from bench.types import RequestError
from tests.stores import METHODS, SUITE, cell_of, plan_of, write_suite

INITIAL = {"ab", "fsp", "ft"}
KD = {"methods": ["kd"]}
TEXT = yaml.safe_dump(SUITE)


def ids(plan: Plan, label: str | None = None) -> list[str]:
    """Return the ids of a row's runs, or of all."""
    return [run.id for run in cell_of(plan, label).runs] if label else list(plan.runs)


# identity


@pytest.mark.parametrize(
    "changes",
    [
        {"title": "Another"},
        {"threads": 7},
        {"workers": 0},
        {"max_lanes": 1},
        {"slurm": {"partition": "gpu", "timeout_min": 5}},
        {"published": {"source": "x", "table": 1}},
        {"methods": [{"method": "kd", "label": "Hinton"}]},
        {"methods": [{"method": "kd", "weight": 0.9, "temperature": 4.0}]},
        {"methods": [{"method": "kd", "weight": 0.9, "task_weight": 0.1}]},
        {"methods": [{"method": "kd", "warmup": 0, "standardise": False}]},
        {"methods": [{"terms": ["kd"], "task_weight": 0.1}]},
        {"training": {"epochs": 1, "lr": 0.05, "weight_decay": 5e-4, "milestones": [150, 180, 210]}},
        {"teacher_training": {}},
        {"teacher_training": {"epochs": 1}},
        {"teacher_data": SUITE["data"]},
        {"lr_by_network": {"vgg8": 0.3}},
        {"lr_by_network": {"resnet8": 0.05, "resnet14": 0.05}},
        {"teacher_seeds": "fixed"},
    ],
    ids=str,
)
def test_an_id_does_not_depend_on_what_changes_no_result(changes, tmp_path):
    assert ids(plan_of(tmp_path, **(SUITE | changes))) == ids(plan_of(tmp_path))


def test_an_id_does_not_depend_on_the_order_of_keys(tmp_path):
    backwards = write_suite(tmp_path, "backwards", yaml.safe_dump(dict(reversed(SUITE.items())), sort_keys=False))
    assert ids(build_plan(load(backwards, METHODS), backwards, METHODS)) == ids(plan_of(tmp_path))


def test_an_id_does_not_depend_on_where_an_image_folder_lies(tmp_path, image_folder):
    moved = shutil.copytree(image_folder, tmp_path / "elsewhere" / "photos")
    data = {"name": "imagefolder", "mean": [0.5] * 3, "std": [0.5] * 3, "augment": "crop"}
    here = plan_of(tmp_path, data=data | {"path": str(image_folder)})
    there = plan_of(tmp_path, data=data | {"path": str(moved)})
    relative = plan_of(tmp_path, data=data | {"path": "elsewhere/photos"})
    assert ids(here) == ids(there) == ids(relative)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"data": {"name": "digits", "resize": 32}}, {"data": {"name": "digits", "resize": 32, "train_per_class": 90}}),
        ({"data": "cifar10"}, {"data": {"name": "cifar10", "train_per_class": 5000}}),
        ({"data": "cifar10"}, {"data": {"name": "cifar10", "train_fraction": 1.0}}),
        ({"methods": ["kd"]}, {"methods": [{"method": "kd", "combine": "mean", "label": "KD"}]}),
    ],
    ids=str,
)
def test_two_ways_to_say_the_same_give_one_id(tmp_path, one, other):
    assert ids(plan_of(tmp_path, **one)) == ids(plan_of(tmp_path, **other))


def test_as_many_images_as_the_smallest_class_has_are_a_subset_where_others_have_more(tmp_path):
    data = {"name": "mnist", "resize": 32}
    assert ids(plan_of(tmp_path, data=data)) != ids(plan_of(tmp_path, data=data | {"train_per_class": 5421}))


def test_a_plan_from_the_store_alone_has_the_ids_of_an_image_folder_that_is_gone(tmp_path, image_folder):
    data = {"name": "imagefolder", "mean": [0.5] * 3, "std": [0.5] * 3, "augment": "crop", "path": str(image_folder)}
    before = plan_of(tmp_path, data=data)
    shutil.rmtree(image_folder)
    path = tmp_path / "table.yaml"
    after = build_plan(load(path, METHODS), path, METHODS, json.loads(json.dumps(before.sources)))
    assert ids(after) == ids(before)
    with pytest.raises(RequestError, match="looked for the folder"):
        build_plan(load(path, METHODS), path, METHODS)


def test_an_id_depends_on_the_images_of_a_folder(tmp_path, image_folder):
    data = {"name": "imagefolder", "mean": [0.5] * 3, "std": [0.5] * 3, "augment": "crop", "path": str(image_folder)}
    before = ids(plan_of(tmp_path, data=data))
    shutil.copy(image_folder / "train/cat/0.png", image_folder / "train/cat/1.png")
    assert not set(ids(plan_of(tmp_path, data=data))) & set(before)


@pytest.fixture
def image_folder(tmp_path):
    from PIL import Image

    folder = tmp_path / "photos"
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            (folder / split / name).mkdir(parents=True)
            Image.new("RGB", (32, 32)).save(folder / split / name / "0.png")
    return folder


@pytest.mark.parametrize(
    "changes",
    [
        {"data": SUITE["data"] | {"train_per_class": 5}},
        {"data": SUITE["data"] | {"augment": "none"}},
        {"data": {"name": "digits", "resize": 40, "train_per_class": 4}},
        {"training": {"epochs": 2}},
        {"lr_by_network": {"resnet8": 0.1, "resnet14": 0.1}},
        {"seeds": [3], "teacher_seeds": "paired"},
    ],
    ids=str,
)
def test_every_id_depends_on_data_schedule_and_seed(changes, tmp_path):
    assert not set(ids(plan_of(tmp_path, **(SUITE | changes)))) & set(ids(plan_of(tmp_path)))


@pytest.mark.parametrize(
    "changes",
    [
        {"methods": [{"method": "kd", "weight": 0.8, "label": "KD"}]},
        {"methods": [{"method": "kd", "temperature": 3.0, "label": "KD"}]},
        {"methods": [{"method": "kd", "standardise": True, "label": "KD"}]},
        {"methods": [{"method": "kd", "warmup": 2, "label": "KD"}]},
        {"methods": [{"method": "kd", "task_weight": 1.0, "label": "KD"}]},
        {"methods": [{"terms": ["kd", "at"], "label": "KD"}]},
        {"pairs": [{"teacher": "resnet20", "student": "resnet8"}]},
        {"teacher_training": {"epochs": 2}},
        {"teacher_data": {"name": "digits", "resize": 32}},
    ],
    ids=str,
)
def test_a_distilled_id_depends_on_method_and_teacher_and_none_does_not(changes, tmp_path):
    before, after = plan_of(tmp_path), plan_of(tmp_path, **changes)
    assert not set(ids(after, "KD")) & set(ids(before, "KD"))
    assert ids(after, "none") == ids(before, "none")


def test_an_id_depends_on_the_methods_version(tmp_path):
    path = write_suite(tmp_path, **KD)
    newer = METHODS | {"kd": METHODS["kd"].model_copy(update={"version": 2})}
    now, then = (build_plan(load(path, methods), path, methods) for methods in (newer, METHODS))
    assert ids(now, "KD") != ids(then, "KD")


SCHEDULES = st.builds(
    Schedule,
    epochs=st.integers(1, 300),
    batch_size=st.integers(2, 512),
    lr=st.floats(1e-6, 1),
    lr_decay=st.floats(0.01, 1),
    milestones=st.lists(st.integers(1, 300), max_size=3).map(tuple),
    momentum=st.floats(0, 0.99),
    weight_decay=st.floats(0, 0.1),
    initial_epochs=st.integers(0, 40),
    evaluate_every=st.integers(1, 10),
)
DIGITS = resolve(DataChoice(name="digits", resize=32))


@given(SCHEDULES, SCHEDULES)
def test_two_schedules_give_one_id_only_if_they_are_equal(first, second):
    def id_of(schedule: Schedule) -> str:
        return RunSpec(student=NetworkSpec(network="resnet8"), data=DIGITS, schedule=schedule, seed=1).id

    alike = first.model_copy(update={"evaluate_every": second.evaluate_every}) == second
    assert (id_of(first) == id_of(second)) == alike


def test_a_run_keeps_its_id_however_often_it_is_evaluated(tmp_path):
    often, seldom = (plan_of(tmp_path, training={"epochs": 4, "evaluate_every": every}) for every in (1, 4))
    assert often.runs.keys() == seldom.runs.keys()


@given(SCHEDULES, st.integers(0, 5))
def test_a_stored_specification_has_the_id_it_was_stored_under(schedule, seed):
    spec = RunSpec(student=NetworkSpec(network="resnet8"), data=DIGITS, schedule=schedule, seed=seed)
    assert RunSpec.model_validate_json(spec.model_dump_json(exclude_none=True)).id == spec.id


def test_the_stored_specification_of_every_method_has_its_id(tmp_path):
    runs = plan_of(tmp_path, methods=sorted(METHODS)).runs.values()
    assert all(RunSpec.model_validate_json(run.model_dump_json(exclude_none=True)).id == run.id for run in runs)


def test_initial_epochs_count_only_where_a_method_has_an_initial_stage(tmp_path):
    short, long = (
        plan_of(tmp_path, methods=sorted(METHODS), training={"epochs": 1, "initial_epochs": n}) for n in (1, 2)
    )
    changed = {a.method for a, b in zip(short.cells, long.cells, strict=True) if a.runs != b.runs}
    assert changed == INITIAL | {"none"}  # the control of these rows
    assert {cell.method for cell in long.cells if cell.runs[0].schedule.initial_epochs} == INITIAL


def test_an_initial_stage_counts_for_any_of_several_terms(tmp_path):
    found = plan_of(tmp_path, methods=[{"terms": ["kd", "ft"]}, {"method": "ab", "kd": 1.0}])
    assert [cell.runs[0].schedule.initial_epochs for cell in found.cells] == [0, 0, 0, 30, 30]


# rows


def test_kd_beside_a_method_is_a_second_term(tmp_path):
    beside = plan_of(tmp_path, methods=[{"method": "crd", "kd": 1.0}])
    spelt = plan_of(tmp_path, methods=[{"terms": ["crd", {"method": "kd", "weight": 1.0}], "label": "CRD+KD"}])
    assert ids(beside, "CRD+KD") == ids(spelt, "CRD+KD")
    assert [(term.method, term.weight) for term in cell_of(beside, "CRD+KD").runs[0].terms] == [("crd", 0.8), ("kd", 1)]


def test_the_temperature_of_kd_beside_a_method_is_the_terms(tmp_path):
    beside = plan_of(tmp_path, methods=[{"method": "crd", "kd": 1.0, "kd_temperature": 2.0, "label": "x"}])
    term = {"method": "kd", "weight": 1.0, "temperature": 2.0}
    assert ids(beside, "x") == ids(plan_of(tmp_path, methods=[{"terms": ["crd", term], "label": "x"}]), "x")


def test_every_default_stands_in_the_specification(tmp_path):
    term = cell_of(plan_of(tmp_path, methods=["crd"]), "CRD").runs[0].terms[0]
    assert term.parameters == {name: parameter.default for name, parameter in METHODS["crd"].parameters.items()}
    assert (term.weight, term.version) == (METHODS["crd"].weight, METHODS["crd"].version)


def test_a_terms_warmup_is_its_methods_unless_the_row_states_another(tmp_path):
    rows = ["dkd", {"method": "dkd", "warmup": 3}, {"method": "dkd", "warmup": 0}, {"terms": ["kd", "dkd"]}]
    found = [cell.runs[0].terms for cell in plan_of(tmp_path, methods=rows).cells[2:]]
    assert [[term.warmup for term in terms] for terms in found] == [[20], [3], [None], [None, 20]]


def test_a_pair_has_the_settings_that_by_pair_gives_it_and_other_pairs_have_those_of_the_row(tmp_path):
    pairs = [{"teacher": teacher, "student": "resnet8"} for teacher in ("resnet14", "resnet20")]
    row = {"method": "dkd", "beta": 2.0, "by_pair": {"resnet14->resnet8": {"beta": 6.0, "weight": 0.5, "warmup": 3}}}
    found = [cell for cell in plan_of(tmp_path, pairs=pairs, methods=[row]).cells if cell.method == "dkd"]
    terms = [cell.runs[0].terms[0] for cell in found]
    assert [(term.weight, term.warmup, term.parameters["beta"]) for term in terms] == [(0.5, 3, 6.0), (1.0, 20, 2.0)]
    assert [cell.label for cell in found] == ["DKD beta=2", "DKD beta=2"]
    assert [cell.overrides for cell in found] == ["beta=6, weight=0.5, warmup=3", "beta=2"]


def test_settings_by_pair_give_the_run_of_a_row_that_states_them_for_all_pairs(tmp_path):
    by_pair = {"method": "kd", "by_pair": {"resnet14->resnet8": {"temperature": 2.0}}}
    one, other = (plan_of(tmp_path, methods=[row]) for row in (by_pair, {"method": "kd", "temperature": 2.0}))
    assert one.runs.keys() == other.runs.keys()


def test_a_parameter_added_later_stands_in_the_specification_only_where_it_is_used(tmp_path):
    plain, standardised = plan_of(tmp_path, methods=["kd", {"method": "kd", "standardise": True}]).cells[2:]
    assert plain.runs[0].terms[0].parameters == {"temperature": 4.0}
    assert standardised.runs[0].terms[0].parameters == {"temperature": 4.0, "standardise": True}


def test_a_method_alone_keeps_its_task_weight_and_several_terms_have_1(tmp_path):
    found = plan_of(
        tmp_path, methods=["kd", {"terms": ["kd", "at"], "label": "x"}, {"method": "kd", "task_weight": 0.0}]
    )
    assert [cell.runs[0].task_weight for cell in found.cells] == [1.0, 1.0, 0.1, 1.0, 0.0]


def test_a_grid_gives_a_cell_to_each_combination_of_its_values(tmp_path):
    found = plan_of(tmp_path, methods=[{"method": "crd", "temperature": [0.05, 0.1], "weight": [0.5, 0.8]}])
    runs = [cell.runs[0] for cell in found.cells[2:]]
    assert [(run.terms[0].weight, run.terms[0].parameters["temperature"]) for run in runs] == [
        (0.5, 0.05),
        (0.5, 0.1),
        (0.8, 0.05),
        (0.8, 0.1),
    ]
    assert len({run.id for run in runs}) == 4
    assert runs[3].id == ids(plan_of(tmp_path, methods=["crd"]), "CRD")[0]


def test_teacher_and_none_come_first_in_every_pair_listed_or_not(tmp_path):
    pairs = [{"teacher": name, "student": "resnet8"} for name in ("resnet14", "resnet20")]
    for methods in (["kd"], ["kd", "none"], ["none"]):
        found = plan_of(tmp_path, pairs=pairs, methods=methods)
        labels = ["teacher", "none", *(["KD"] if "kd" in methods else [])]
        assert [(cell.pair, cell.label) for cell in found.cells] == [
            (pair, label) for pair in ("resnet14->resnet8", "resnet20->resnet8") for label in labels
        ]


def test_a_cell_has_a_run_for_each_seed(tmp_path):
    found = plan_of(tmp_path, seeds=[5, 7])
    assert [[run.seed for run in cell.runs] for cell in found.cells] == [[0], [5, 7], [5, 7]]


# crossed seeds


def test_crossed_seeds_give_a_run_to_each_combination(tmp_path):
    found = plan_of(tmp_path, seeds={"init": 2, "order": [5, 6], "teacher": 2})
    taught = [(run.seed, run.ordered_by, found.runs[run.teachers[0]].seed) for run in cell_of(found, "KD").runs]
    assert taught == [(i, o, t) for i in (1, 2) for o in (5, 6) for t in (0, 1)]
    alone = [(run.seed, run.ordered_by) for run in cell_of(found, "none").runs]
    assert alone == [(i, o) for i in (1, 2) for o in (5, 6)]
    assert [run.seed for run in cell_of(found, "teacher").runs] == [0, 1]
    assert found.suite.runs_per_row == 8


def test_a_combination_of_equal_seeds_is_the_run_of_a_suite_that_crosses_none(tmp_path):
    plain = ids(plan_of(tmp_path, seeds=2), "KD")
    crossed = ids(plan_of(tmp_path, seeds={"init": 2, "order": 2}), "KD")
    assert [crossed[0], crossed[3]] == plain
    assert len(set(crossed)) == 4


def test_runs_of_one_order_train_together_whatever_their_initial_weights(tmp_path):
    found = plan_of(tmp_path, seeds={"init": 2, "order": 2})
    students = [cohort.runs for cohort in cohorts(found.runs.values())][1:]
    assert [{run.ordered_by for run in runs} for runs in students] == [{1}, {2}]
    assert [sorted(run.seed for run in runs) for runs in students] == [[1, 1, 2, 2]] * 2


def test_evaluations_have_the_seeds_of_the_networks_that_they_evaluate(tmp_path):
    probe = {"data": "photo_patches", "training": {"epochs": 1}}
    pairs = {"data": {"name": "photo_patches", "view": "chrominance"}, "teacher_data": "photo_patches"}
    seeds = {"init": [1], "order": [2], "teacher": [3]}
    found = plan_of(tmp_path, task="cross_modal", evaluations=[probe], seeds=seeds, **pairs)
    (run,) = cell_of(found, "KD").runs
    assert (run.seed, run.ordered_by, found.seed_of(run)) == (1, 2, (1, 2, 3))


# shared runs and teachers


def test_none_is_one_run_for_all_pairs_with_that_student(tmp_path):
    pairs = [{"teacher": name, "student": "resnet8"} for name in ("resnet14", "resnet20")]
    found = plan_of(tmp_path, pairs=pairs)
    assert cell_of(found, "none", "resnet14->resnet8").runs == cell_of(found, "none", "resnet20->resnet8").runs
    assert len(found.runs) == 5  # two teachers, one student alone, two taught


def test_none_is_one_run_for_all_suites_with_that_student(tmp_path):
    other = plan_of(
        tmp_path,
        title="B",
        methods=["at"],
        pairs=[{"teacher": "vgg13", "student": "resnet8"}],
        teacher_training={"epochs": 9},
    )
    assert ids(other, "none") == ids(plan_of(tmp_path), "none")


def test_a_teacher_is_one_run_for_all_pairs_that_have_it(tmp_path):
    found = plan_of(tmp_path, pairs=[{"teacher": "resnet14", "student": name} for name in ("resnet8", "vgg8")])
    assert cell_of(found, "teacher", "resnet14->resnet8").runs == cell_of(found, "teacher", "resnet14->vgg8").runs


def test_a_network_trained_alike_is_one_run_as_teacher_and_as_student(tmp_path):
    pairs = [{"teacher": "resnet14", "student": "resnet8"}, {"teacher": "resnet20", "student": "resnet14"}]
    found = plan_of(tmp_path, pairs=pairs, seeds=[0])
    assert ids(found, "teacher") == [run.id for run in cell_of(found, "none", "resnet20->resnet14").runs]


def test_one_teacher_with_seed_0_serves_all_students(tmp_path):
    found = plan_of(tmp_path, seeds=3)
    assert [run.seed for run in cell_of(found, "teacher").runs] == [0]
    assert {run.needs for run in cell_of(found, "KD").runs} == {tuple(ids(found, "teacher"))}


def test_paired_teachers_have_their_students_seed(tmp_path):
    found = plan_of(tmp_path, seeds=[2, 4], teacher_seeds="paired")
    assert [found.runs[run.needs[0]].seed for run in cell_of(found, "KD").runs] == [2, 4]
    assert [run.seed for run in cell_of(found, "teacher").runs] == [2, 4]


def test_teachers_stand_before_their_students(tmp_path):
    order = ids(plan_of(tmp_path, seeds=2, teacher_seeds="paired", methods=["kd", "at"]))
    runs = plan_of(tmp_path, seeds=2, teacher_seeds="paired", methods=["kd", "at"]).runs
    assert all(order.index(needed) < order.index(run.id) for run in runs.values() for needed in run.needs)


def test_a_network_has_its_own_rate_as_student_and_as_teacher(tmp_path):
    found = plan_of(tmp_path, lr_by_network={"resnet8": 0.01, "resnet14": 0.02}, teacher_training={"lr": 0.5})
    assert [cell.runs[0].schedule.lr for cell in found.cells] == [0.02, 0.01, 0.01]


def test_what_differs_for_teachers_is_theirs_alone(tmp_path):
    found = plan_of(tmp_path, training={"epochs": 3, "lr": 0.2}, teacher_training={"epochs": 7})
    assert [(cell.runs[0].schedule.epochs, cell.runs[0].schedule.lr) for cell in found.cells] == [
        (7, 0.2),
        (3, 0.2),
        (3, 0.2),
    ]


# checkpoints


def checkpoint_pair(name: str, student: str = "resnet8", **more: object) -> dict[str, object]:
    return {"teacher": {"network": "resnet14", "checkpoint": name, **more}, "student": student}


def test_a_checkpoint_is_known_by_its_content_wherever_it_lies(tmp_path):
    (tmp_path / "a.pth").write_bytes(b"weights")
    (tmp_path / "b.pth").write_bytes(b"weights")
    (tmp_path / "c.pth").write_bytes(b"other weights")
    a, b, c = (plan_of(tmp_path, pairs=[checkpoint_pair(f"{name}.pth")]) for name in "abc")
    assert ids(a) == ids(b)
    assert ids(a, "KD") != ids(c, "KD")
    assert ids(a, "none") == ids(c, "none")


def test_a_checkpoint_is_one_run_whatever_the_seeds(tmp_path):
    (tmp_path / "a.pth").write_bytes(b"weights")
    found = plan_of(tmp_path, pairs=[checkpoint_pair("a.pth")], seeds=3, teacher_seeds="paired")
    assert len(cell_of(found, "teacher").runs) == 1
    assert {run.needs for run in cell_of(found, "KD").runs} == {tuple(ids(found, "teacher"))}


def test_the_accuracy_stated_in_one_pair_holds_for_the_same_checkpoint_in_others(tmp_path):
    (tmp_path / "a.pth").write_bytes(b"weights")
    stated, silent = checkpoint_pair("a.pth", accuracy=70.0), checkpoint_pair("a.pth", "vgg8")
    for pairs in ([stated, silent], [silent, stated]):
        found = plan_of(tmp_path, pairs=pairs)
        assert [checkpoint.accuracy for checkpoint in found.checkpoints.values()] == [70.0]


def test_a_checkpoint_that_is_a_folder_is_refused(tmp_path):
    with pytest.raises(RequestError, match=r"pairs\[0\].teacher.checkpoint: .*: is a folder, where a regular file"):
        plan_of(tmp_path, pairs=[checkpoint_pair(".")])


# cohorts


def grouped(found: Plan) -> list[list[str]]:
    """Return the rows of every cohort, as `row seed`, or `student row seed` for several students."""
    labels = {run.id: cell for cell in reversed(found.cells) for run in cell.runs}
    return [[f"{labels[run.id].label} {run.seed}" for run in cohort.runs] for cohort in cohorts(found.runs.values())]


def test_runs_of_one_seed_train_together_and_none_with_them(tmp_path):
    assert grouped(plan_of(tmp_path, methods=["kd", "at"], seeds=2)) == [
        ["teacher 0"],
        ["none 1", "KD 1", "AT 1"],
        ["none 2", "KD 2", "AT 2"],
    ]


def test_a_cohort_needs_the_teacher_of_its_runs(tmp_path):
    found = plan_of(tmp_path, methods=["kd", "at"])
    assert [cohort.needs for cohort in cohorts(found.runs.values())] == [set(), set(ids(found, "teacher"))]


def test_students_of_different_teachers_train_apart(tmp_path):
    pairs = [{"teacher": name, "student": "resnet8"} for name in ("resnet14", "resnet20")]
    assert grouped(plan_of(tmp_path, pairs=pairs)) == [["teacher 0", "teacher 0"], ["none 1", "KD 1"], ["KD 1"]]


def test_different_students_of_one_teacher_train_together(tmp_path):
    pairs = [{"teacher": "resnet14", "student": name} for name in ("resnet8", "vgg8")]
    assert grouped(plan_of(tmp_path, pairs=pairs)) == [["teacher 0"], ["none 1", "KD 1", "none 1", "KD 1"]]


def test_rates_and_initial_stages_keep_no_one_apart(tmp_path):
    pairs = [{"teacher": "resnet14", "student": name} for name in ("resnet8", "vgg8")]
    found = plan_of(tmp_path, pairs=pairs, methods=["ab"], lr_by_network={"vgg8": 0.01}, controls=False)
    assert grouped(found) == [["teacher 0"], ["none 1", "AB 1", "none 1", "AB 1"]]


def test_a_subset_of_the_runs_is_grouped_alike(tmp_path):
    found = plan_of(tmp_path, methods=["kd", "at"], seeds=2)
    wanted = [run for run in found.runs.values() if run.seed == 2]
    assert [len(cohort.runs) for cohort in cohorts(wanted)] == [3]


@pytest.mark.parametrize(("max_lanes", "sizes"), [(None, [5]), (5, [5]), (4, [2, 3]), (2, [1, 2, 2]), (1, [1] * 5)])
def test_a_cohort_with_more_lanes_than_allowed_is_split_evenly(tmp_path, max_lanes, sizes):
    found = plan_of(tmp_path, methods=["kd", "at", "sp", "pkt"])
    students = [run for run in found.runs.values() if run.seed == 1]
    parts = cohorts(students, max_lanes)
    assert [len(part.runs) for part in parts] == sizes
    assert [run for part in parts for run in part.runs] == students


def test_a_checkpoint_trains_in_no_cohort(tmp_path):
    (tmp_path / "a.pth").write_bytes(b"weights")
    assert grouped(plan_of(tmp_path, pairs=[checkpoint_pair("a.pth")])) == [["none 1", "KD 1"]]


def test_several_teachers_are_trained_from_seeds_of_their_own_and_evaluated_together(tmp_path):
    plan = plan_of(tmp_path, pairs=[{"teachers": {"network": "resnet14", "n": 3}, "student": "resnet8"}], seeds=2)
    (together,) = cell_of(plan, "teacher").runs
    assert cell_of(plan, "KD").pair == "resnet14x3->resnet8"
    assert [plan.runs[name].seed for name in together.teachers] == [0, 1, 2]
    assert {run.teachers for run in cell_of(plan, "KD").runs} == {together.teachers}
    assert [run.schedule for run in (together, *(plan.runs[name] for name in together.teachers))].count(None) == 1


def test_one_copy_is_the_pair_with_one_teacher(tmp_path):
    one = plan_of(tmp_path, pairs=[{"teachers": {"network": "resnet14", "n": 1}, "student": "resnet8"}])
    assert ids(one) == ids(plan_of(tmp_path))
    assert cell_of(one, "KD").pair == "resnet14->resnet8"


def test_a_list_of_teachers_is_named_by_all_and_equal_ones_differ_in_seed(tmp_path):
    pairs = [{"teachers": ["resnet14", "resnet20", "resnet14"], "student": "resnet8"}]
    plan = plan_of(tmp_path, pairs=pairs)
    (together,) = cell_of(plan, "teacher").runs
    assert cell_of(plan, "teacher").pair == "resnet14+resnet20+resnet14->resnet8"
    assert [(plan.runs[n].student.network, plan.runs[n].seed) for n in together.teachers] == [
        ("resnet14", 0),
        ("resnet20", 0),
        ("resnet14", 1),
    ]


def test_how_several_teachers_terms_are_combined_is_part_of_the_identity(tmp_path):
    pairs = [{"teachers": {"network": "resnet14", "n": 2}, "student": "resnet8"}]
    summed, averaged = (
        plan_of(tmp_path, pairs=pairs, methods=[{"method": "kd", "combine": combine, "label": "KD"}])
        for combine in ("sum", "mean")
    )
    assert not set(ids(summed, "KD")) & set(ids(averaged, "KD"))


def test_one_teacher_of_several_at_their_weight_is_the_run_of_a_pair_with_that_teacher_and_weight(tmp_path):
    def plan(row: dict, n: int) -> Plan:
        return plan_of(
            tmp_path, methods=[row], pairs=[{"teachers": {"network": "resnet14", "n": n}, "student": "resnet8"}]
        )

    one = cell_of(plan({"method": "kd", "weight": 0.5, "combine": "one", "label": "KD"}, 3), "KD")
    alone = cell_of(plan({"method": "kd", "weight": 1.5, "label": "KD"}, 1), "KD")
    assert one.runs == alone.runs


def test_paired_seeds_give_every_seed_and_copy_a_teacher_of_its_own(tmp_path):
    pairs = [{"teachers": {"network": "resnet14", "n": 2}, "student": "resnet8"}]
    plan = plan_of(tmp_path, pairs=pairs, seeds=2, teacher_seeds="paired")
    seeds = [[plan.runs[name].seed for name in run.teachers] for run in cell_of(plan, "teacher").runs]
    assert seeds == [[1, 1001], [2, 1002]]


def test_every_run_has_a_title(tmp_path):
    pairs = [{"teachers": {"network": "resnet14", "n": 2}, "student": "resnet8"}]
    plan = plan_of(tmp_path, pairs=pairs)
    assert plan.titles.keys() == plan.runs.keys()
    assert ("resnet14x2->resnet8", "teacher resnet14") in plan.titles.values()


def test_no_run_is_lost_or_doubled_in_cohorts(tmp_path):
    pairs = [{"teacher": t, "student": s} for t in ("resnet14", "resnet20") for s in ("resnet8", "vgg8")]
    found = plan_of(tmp_path, pairs=pairs, methods=sorted(METHODS), seeds=3, teacher_seeds="paired")
    members = [run.id for cohort in cohorts(found.runs.values()) for run in cohort.runs]
    assert sorted(members) == sorted(found.runs)


@pytest.mark.parametrize("changes", [{"teacher_seeds": "paired", "seeds": 2}, {"seeds": [0, 1]}, {}])
@pytest.mark.parametrize("student", ["resnet8", "resnet14"])
def test_every_cohort_can_start_once_those_before_it_are_done(tmp_path, changes, student):
    pairs = [{"teacher": "resnet14", "student": student}, {"teacher": "resnet8", "student": "vgg8"}]
    plan = plan_of(tmp_path, pairs=pairs, **changes)
    done: set[str] = set()
    left = cohorts(list(plan.runs.values()))
    while left:
        ready = [cohort for cohort in left if cohort.needs <= done]
        assert ready, "cohorts that wait for one another"
        done |= {run.id for run in ready[0].runs}
        left.remove(ready[0])
    assert done == set(plan.runs)


@pytest.mark.parametrize("text", [TEXT, "\ufeff" + TEXT.replace("\n", "\r\n")])
def test_a_plan_has_the_text_that_was_parsed_not_that_of_an_edit_after_it(text, tmp_path):
    path = tmp_path / "edited.yaml"
    path.write_bytes(text.encode())
    suite = load(path, METHODS)
    path.write_text("title: another\n")
    assert build_plan(suite, path, METHODS).text == text
