import csv
import os
import re
import subprocess
import sys

import pytest

from bench.plan import Plan
from bench.report.write import write_tables
from bench.store import Store, files
from bench.store.files import read_bytes
from tests.stores import HOSTILE, cell_of, fail, finish, finish_all, plan_of

COLUMNS = "pair,teacher,student,method,label,metric,n,mean,std,best_mean,published,status,reason,difference,variant"
PAIRS = [{"teacher": "resnet14", "student": "resnet8"}, {"teacher": "resnet20", "student": "resnet8"}]


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "results")


def table(plan: Plan, store: Store, metric: str = "top1") -> dict[str, dict[str, str]]:
    """Write the tables and return table.csv's rows of one metric, by label; of the first pair, where there are more."""
    write_tables(plan, store)
    with (store.suite_folder(plan.name) / "table.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["metric"] == metric]
    return {row["label"]: row for row in reversed(rows)}


def written(plan: Plan, store: Store, kind: str) -> str:
    """Write the tables and return one as text."""
    write_tables(plan, store)
    return (store.suite_folder(plan.name) / f"table.{kind}").read_text(encoding="utf-8")


def markdown_cells(plan: Plan, store: Store, below: str = "") -> dict[str, list[str]]:
    """Return the cells by label of table.md's part below a heading; of the first one, if none is named."""
    (part,) = [part for part in re.split(r"^#+ ", written(plan, store, "md"), flags=re.MULTILINE)[1:] if below in part][
        :1
    ]
    lines = [line for line in part.splitlines() if line.startswith("| ")]
    return {label: cells for label, *cells in (line.strip("| ").split(" | ") for line in lines)}


# table.csv


def test_the_columns_are_the_fixed_ones(tmp_path, store):
    assert written(plan_of(tmp_path), store, "csv").splitlines()[0] == COLUMNS


def test_every_cell_has_a_row_a_metric_in_the_plans_order(tmp_path, store):
    rows = csv.DictReader(written(plan_of(tmp_path, pairs=PAIRS), store, "csv").splitlines())
    assert [
        (row["pair"], row["teacher"], row["student"], row["method"], row["label"], row["metric"]) for row in rows
    ] == [
        (f"{teacher}->resnet8", teacher, "resnet8", method, label, metric)
        for teacher in ("resnet14", "resnet20")
        for method, label in (("teacher", "teacher"), ("none", "none"), ("kd", "KD"))
        for metric in ("top1", "top5")
    ]


def test_methods_stand_by_their_registered_names(tmp_path, store):
    methods = [
        {"method": "crd", "kd": 1.0},
        {"terms": ["at", "sp"], "label": "both"},
        {"method": "kd", "label": "Hinton"},
    ]
    rows = table(plan_of(tmp_path, methods=methods), store)
    assert {label: row["method"] for label, row in rows.items()} == {
        "teacher": "teacher",
        "none": "none",
        "CRD+KD": "crd",
        "both": "at+sp",
        "Hinton": "kd",
    }


def test_mean_and_deviation_are_of_the_last_epochs_over_seeds(tmp_path, store):
    plan = plan_of(tmp_path, seeds=3)
    finish(store, cell_of(plan, "KD"), [70.0, 71.0, 75.0])
    row = table(plan, store)["KD"]
    assert (row["n"], row["mean"], row["std"]) == ("3", "72.0", "2.6458")  # sqrt(((-2)^2 + (-1)^2 + 3^2) / 2)
    assert (row["best_mean"], row["status"], row["reason"]) == ("73.0", "done", "")


def test_the_deviation_is_empty_at_one_seed(tmp_path, store):
    plan = plan_of(tmp_path)
    finish(store, cell_of(plan, "KD"), [70.0])
    row = table(plan, store)["KD"]
    assert (row["n"], row["mean"], row["std"]) == ("1", "70.0", "")


def test_top5_has_numbers_of_its_own(tmp_path, store):
    plan = plan_of(tmp_path)
    finish(store, cell_of(plan, "KD"), [70.0])
    row = table(plan, store, "top5")["KD"]
    assert (row["mean"], row["best_mean"]) == ("99.0", "99.5")


def test_a_checkpoint_has_no_best_epoch(tmp_path, store):
    (tmp_path / "a.pth").write_bytes(b"weights")
    pair = {"teacher": {"network": "resnet14", "checkpoint": "a.pth"}, "student": "resnet8"}
    plan = plan_of(tmp_path, pairs=[pair])
    run = cell_of(plan, "teacher").runs[0]
    store.begin(run)
    store.finish(run.id, {"metrics": {"top1": 70.0, "top5": 90.0}, "best": None})
    row = table(plan, store)["teacher"]
    assert (row["mean"], row["best_mean"], row["status"]) == ("70.0", "", "done")


def test_the_difference_is_the_mean_less_the_published_number(tmp_path, store):
    pair = {"teacher": "wrn_40_2", "student": "wrn_16_2"}
    plan = plan_of(tmp_path, pairs=[pair], data="cifar100", methods=["kd", "at"], published={"source": "x", "table": 1})
    finish(store, cell_of(plan, "KD"), [75.0])
    rows = table(plan, store)
    assert [(rows[label]["published"], rows[label]["difference"]) for label in ("KD", "AT")] == [
        ("74.92", "0.08"),
        ("74.08", ""),
    ]


# status and reason


def status(plan: Plan, store: Store, label: str = "KD") -> tuple[str, str]:
    row = table(plan, store)[label]
    return row["status"], row["reason"]


def test_a_cell_without_runs_waits(tmp_path, store):
    plan = plan_of(tmp_path)
    row = table(plan, store)["KD"]
    assert [row[key] for key in ("n", "mean", "std", "best_mean", "status", "reason")] == [
        "0",
        "",
        "",
        "",
        "waiting",
        "",
    ]


def test_a_cell_with_some_of_its_seeds_is_partial_and_says_what_is_missing(tmp_path, store):
    plan = plan_of(tmp_path, seeds=3)
    finish(store, cell_of(plan, "KD"), [70.0, 71.0])
    assert table(plan, store)["KD"]["n"] == "2"
    assert status(plan, store) == ("partial", "seed 3 waiting")


def test_a_partial_cell_gives_the_failures_reason(tmp_path, store):
    plan = plan_of(tmp_path, seeds=2)
    fail(store, cell_of(plan, "KD"), "diverged", "the loss was nan in epoch 1")
    store.forget_failure(cell_of(plan, "KD").runs[0].id)
    finish(store, cell_of(plan, "KD"), [70.0])
    run = cell_of(plan, "KD").runs[1]
    assert status(plan, store) == ("partial", f"seed 2 diverged: the loss was nan in epoch 1 (run {run.id})")


@pytest.mark.parametrize("state", ["failed", "diverged", "inapplicable"])
def test_a_cell_that_ended_without_a_number_says_why(state, tmp_path, store):
    plan = plan_of(tmp_path)
    fail(store, cell_of(plan, "KD"), state, "for a reason")
    run = "" if state == "inapplicable" else f" (run {cell_of(plan, 'KD').runs[0].id})"
    assert status(plan, store) == (state, f"for a reason{run}")


def test_a_cell_that_another_process_trains_is_running(tmp_path, store):
    plan = plan_of(tmp_path)
    run = cell_of(plan, "KD").runs[0]
    code = (
        "import sys; from pathlib import Path; from bench.store import Store\n"
        f"print(Store(Path({str(store.root)!r})).claim({run.id!r}), flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "True\n"
        assert status(plan, store) == ("running", "another process trains it")
        other.stdin.close()
    assert status(plan, store) == ("waiting", "")


@pytest.mark.parametrize("state", ["failed", "diverged"])
def test_students_of_a_teacher_that_failed_or_diverged_share_its_fate_and_reason(state, tmp_path, store):
    plan = plan_of(tmp_path, seeds=2)
    fail(store, cell_of(plan, "teacher"), state, "disk full")
    reason = f"disk full (run {cell_of(plan, 'teacher').runs[0].id})"
    assert status(plan, store, "teacher") == (state, reason)
    assert status(plan, store) == (state, f"its teacher resnet14 {state}: {reason}")
    assert status(plan, store, "none") == ("waiting", "")


def test_a_finished_student_of_a_lost_teacher_keeps_its_number(tmp_path, store):
    plan = plan_of(tmp_path)
    fail(store, cell_of(plan, "teacher"), "failed", "disk full")
    finish(store, cell_of(plan, "KD"), [70.0])
    assert status(plan, store) == ("done", "")


# table.md and table.tex


def bold(plan: Plan, store: Store, column: int = 0) -> set[str]:
    """Return the rows that are bold in a column of table.md."""
    return {label for label, cells in markdown_cells(plan, store).items() if cells[column].startswith("**")}


def test_methods_that_cannot_be_told_apart_from_the_best_are_bold(tmp_path, store):
    plan = plan_of(tmp_path, methods=["kd", "at", "sp"], seeds=3)
    near = {"KD": [71.8, 72.1, 71.9], "AT": [72.0, 71.9, 72.2], "SP": [60.1, 60.0, 60.2]}
    finish_all(store, plan, {"teacher": [99.0], "none": [98.0, 98.1, 97.9], **near})
    assert bold(plan, store) == {"KD", "AT"}
    tex = written(plan, store, "tex")
    assert r"AT & \textbf{72.03} {\scriptsize $\pm$ 0.15 (3)} ($\uparrow$) \\" in tex
    assert r"SP & 60.10 {\scriptsize" in tex


def test_with_one_seed_nothing_is_bold_and_the_caption_says_why(tmp_path, store):
    plan = plan_of(tmp_path, methods=["kd", "at"])
    finish_all(store, plan, {"teacher": [9.0], "none": [8.0], "KD": [72.0], "AT": [70.0]})
    assert bold(plan, store) == set()
    assert "Nothing is bold: one seed cannot tell a difference from chance." in written(plan, store, "md")


def test_no_row_of_a_grid_is_bold_and_it_takes_no_mark_from_others(tmp_path, store):
    plan = plan_of(tmp_path, methods=["kd", "at", {"method": "crd", "n_negatives": [4, 16]}], seeds=2)
    values = {
        "KD": [70.0, 70.1],
        "AT": [60.0, 60.2],
        "CRD n_negatives=4": [80.0, 80.1],
        "CRD n_negatives=16": [81.0, 81.2],
    }
    finish_all(store, plan, {"teacher": [9.0], "none": [8.0, 8.1], **values})
    assert bold(plan, store) == {"KD"}
    assert "No row of a grid is bold" in written(plan, store, "md")


def test_the_caption_states_the_smallest_difference_that_would_have_shown(tmp_path, store):
    plan = plan_of(tmp_path, methods=["kd", "at"], seeds=3)
    values = {"none": [70.0, 70.5, 70.2], "KD": [71.0, 71.4, 71.5], "AT": [71.3, 71.1, 71.0]}
    finish_all(store, plan, {"teacher": [99.0], **values})
    said = re.search(
        r"a true difference from none of (\d\.\d\d) points and one from KD of (\d\.\d\d) points is found",
        written(plan, store, "md"),
    )
    assert said is not None
    assert 0.2 < float(said[2]) <= float(said[1]) < 3  # KD is compared with fewer rows


def test_a_method_alone_is_not_the_best(tmp_path, store):
    plan = plan_of(tmp_path)
    finish_all(store, plan, {"teacher": [9.0], "none": [8.0], "KD": [70.0]})
    assert markdown_cells(plan, store)["KD"] == ["70.00 (1)"]


def test_each_pair_has_a_best_of_its_own(tmp_path, store):
    plan = plan_of(tmp_path, pairs=PAIRS, methods=["kd", "at"], seeds=2)
    for (pair, label), value in {
        ("resnet14->resnet8", "KD"): 71.0,
        ("resnet14->resnet8", "AT"): 60.0,
        ("resnet20->resnet8", "KD"): 60.0,
        ("resnet20->resnet8", "AT"): 71.0,
    }.items():
        finish(store, cell_of(plan, label, pair), [value, value + 0.1])
    assert [bold(plan, store, column) for column in (0, 1)] == [{"KD"}, {"AT"}]


def test_students_and_teachers_that_learn_from_each_other_have_places_and_arrows_apart(tmp_path, store):
    plan = plan_of(tmp_path, task="mutual", methods=["kd", "at"], seeds=2)
    for label, own, peers in (("KD", 60.0, 90.0), ("AT", 70.0, 80.0)):
        for seed, run in enumerate(cell_of(plan, label).runs):
            top1 = {"top1": own + seed / 10, "peer_top1": peers + seed / 10}
            store.finish(run.id, {"metrics": {**top1, "top5": 99.0, "peer_top5": 99.0}, "best": None})
    assert bold(plan, store) == {"KD (teacher)", "AT"}
    assert {label for label, (text,) in markdown_cells(plan, store).items() if "↑" in text} == {"AT"}


def test_several_seeds_are_printed_as_mean_deviation_and_their_number(tmp_path, store):
    plan = plan_of(tmp_path, seeds=3)
    finish(store, cell_of(plan, "KD"), [70.0, 71.0, 75.0])
    assert markdown_cells(plan, store)["KD"] == ["72.00 ± 2.65 (3)"]
    assert r"KD & 72.00 {\scriptsize $\pm$ 2.65 (3)} \\" in written(plan, store, "tex")


def test_a_partial_cell_is_marked_and_takes_no_place(tmp_path, store):
    plan = plan_of(tmp_path, methods=["kd", "at", "sp"], seeds=2)
    finish(store, cell_of(plan, "KD"), [99.0])
    finish(store, cell_of(plan, "AT"), [70.0, 70.0])
    finish(store, cell_of(plan, "SP"), [71.0, 71.0])
    cells = markdown_cells(plan, store)
    assert cells["KD"] == ["99.00 (1)<sup>†</sup>"]
    assert cells["SP"] == ["**71.00 (71.00, 71.00)**"]
    assert "- <sup>†</sup> not all seeds are finished; see n" in written(plan, store, "md")
    tex = written(plan, store, "tex")
    assert r"KD & 99.00 {\scriptsize (1)}\textsuperscript{$\dagger$} \\" in tex
    assert r"\textsuperscript{$\dagger$} not all seeds are finished; see n" in tex


def test_a_dash_has_its_reason_in_a_note_and_equal_reasons_share_one(tmp_path, store):
    plan = plan_of(tmp_path, pairs=PAIRS, methods=["kd", "fsp", "at"])
    for pair in ("resnet14->resnet8", "resnet20->resnet8"):
        fail(store, cell_of(plan, "FSP", pair), "inapplicable", "stage 2 has 32 channels, teacher 64")
    fail(store, cell_of(plan, "AT"), "diverged", "the loss\n was  nan")
    cells = markdown_cells(plan, store)
    assert cells["FSP"] == ["—<sup>b</sup>", "—<sup>b</sup>"]
    assert cells["AT"] == ["—<sup>c</sup>", "—<sup>a</sup>"]
    assert [line for line in written(plan, store, "md").splitlines() if line.startswith("- ")] == [
        "- <sup>a</sup> waiting",
        "- <sup>b</sup> inapplicable: stage 2 has 32 channels, teacher 64",
        f"- <sup>c</sup> diverged: the loss was nan (run {cell_of(plan, 'AT').runs[0].id})",
    ]
    tex = written(plan, store, "tex")
    assert r"FSP & ---\textsuperscript{b} & ---\textsuperscript{b} \\" in tex
    assert r"\textsuperscript{c} diverged: the loss was nan" in tex


def test_the_table_says_whose_formula_a_row_has_where_they_differ(tmp_path, store):
    methods = ["kd", "sp", {"method": "cc", "variant": "paper", "weight": 1.0, "label": "CC"}]
    plan = plan_of(tmp_path, methods=[*methods, {"terms": ["fitnet", {"method": "cc", "variant": "paper"}]}])
    table = csv.DictReader(written(plan, store, "csv").splitlines())
    found = {row["label"]: row["variant"] for row in table if row["metric"] == "top1"}
    *single, (_, several) = found.items()
    assert dict(single) == {"teacher": "", "none": "", "KD": "", "SP": "reference", "CC": "paper"}
    assert several == "reference+paper"


def test_a_finished_table_has_no_notes(tmp_path, store):
    plan = plan_of(tmp_path)
    finish_all(store, plan, {"teacher": [9.0], "none": [8.0], "KD": [70.0]})
    assert "\n- " not in written(plan, store, "md")
    assert "textsuperscript" not in written(plan, store, "tex")


def test_teacher_and_none_are_set_off_from_the_methods_in_latex(tmp_path, store):
    plan = plan_of(tmp_path)
    finish_all(store, plan, {"teacher": [9.0], "none": [8.0], "KD": [70.0]})
    lines = written(plan, store, "tex").splitlines()
    begins = lines.index(r"\toprule")
    assert lines[begins : begins + 10] == [
        r"\toprule",
        r"Teacher & resnet14 \\",
        r"Student & resnet8 \\",
        r"\midrule",
        r"teacher & 9.00 {\scriptsize (1)} \\",
        r"student (none) & 8.00 {\scriptsize (1)} \\",
        r"\midrule",
        r"KD & 70.00 {\scriptsize (1)} \\",
        r"\bottomrule",
        r"\end{tabular}}",
    ]


# against KD, the published numbers, the best epochs


def test_no_arrow_stands_at_teacher_student_kd_and_cells_that_are_not_done(tmp_path, store):
    plan = plan_of(tmp_path, methods=["kd", "at", "sp"], seeds=2)
    for label, values in {
        "teacher": [9.0],
        "none": [8.0, 8.0],
        "KD": [7.0, 7.0],
        "AT": [6.0],
        "SP": [7.5, 7.5],
    }.items():
        finish(store, cell_of(plan, label), values)
    cells = markdown_cells(plan, store)
    assert {label for label, (text,) in cells.items() if "↑" in text or "↓" in text} == {"SP"}


def test_arrows_compare_with_the_row_at_kds_defaults_whatever_its_label(tmp_path, store):
    methods = [{"method": "kd", "temperature": 2.0, "label": "KD"}, {"method": "kd", "label": "Hinton"}, "at"]
    plan = plan_of(tmp_path, methods=methods)
    finish_all(store, plan, {"teacher": [9.0], "none": [8.0], "KD": [80.0], "Hinton": [70.0], "AT": [75.0]})
    assert markdown_cells(plan, store)["AT"] == ["75.00 (1) (↑)"]


def test_a_suite_without_kd_has_no_arrows_and_does_not_explain_them(tmp_path, store):
    plan = plan_of(tmp_path, methods=["at", "sp"])
    finish_all(store, plan, {"teacher": [9.0], "none": [8.0], "AT": [7.0], "SP": [6.0]})
    assert "↑" not in written(plan, store, "md")


def test_the_best_epoch_stands_beside_the_last_one_and_is_named_so(tmp_path, store):
    plan = plan_of(tmp_path, seeds=2)
    finish(store, cell_of(plan, "none"), [60.0])
    finish(store, cell_of(plan, "KD"), [70.0, 72.0])
    assert markdown_cells(plan, store, below="resnet14-\\>resnet8\n") == {
        "method": ["last epoch", "best epoch"],
        "none": ["60.00 (1)<sup>†</sup>", "61.00<sup>†</sup>"],
        "KD": ["71.00 (70.00, 72.00)", "72.00"],
    }


def test_published_numbers_and_differences_stand_beside_ours(tmp_path, store):
    pair = {"teacher": "wrn_40_2", "student": "wrn_16_2"}
    source = {"source": "arXiv 1910.10699v3", "table": 1}
    plan = plan_of(tmp_path, pairs=[pair], data="cifar100", methods=["kd", "at"], published=source, seeds=2)
    finish(store, cell_of(plan, "KD"), [75.0, 75.0])
    finish(store, cell_of(plan, "AT"), [74.0])
    assert markdown_cells(plan, store, below="wrn\\_40\\_2-\\>wrn\\_16\\_2\n") == {
        "method": ["last epoch", "best epoch", "published", "difference"],
        "KD": ["75.00 (75.00, 75.00)", "76.00", "74.92", "+0.08"],
        "AT": ["74.00 (1)<sup>†</sup>", "75.00<sup>†</sup>", "74.08", "-0.08<sup>†</sup>"],
    }
    _, compared = written(plan, store, "tex").split(r"\end{table}")[:2]
    assert r"\label{tab:table-published}" in compared
    assert "arXiv 1910.10699v3, table 1" in compared
    assert "KD & 74.92 (+0.08) \\\\" in compared
    assert r"AT & 74.08 ($-$0.08)\textsuperscript{$\dagger$} \\" in compared
    assert r"student (none) & 73.26 \\" in compared


def test_a_difference_that_rounds_to_nothing_has_no_minus(tmp_path, store):
    pair = {"teacher": "wrn_40_2", "student": "wrn_16_2"}
    plan = plan_of(tmp_path, pairs=[pair], data="cifar100", published={"source": "x", "table": 1})
    finish(store, cell_of(plan, "KD"), [74.916])
    assert "| KD | 74.92 (1) | 75.92 | 74.92 | +0.00 |" in written(plan, store, "md")
    assert "KD & 74.92 (+0.00) \\\\" in written(plan, store, "tex")


def test_published_rows_keep_their_order_where_the_first_pair_lacks_one(tmp_path, store):
    pairs = [{"teacher": "wrn_40_2", "student": student} for student in ("wrn_40_1", "wrn_16_2")]  # FSP has one number
    source = {"source": "x", "table": 1}
    plan = plan_of(tmp_path, pairs=pairs, data="cifar100", methods=["kd", "fsp", "at"], published=source)
    compared = written(plan, store, "tex").split(r"\end{table}")[1]
    assert re.findall(r"^(\S+(?: \(none\))?) & (?:\d|---)", compared, re.MULTILINE) == [
        *("teacher", "student (none)", "KD", "FSP", "AT")
    ]


def test_many_pairs_break_into_parts_of_about_the_same_size_with_notes_of_their_own(tmp_path, store):
    pairs = [{"teacher": f"resnet{depth}", "student": "resnet8"} for depth in (14, 20, 32, 44, 56)]
    plan = plan_of(tmp_path, pairs=pairs)
    fail(store, cell_of(plan, "KD", "resnet56->resnet8"), "failed", "disk full")
    text = written(plan, store, "md")
    heads = [line.count("|") - 2 for line in text.splitlines() if line.startswith("| method")]
    assert heads == [2, 3]
    parts = written(plan, store, "tex").split(r"\end{table}")
    assert [part.count("disk full") for part in parts] == [0, 1, 0]
    assert "(part 2 of 2). As in Table~\\ref{tab:table}." in parts[1]
    assert r"\label{tab:table-2}" in parts[1]


def test_fewer_pairs_stand_beside_long_labels(tmp_path, store):
    pairs = [{"teacher": f"resnet{depth}", "student": "resnet8"} for depth in (14, 20, 32, 44)]
    for label, widths in {"x": [4], "x" * 60: [2, 2]}.items():
        text = written(plan_of(tmp_path, pairs=pairs, methods=[{"method": "kd", "label": label}]), store, "md")
        assert [line.count("|") - 2 for line in text.splitlines() if line.startswith("| method")] == widths


# hostile labels


def test_markdown_shows_a_hostile_label_as_it_is_written(tmp_path, store):
    plan = plan_of(tmp_path, methods=[{"method": "kd", "label": HOSTILE}])
    row = next(line for line in written(plan, store, "md").splitlines() if "50%" in line and line.startswith("|"))
    assert row.startswith(r'| 50% \& \$x\_1^2\$ \#\~\{\}\\ \<b\> \[1\] \* \| \`a\` "q" -\> — é | —<sup>a</sup> |')


def test_csv_gives_a_hostile_label_back(tmp_path, store):
    assert HOSTILE in table(plan_of(tmp_path, methods=[{"method": "kd", "label": HOSTILE}]), store)


# the work after a cohort


def test_after_a_cohort_only_its_own_records_are_read_and_no_row_is_made_per_seed(tmp_path, store, monkeypatch):
    plan = plan_of(tmp_path, pairs=PAIRS, methods=["kd", "at", "sp"], seeds=3)
    for cell in plan.cells:
        if cell.label != "SP":
            finish(store, cell, [70.0, 71.0])
    for path in store.root.rglob("*.json"):
        os.utime(path, (0, 0))  # written long ago, so that a later change shows in the time stamp
    write_tables(plan, store)
    ended = cell_of(plan, "SP")
    finish(store, ended, [72.0])
    read = []

    def noting(path):
        if path.is_relative_to(store.root):  # the heartbeat of another test may read its own
            read.append(path)
        return read_bytes(path)

    monkeypatch.setattr(files, "read_bytes", noting)
    frame = write_tables(plan, store)
    assert {path for path in read if path.name == "record.json"} == {store.folder(ended.runs[0].id) / "record.json"}
    assert {path.parent for path in read} == {store.folder(ended.runs[0].id), store.suite_folder(plan.name)}
    assert "measurements" not in vars(frame)  # a cached property, made for those who ask
