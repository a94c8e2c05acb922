import csv
import sys

import numpy as np
import pytest
import scipy.stats
from statsmodels.stats.multitest import multipletests

from bench.cli import main
from bench.plan import Plan
from bench.report.correction import holm
from bench.report.frame import results_frame
from bench.report.improvement import Improvement, relative_improvement
from bench.report.inference import Contrast
from bench.report.statistics import gain_over_pairs, ranking
from bench.report.statistics_files import write
from bench.report.write import STATISTICS
from bench.store import Failure, Store
from bench.suite.published import published_tables
from tests.stores import cell_of, fail, finish, finish_all, plan_of

PAIRS = [{"teacher": f"resnet{depth}", "student": "resnet8"} for depth in (14, 20, 32)]
SEVEN = [{"teacher": f"resnet{depth}", "student": "resnet8"} for depth in (14, 20, 32, 44, 56, 110, "8x4")]


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "results")


def rows(plan: Plan, store: Store, statistic: str) -> list[dict[str, str]]:
    """Write the statistics and return statistics.csv's rows of one kind."""
    write(results_frame(plan, store))
    with (store.suite_folder(plan.name) / "statistics.csv").open(encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if row["statistic"] == statistic]


def text(plan: Plan, store: Store) -> str:
    """Write the statistics and return statistics.md."""
    write(results_frame(plan, store))
    return (store.suite_folder(plan.name) / "statistics.md").read_text(encoding="utf-8")


# the numbers


def published_means(*rows: str) -> list[list[float]]:
    """Return rows of the CRD paper's tables 1 and 2: top-1 accuracy on the 13 pairs."""
    known = published_tables()["1"] | published_tables()["2"]
    pairs = dict.fromkeys(key[:3] for key in known)
    return [[known[*pair, row, "top1"] for pair in pairs] for row in rows]


def test_over_the_published_pairs_crd_improves_on_kd_by_45_percent_and_the_papers_mean_of_ratios_is_57():
    found = relative_improvement(*published_means("CRD", "KD", "student"))
    assert (found.n, found.left_out) == (13, 0)
    assert found.ratio == pytest.approx(0.449, abs=5e-4)
    assert found.mean == pytest.approx(0.568, abs=5e-4)
    assert found.median == pytest.approx(0.366, abs=5e-4)
    low, high = found.interval
    assert 0 < low < found.ratio < high


def test_over_the_published_pairs_wilcoxon_tells_crd_from_kd():
    assert gain_over_pairs(*published_means("CRD", "KD")).p == pytest.approx(0.0002, abs=5e-5)


def test_fiellers_interval_is_where_the_t_test_of_the_difference_does_not_reject():
    ours, other, student = [75.0, 75.4, 76.0, 74.8], [74.0, 74.6, 74.9, 74.1], [70.0, 71.2, 70.9, 70.5]
    found = relative_improvement(ours, other, student)
    above, base = np.subtract(ours, other), np.subtract(other, student)
    for end in found.interval:
        assert scipy.stats.ttest_1samp(above - end * base, 0.0).pvalue == pytest.approx(0.05)


def test_there_is_no_relative_improvement_over_a_method_that_is_within_noise_of_the_student():
    assert relative_improvement([75.0, 75.0, 75.1], [70.1, 69.9, 70.2], [70.0, 70.0, 70.0]).ratio is None
    assert relative_improvement([75.0], [72.0], [70.0]) == Improvement(None, None, None, None, 1)


def test_pairs_in_which_the_other_method_is_not_above_the_student_are_left_out_of_the_papers_mean_and_counted():
    found = relative_improvement([75.0, 75.0, 80.0, 75.0], [72.0, 73.0, 74.0, 69.9], [70.0, 70.0, 70.0, 70.0])
    assert found.ratio is None  # within noise
    found = relative_improvement([75.0] * 6, [73.0, 73.0, 73.0, 73.1, 73.2, 69.9], [70.0] * 6)
    assert found.left_out == 1
    assert found.mean == pytest.approx(np.mean([2 / 3, 2 / 3, 2 / 3, 1.9 / 3.1, 1.8 / 3.2]))


def test_the_gain_over_pairs_has_students_interval_and_wilcoxons_p():
    values, reference = [75.0, 76.0, 74.5, 75.2], [74.0, 74.8, 73.9, 74.1]
    found = gain_over_pairs(values, reference)
    assert found.interval == pytest.approx(tuple(scipy.stats.ttest_rel(values, reference).confidence_interval(0.95)))
    assert found.p == pytest.approx(2 / 2**4)  # all four signs are equal


