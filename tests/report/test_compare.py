"""Two results compared: suites, folders of results, and reports without their runs."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from safetensors.numpy import save

from bench import api
from bench.report.compare import Comparison
from bench.report.differences import Difference
from bench.report.sides import Place, of_report
from bench.report.write import write_tables
from bench.store import ANSWERS, Store
from bench.types import RequestError
from tests.stores import cell_of, finish_all, plan_of

PUBLISHED = Path(__file__).parents[2] / "results" / "published"
PAIR = "resnet14->resnet8"
KD = {"label": "KD", "metric": "top1"}
A = {"teacher": [90.0], "none": [80.0, 81.0, 82.0], "KD": [84.0, 85.5, 85.0]}
B = {"teacher": [90.0], "none": [80.5, 81.0, 82.5], "KD": [86.0, 86.5, 88.0]}


def made(folder: Path, values: dict[str, list[float]], **changes: object) -> Path:
    """Make a suite file, finished runs and a report in a folder; return the folder of the results."""
    folder.mkdir()
    plan, store = plan_of(folder, **{"seeds": 3} | changes), Store(folder / "results")
    finish_all(store, plan, values)
    write_tables(plan, store)
    return store.root


@pytest.fixture(scope="module")
def a(tmp_path_factory) -> Path:
    """Return a folder of results."""
    return made(tmp_path_factory.mktemp("results") / "a", A)


@pytest.fixture(scope="module")
def b(tmp_path_factory) -> Path:
    """Return another one, in which each run has two epochs, KD another weight, and a record other facts."""
    folder = tmp_path_factory.mktemp("results") / "b"
    changes = {"training": {"epochs": 2}, "methods": [{"method": "kd", "weight": 0.5, "label": "KD"}]}
    store = Store(made(folder, B, **changes))
    for run in cell_of(plan_of(folder, seeds=3, **changes), "KD").runs:
        store.amend(run.id, {"threads": 1, "versions": {"torch": "2.9"}})
    return store.root


@pytest.fixture(scope="module")
def found(a, b) -> Comparison:
    """Return their comparison."""
    return api.compare(a, b)


def only(found: Comparison, **where: str) -> Difference:
    """Return the difference of one cell."""
    return next(one for one in found.cells if all(getattr(one, key) == value for key, value in where.items()))


def setting(found: Comparison, key: str) -> tuple[str, str, list[str]]:
    """Return the values of a setting that differs, and the labels of its rows."""
    one = next(one for one in found.settings if one.key == key)
    return one.a, one.b, [row.removeprefix(f"{PAIR}: ") for row in one.rows]


def test_equal_seeds_are_compared_by_the_paired_t_test(found):
    kd, expected = only(found, **KD), scipy.stats.ttest_rel(B["KD"], A["KD"])
    assert (kd.test, kd.n_a, kd.difference) == ("paired t", 3, pytest.approx(2.0))
    assert (kd.low, kd.high) == pytest.approx(tuple(expected.confidence_interval(0.95)))
    assert kd.p == pytest.approx(expected.pvalue)


def test_other_seeds_are_compared_by_welchs_test(a, tmp_path):
    more = B | {"none": [80.0] * 4, "KD": [86.0, 86.5, 88.0, 87.0]}
    kd = only(api.compare(a, made(tmp_path / "more", more, seeds=4)), **KD)
    expected = scipy.stats.ttest_ind(more["KD"], A["KD"], equal_var=False)
    assert (kd.test, kd.n_a, kd.n_b) == ("Welch's t", 3, 4)
    assert (kd.low, kd.high) == pytest.approx(tuple(expected.confidence_interval(0.95)))
    assert kd.p == pytest.approx(expected.pvalue)


def test_a_p_is_corrected_for_all_cells_of_its_metric(found):
    kd, none = only(found, **KD), only(found, label="none", metric="top1")
    assert kd.p < none.p
    assert (kd.p_adjusted, none.p_adjusted) == (pytest.approx(2 * kd.p), pytest.approx(max(2 * kd.p, none.p)))


def test_one_seed_or_two_have_no_interval_and_the_reason_is_named(a, tmp_path):
    found = api.compare(a, made(tmp_path / "two", {label: values[:2] for label, values in B.items()}, seeds=2))
    assert (only(found, **KD).low, only(found, **KD).note) == (None, "two seeds")
    assert only(found, label="teacher", metric="top1").note == "one seed"


def test_the_settings_that_differ_are_listed_with_their_rows(found):
    assert setting(found, "schedule.epochs") == ("1", "2", ["teacher", "none", "KD"])
    assert setting(found, "terms[0].weight") == ("0.9", "0.5", ["KD"])
    assert setting(found, "teacher.schedule.epochs") == ("1", "2", ["KD"])
    of_records = {"record.threads", "record.versions.torch"}
    assert {one.key for one in found.settings} - of_records == {
        "schedule.epochs",
        "terms[0].weight",
        "teacher.schedule.epochs",
    }


def test_facts_of_the_records_that_differ_are_listed(found):
    assert setting(found, "record.threads") == ("2", "1", ["KD"])
    assert setting(found, "record.versions.torch") == ("", "2.9", ["KD"])


def test_what_only_one_side_has_is_listed_with_what_the_other_has(a, tmp_path):
    more = made(tmp_path / "more", A | {"AT": [70.0] * 3}, methods=["kd", "at"])
    assert api.compare(more, a).only_a == [f"{PAIR}: AT (top1, top5): not there on the other side"]
    assert api.compare(a, more).only_b == [f"{PAIR}: AT (top1, top5): not there on the other side"]


def test_a_suite_file_a_folder_of_results_and_its_report_are_the_same_side(a):
    for one, other in ((a, a / "table"), (a / "table", a.parent / "table.yaml")):
        found = api.compare(one, other, results=a)
        assert {cell.difference for cell in found.cells} == {0.0}
        assert only(found, **KD).note == "equal on every seed"
        assert (found.settings, found.without_settings, found.only_a, found.only_b) == ([], [], [], [])


def test_a_report_without_its_runs_is_compared_by_means_and_deviations(a, b, tmp_path):
    shutil.copytree(b / "table", tmp_path / "copied")
    found = api.compare(a, tmp_path / "copied")
    expected = scipy.stats.ttest_ind(B["KD"], A["KD"], equal_var=False).confidence_interval(0.95)
    assert only(found, **KD).test == "Welch's t"
    assert (only(found, **KD).low, only(found, **KD).high) == pytest.approx(tuple(expected), abs=1e-3)
    assert found.without_settings == [f"{PAIR}: {label}" for label in ("teacher", "none", "KD")]


def test_a_published_report_has_the_values_of_its_seeds():
    found = of_report(PUBLISHED / "fashion_mnist")[Place("resnet20->resnet8", "KD", "top1")]
    assert list(found.by_seed) == list(found.runs) == [1, 2, 3, 4, 5]
    assert np.mean(list(found.by_seed.values())) == pytest.approx(found.mean, abs=1e-3)


def test_a_report_is_read_as_it_was_printed_where_its_suite_file_has_changed_since(a, tmp_path):
    later = made(tmp_path / "later", B)
    plan_of(tmp_path / "later", seeds=3, training={"epochs": 7})
    assert only(api.compare(a, later), **KD).difference == pytest.approx(2.0, abs=1e-4)


def test_of_folders_with_several_suites_those_of_one_name_are_compared(a, b, tmp_path):
    both, others = tmp_path / "both", tmp_path / "others"
    shutil.copytree(b, both)
    shutil.copytree(b / "table", both / "other")
    found = api.compare(a, both)
    assert {one.suite for one in found.cells} == {"table"}
    assert found.only_b[0] == f"other: {PAIR}: teacher (top1, top5): not there on the other side"
    shutil.copytree(both, others)
    (others / "table").rename(others / "third")
    with pytest.raises(RequestError, match="no suite in common"):
        api.compare(a, others)


def test_where_both_sides_have_answers_their_images_are_compared(tmp_path):
    folders = []
    for name, values, right in (("a", A, 60), ("b", B, 75)):
        store = Store(made(tmp_path / name, values))
        logits = np.zeros((100, 2), dtype=np.float16)
        logits[:right, 0] = logits[right:, 1] = 1  # all labels are 0
        tensors = {"logits": logits, "scale": np.ones(1, np.float32), "labels": np.zeros(100, np.int32)}
        for run in cell_of(plan_of(tmp_path / name, seeds=3), "KD").runs:
            store.write(run.id, ANSWERS, save(tensors | {"indices": np.arange(100, dtype=np.int32)}))
        folders.append(store.root)
    found = api.compare(*folders)
    kd = only(found, **KD)
    assert kd.mcnemar_p == pytest.approx(2**-14)
    assert 5 < kd.images_low < 15 < kd.images_high < 25
    assert only(found, label="none", metric="top1").mcnemar_p is None


def test_the_data_frames_have_a_row_per_cell_and_per_setting(found):
    assert found.frame().query("metric == 'top1'")["label"].tolist() == ["teacher", "none", "KD"]
    assert found.settings_frame()["key"].tolist() == [one.key for one in found.settings]


# the command


def test_the_command_prints_differences_and_settings(a, b, cli):
    status, out, _ = cli("compare", a, b)
    assert status == 0
    for text in ("84.83 (3)", "+2.00", "schedule.epochs", "all rows"):
        assert text in out


def test_the_json_has_every_cell(a, b, cli):
    status, out, _ = cli("compare", a, b, "--json")
    cells = json.loads(out)["cells"]
    assert status == 0
    assert [(cell["label"], cell["metric"]) for cell in cells][:3] == [
        ("teacher", "top1"),
        ("teacher", "top5"),
        ("none", "top1"),
    ]


@pytest.mark.parametrize("there", ["nothing", "an empty folder", "runs without a report"])
def test_what_is_no_result_is_refused(a, tmp_path, cli, there):
    other = tmp_path / "other"
    if there != "nothing":
        (other / ("runs" if there.startswith("runs") else "")).mkdir(parents=True)
    status, _, err = cli("compare", a, other)
    assert status == 2
    assert err.startswith(f"{other}: ")


def test_results_without_a_cell_in_common_are_refused(a, tmp_path, cli):
    pairs = [{"teacher": "resnet20", "student": "resnet8"}]
    status, _, err = cli("compare", a, made(tmp_path / "b", B, pairs=pairs))
    assert status == 2
    assert "no cell has a number on both sides" in err


HEAD = "pair,label,metric,n,mean,std,status\n"


@pytest.mark.parametrize("text", ["", "pair,label\na,b\n", f"{HEAD}{PAIR},KD,top1,three,,,done\n"])
def test_a_damaged_table_is_named(a, tmp_path, cli, text):
    (tmp_path / "table.csv").write_text(text)
    status, _, err = cli("compare", a, tmp_path)
    assert status == 2
    assert err.startswith(f"{tmp_path / 'table.csv'}: ")
