"""How long runs will train, as far as finished runs and measured costs tell."""

import pytest

from bench.data import DataChoice, resolve
from bench.plan.duration import epochs_of, kind_of, paces, training_images
from bench.spec import HeldOut
from bench.store import Store, csv_text, write_whole
from bench.types import RequestError
from tests.stores import cell_of, plan_of

MADE = {"metrics": {"top1": 80.0, "top5": 99.0}, "best": None, "lanes": 2}


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "results")


def write_cost(store, rows):
    names = ("pair", "label", "stage", "data_ms", "teacher_ms", "step_ms", "setting")
    pair, setting = "resnet14->resnet8", "A GPU; 2 threads; 7 steps"
    written = [dict(zip(names, (pair, label, "main", 2.0, 10.0, ms, setting), strict=True)) for label, ms in rows]
    write_whole(store.suite_folder("table") / "cost.csv", csv_text(names, written))


def test_an_epoch_takes_as_long_as_in_finished_runs_of_other_schedules_divided_by_those_beside_them(tmp_path, store):
    earlier = plan_of(tmp_path, "training.epochs=4")
    run = cell_of(earlier, "none").runs[0]
    store.begin(run)
    store.finish(run.id, MADE | {"wall_s": 24.0, "device": "A GPU"})
    plan = plan_of(tmp_path, "training.epochs=100")
    known = paces(plan, store, "A GPU")
    kd, teacher = cell_of(plan, "KD").runs[0], cell_of(plan, "teacher").runs[0]
    assert known.of(kd) == 24 / 2 / 4
    assert known.source == "on one A GPU, from 1 finished run(s)"
    assert known.left([(kd, epochs_of(kd)), (teacher, 100)]) == (300.0, 1)  # nothing is known of the teacher


def test_finished_runs_of_this_device_count_and_only_without_them_those_of_others(tmp_path, store):
    plan = plan_of(tmp_path, seeds=3)
    for run, device in zip(cell_of(plan, "none").runs, ("here", "there", "there"), strict=True):
        store.begin(run)
        store.finish(run.id, MADE | {"wall_s": 2.0 if device == "here" else 6.0, "device": device})
    kd = cell_of(plan, "KD").runs[0]
    assert paces(plan, store, "here").of(kd) == 1.0
    assert paces(plan, store, "elsewhere").of(kd) == 3.0


def test_measured_epochs_replace_what_was_known(tmp_path, store):
    plan = plan_of(tmp_path)
    runs = [cell_of(plan, label).runs[0] for label in ("none", "KD")]
    known = paces(plan, store, "here")
    known.by_kind[kind_of(runs[0])] = (100.0, 1.0)
    known.measure(runs, 6.0)
    known.measure(runs, 10.0)
    assert known.of(runs[1]) == 4.0


def test_costs_of_steps_stand_in_where_no_run_has_finished(tmp_path, store):
    plan = plan_of(tmp_path)  # 40 training images, in one batch
    write_cost(store, [("none", 20.0), ("KD", 30.0)])
    known = paces(plan, store, "A GPU")
    by_label = {label: known.of(cell_of(plan, label).runs[0]) for label in ("teacher", "none", "KD")}
    assert by_label == pytest.approx({"teacher": 0.032, "none": 0.026, "KD": 0.036})
    assert known.source == "on A GPU, from cost.csv"


@pytest.mark.parametrize("text", ["pair,label\na,b\n", "", "\x00"])
def test_a_file_of_costs_in_another_form_tells_nothing(text, tmp_path, store):
    plan = plan_of(tmp_path)
    write_whole(store.suite_folder("table") / "cost.csv", text)
    assert paces(plan, store, "A GPU").source == ""


@pytest.mark.parametrize("value", ["x", "inf", "nan", "", "-1.0"])
def test_a_cost_that_is_not_a_finite_number_from_0_is_refused_by_name(value, tmp_path, store):
    plan = plan_of(tmp_path)
    write_cost(store, [("none", 20.0)])
    path = store.suite_folder("table") / "cost.csv"
    path.write_text(path.read_text().replace("20.0", value))
    with pytest.raises(RequestError, match=rf"cost\.csv: .*step_ms: '{value}' is not a finite number from 0"):
        paces(plan, store, "A GPU")


@pytest.mark.parametrize(("own", "number"), [({}, 870), ({"train_per_class": 18}, 170), ({"train_per_class": 3}, 30)])
def test_dev_images_of_another_subset_are_not_counted_as_trained_on(own, number):
    data = resolve(DataChoice(name="digits", resize=32, **own))
    held_out = HeldOut(per_class=3, of_per_class=20, opens_test=False)
    assert training_images(data.model_copy(update={"held_out": held_out})) == number