def test_two_pairs_have_no_interval_and_differences_without_spread_no_test():
    assert gain_over_pairs([1.0, 2.0], [0.0, 0.5]).interval is None
    assert gain_over_pairs([1.0], [0.0]) == Contrast(1, 1.0)
    assert gain_over_pairs([70.1, 71.1, 72.1], [70.0, 71.0, 72.0]).p is None


def test_holm_multiplies_the_smallest_p_by_the_number_of_tests_and_never_falls():
    assert holm([0.01, None, 0.04, 0.03]) == [pytest.approx(0.03), None, pytest.approx(0.06), pytest.approx(0.06)]
    assert holm([None]) == [None]


def test_holms_correction_is_that_of_statsmodels():
    values = np.random.default_rng(0).uniform(0, 0.1, size=9).round(2).tolist()  # some are equal
    assert len(set(values)) < len(values)
    assert holm(values) == multipletests(values, method="holm")[1].tolist()


def test_the_critical_difference_is_demsars():
    rng = np.random.default_rng(0)
    found = ranking(["a", "b", "c", "d"], rng.standard_normal((14, 4)))
    assert found.critical_difference == pytest.approx(1.25, abs=0.005)  # his example of four methods on 14 data sets


def test_mean_ranks_count_from_the_best_and_ties_share_a_rank():
    assert ranking(["a", "b", "c"], [[3.0, 2.0, 1.0], [3.0, 1.0, 1.0]]).ranks == [1.0, 2.25, 2.75]


def test_friedmans_statistic_is_that_of_the_ranks():
    values = np.random.default_rng(1).standard_normal((8, 5))
    found = ranking(list("abcde"), values)
    expected = 12 * 8 / (5 * 6) * sum((rank - 3) ** 2 for rank in found.ranks)  # chi-squared of mean ranks
    assert found.statistic == pytest.approx(expected)
    assert found.p == pytest.approx(scipy.stats.chi2.sf(expected, 4))


def test_ranks_a_critical_difference_apart_are_those_that_nemenyi_tells_apart():
    values = np.random.default_rng(2).standard_normal((12, 5)) + np.arange(5) * 0.8
    found = ranking(list("abcde"), values)
    apart = np.abs(np.subtract.outer(found.ranks, found.ranks)) > found.critical_difference
    assert (apart == (found.nemenyi < 0.05)).all()
    assert apart.any()


# from a suite's outcomes


def test_methods_are_compared_on_the_seeds_that_both_have(tmp_path, store):
    plan = plan_of(tmp_path, methods=["kd", "at"], seeds=3)
    finish(store, cell_of(plan, "none"), [60.0, 60.0, 60.0])
    finish(store, cell_of(plan, "KD"), [70.0, 71.0, 90.0])
    finish(store, cell_of(plan, "AT"), [72.0, 72.0])
    found = {(row["label"], row["reference"]): row for row in rows(plan, store, "gain")}
    assert set(found) == {("AT", "KD"), ("KD", "none"), ("AT", "none")}
    at = found["AT", "KD"]
    assert (at["n"], at["value"], at["note"]) == ("2", "1.5", "not all seeds are finished; see n")
    assert found["KD", "none"]["note"] == ""
    assert "| AT | 2<sup>†</sup> | +1.50 | — | 0." in text(plan, store)


def test_p_is_corrected_for_the_methods_of_a_pair_by_less_than_bonferroni(tmp_path, store):
    plan = plan_of(tmp_path, methods=["kd", "at", "sp"], seeds=3)
    for label, values in {"KD": [70.0, 71.0, 72.0], "AT": [72.0, 73.5, 74.2], "SP": [70.5, 71.9, 72.4]}.items():
        finish(store, cell_of(plan, label), values)
    found = rows(plan, store, "gain")
    assert {row["label"] for row in found} == {"AT", "SP"}
    for row in found:
        assert float(row["p"]) < float(row["p_adjusted"]) < 2 * float(row["p"])


def filled(tmp_path, store, **changes) -> Plan:
    """Return a plan of six pairs whose rows are finished, best first: CRD, AT, KD, none."""
    plan = plan_of(tmp_path, pairs=SEVEN[:6], methods=["kd", "at", "crd"], **changes)
    for number, cell in enumerate(plan.cells):
        value = {"none": 60.0, "KD": 64.0, "AT": 65.0, "CRD": 66.0, "teacher": 99.0}[cell.label]
        if cell.label != "none":
            finish(store, cell, [value + number / 100 * (cell.label != "KD")] * len(cell.runs))
        elif cell.pair.startswith("resnet14"):  # the same run for all pairs
            finish(store, cell, [value] * len(cell.runs))
    return plan


def test_over_all_pairs_the_samples_are_the_pairs_means(tmp_path, store):
    plan = filled(tmp_path, store, seeds=2)
    (found,) = [
        row
        for row in rows(plan, store, "gain")
        if (row["pair"], row["label"], row["reference"]) == ("all pairs", "AT", "KD")
    ]
    assert (found["n"], float(found["value"])) == ("6", pytest.approx(1.155))


def test_a_gain_over_pairs_that_are_not_all_there_is_marked(tmp_path, store):
    plan = plan_of(tmp_path, pairs=PAIRS, methods=["kd", "at", "sp"])
    for number, cell in enumerate(plan.cells):
        if (cell.label, cell.pair) != ("SP", "resnet32->resnet8"):
            finish(store, cell, [60.0 + number % 7])
    found = {
        row["label"]: row for row in rows(plan, store, "gain") if (row["pair"], row["reference"]) == ("all pairs", "KD")
    }
    assert {label: (row["n"], row["note"]) for label, row in found.items()} == {
        "AT": ("3", ""),
        "SP": ("2", "not all pairs are finished; see n"),
    }
    last = text(plan, store).split("## Gain over KD in top1, all pairs")[1]
    assert "| SP | 2<sup>†</sup> | " in last


def test_rows_are_ranked_over_pairs_teachers_left_out(tmp_path, store):
    plan = filled(tmp_path, store)
    found = {row["label"]: float(row["value"]) for row in rows(plan, store, "mean_rank")}
    assert found == {"CRD": 1.0, "AT": 2.0, "KD": 3.0, "none": 4.0}
    (friedman,) = rows(plan, store, "friedman")
    assert (friedman["n"], friedman["value"], friedman["note"]) == ("6", "18", "")  # six equal orders of four


def test_a_row_without_a_number_and_a_pair_not_finished_are_left_out_of_the_ranks_and_named(tmp_path, store):
    plan = plan_of(tmp_path, pairs=SEVEN, methods=["kd", "at", "sp", "fsp"])
    for number, cell in enumerate(plan.cells):
        if cell.label == "FSP" or (cell.label == "SP" and cell.pair == "resnet20->resnet8"):
            fail(store, cell, "inapplicable", "no")
        elif (cell.label, cell.pair) != ("KD", "resnet32->resnet8"):
            finish(store, cell, [60.0 + number])
    (friedman,) = rows(plan, store, "friedman")
    assert (friedman["n"], friedman["note"]) == ("6", "left out: SP, FSP, resnet32->resnet8")
    assert {row["label"] for row in rows(plan, store, "mean_rank")} == {"none", "KD", "AT"}


def test_a_row_that_lost_a_seed_for_good_is_left_out_of_the_ranks_and_its_pair_counts(tmp_path, store):
    plan = plan_of(tmp_path, pairs=SEVEN, methods=["kd", "at", "sp"], seeds=2)
    lost = cell_of(plan, "SP", "resnet20->resnet8")
    for number, cell in enumerate(plan.cells):
        finish(store, cell, [60.0 + number] if cell is lost else [60.0 + number, 60.0])
    (friedman,) = rows(plan, store, "friedman")
    assert (friedman["n"], friedman["note"]) == ("6", "left out: resnet20->resnet8")  # its second seed is waiting
    store.fail(lost.runs[1].id, Failure("diverged", "the loss was nan"))
    (friedman,) = rows(plan, store, "friedman")
    assert (friedman["n"], friedman["note"]) == ("7", "left out: SP")


def test_a_pair_whose_teacher_is_lost_does_not_keep_the_others_from_a_ranking(tmp_path, store):
    plan = plan_of(tmp_path, pairs=SEVEN, methods=["kd", "at"])
    for number, cell in enumerate(plan.cells):
        if cell.pair != "resnet20->resnet8":
            finish(store, cell, [60.0 + number])
        elif cell.method == "teacher":
            fail(store, cell, "failed", "disk full")
    (friedman,) = rows(plan, store, "friedman")
    assert (friedman["n"], friedman["note"]) == ("6", "left out: resnet20->resnet8")


def test_a_suite_of_one_pair_says_what_ranks_need(tmp_path, store):
    plan = plan_of(tmp_path, methods=["kd", "at"])
    for cell in plan.cells:
        finish(store, cell, [60.0])
    (friedman,) = rows(plan, store, "friedman")
    assert friedman["note"].startswith("Ranks need six pairs")
    assert friedman["note"].endswith("there are 1 and 3.")
    assert friedman["note"] in text(plan, store)


def test_crds_relative_improvement_is_over_each_other_method(tmp_path, store):
    plan = filled(tmp_path, store)
    found = {row["reference"]: row for row in rows(plan, store, "relative_improvement_mean")}
    assert set(found) == {"KD", "AT"}
    shares = [(66 + number / 100 - 64) / 4 for number in (4, 9, 14, 19, 24, 29)]
    assert float(found["KD"]["value"]) == pytest.approx(np.mean(shares))
    assert "| AT | top1 | 6 pairs | 19.6 % | " in text(plan, store)  # 1.01 above AT, which is 5.155 above none


def test_rows_that_tie_everywhere_have_ranks_and_no_p(tmp_path, store):
    plan = plan_of(tmp_path, pairs=SEVEN, methods=["kd", "at"])
    for cell in plan.cells:
        finish(store, cell, [60.0])
    (friedman,) = rows(plan, store, "friedman")
    assert (friedman["value"], friedman["p"]) == ("", "")
    assert {row["value"] for row in rows(plan, store, "mean_rank")} == {"2"}


def test_an_empty_store_gives_statistics_that_say_so(tmp_path, store):
    plan = plan_of(tmp_path)
    assert rows(plan, store, "gain") == []
    assert "No gains yet" in text(plan, store)


def test_the_same_store_gives_the_same_files(tmp_path, store):
    plan = plan_of(tmp_path, methods=["kd", "at"], seeds=20)  # so many that no two draws of resamples agree
    for label in ("KD", "AT"):
        finish(
            store, cell_of(plan, label), np.random.default_rng(len(label) + ord(label[0])).uniform(70, 75, 20).tolist()
        )
    assert rows(plan, store, "gain") == rows(plan, store, "gain")


def test_teachers_that_learn_from_their_students_are_not_compared_with_students(tmp_path, store):
    plan = plan_of(tmp_path, task="mutual", pairs=SEVEN[:6], methods=["kd", "at", "crd"])
    for number, cell in enumerate(plan.cells):
        finish(store, cell, [60.0 + number])
    assert {(row["label"], row["reference"]) for row in rows(plan, store, "gain")} == {
        *(("AT", "KD"), ("CRD", "KD"), ("KD", "none"), ("AT", "none"), ("CRD", "none"))
    }
    assert {row["label"] for row in rows(plan, store, "mean_rank")} == {"none", "KD", "AT", "CRD"}
    assert {row["reference"] for row in rows(plan, store, "relative_improvement_mean")} == {"KD", "AT"}
    (friedman,) = rows(plan, store, "friedman")
    assert friedman["note"] == ""


def test_a_run_with_nothing_to_do_makes_statistics_anew_where_they_are_of_another_table(tmp_path, store, monkeypatch):
    def run() -> None:
        monkeypatch.setattr(sys, "argv", ["x", str(tmp_path / "table.yaml"), "--results", str(store.root)])
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == 0

    plan = plan_of(tmp_path)
    finish_all(store, plan, {"teacher": [90.0], "none": [80.0], "KD": [85.0]})
    files = [store.suite_folder(plan.name) / name for name in STATISTICS]
    run()
    made = [path.read_text(encoding="utf-8") for path in files]
    assert "| KD | 1 | +5.00 | — | — | — |" in made[1]
    page = store.suite_folder(plan.name) / "report.html"
    whole = page.read_text(encoding="utf-8")
    page.write_text("an earlier page, as is left by a kill after the statistics")
    run()
    assert page.read_text(encoding="utf-8") == whole
    (tmp_path / "other").mkdir()
    other = plan_of(tmp_path / "other", methods=["kd", "at"])  # the same suite before a row was taken out
    write(results_frame(other, store))
    run()
    assert [path.read_text(encoding="utf-8") for path in files] == made
