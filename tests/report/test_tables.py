import csv
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.plan import Plan, build
from bench.report import latex
from bench.report.caption import protocol
from bench.report.frame import Frame, results_frame
from bench.report.tables import write_tables
from bench.store import Store
from bench.suite import load
from tests.stores import METHODS, cell_of, fail, finish, finish_all, plan_of, write_suite

SUITES = Path(__file__).parents[2] / "suites"
COLUMNS = "pair,teacher,student,method,label,metric,n,mean,std,best_mean,published,status,reason,difference"
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
        **{"teacher": "teacher", "none": "none", "CRD+KD": "crd", "both": "at+sp", "Hinton": "kd"}
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
    assert status(plan, store) == ("partial", "seed 2 diverged: the loss was nan in epoch 1")


@pytest.mark.parametrize("state", ["failed", "diverged", "inapplicable"])
def test_a_cell_that_ended_without_a_number_says_why(state, tmp_path, store):
    plan = plan_of(tmp_path)
    fail(store, cell_of(plan, "KD"), state, "for a reason")
    assert status(plan, store) == (state, "for a reason")


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
    assert status(plan, store, "teacher") == (state, "disk full")
    assert status(plan, store) == (state, f"its teacher resnet14 {state}: disk full")
    assert status(plan, store, "none") == ("waiting", "")


def test_a_finished_student_of_a_lost_teacher_keeps_its_number(tmp_path, store):
    plan = plan_of(tmp_path)
    fail(store, cell_of(plan, "teacher"), "failed", "disk full")
    finish(store, cell_of(plan, "KD"), [70.0])
    assert status(plan, store) == ("done", "")


# table.md and table.tex


def test_the_best_is_bold_and_the_second_underlined_among_methods_alone(tmp_path, store):
    plan = plan_of(tmp_path, methods=["kd", "at", "sp"])
    finish_all(store, plan, {"teacher": [99.0], "none": [98.0], "KD": [71.0], "AT": [72.0], "SP": [70.0]})
    cells = markdown_cells(plan, store)
    assert {label: text for label, (text,) in cells.items() if label != "method"} == {
        "teacher": "99.00 (1)",
        "none": "98.00 (1)",
        "KD": "<u>71.00 (1)</u>",
        "AT": "**72.00 (1)** (↑)",
        "SP": "70.00 (1) (↓)",
    }
    tex = written(plan, store, "tex")
    assert r"AT & \textbf{72.00} {\scriptsize (1)} ($\uparrow$) \\" in tex
    assert r"KD & \underline{71.00} {\scriptsize (1)} \\" in tex


def test_two_that_tie_for_the_best_are_both_bold_and_none_is_second(tmp_path, store):
    plan = plan_of(tmp_path, methods=["kd", "at", "sp"])
    finish_all(store, plan, {"teacher": [9.0], "none": [8.0], "KD": [72.0], "AT": [72.0], "SP": [70.0]})
    cells = markdown_cells(plan, store)
    assert [cells[label] for label in ("KD", "AT", "SP")] == [["**72.00 (1)**"], ["**72.00 (1)**"], ["70.00 (1) (↓)"]]


def test_two_that_tie_for_the_second_are_both_underlined(tmp_path, store):
    plan = plan_of(tmp_path, methods=["kd", "at", "sp"])
    finish_all(store, plan, {"teacher": [9.0], "none": [8.0], "KD": [70.0], "AT": [72.0], "SP": [70.0]})
    cells = markdown_cells(plan, store)
    assert [cells[label] for label in ("KD", "AT", "SP")] == [
        ["<u>70.00 (1)</u>"],
        ["**72.00 (1)** (↑)"],
        ["<u>70.00 (1)</u>"],
    ]


def test_a_method_alone_is_not_the_best(tmp_path, store):
    plan = plan_of(tmp_path)
    finish_all(store, plan, {"teacher": [9.0], "none": [8.0], "KD": [70.0]})
    assert markdown_cells(plan, store)["KD"] == ["70.00 (1)"]


def test_each_pair_has_a_best_of_its_own(tmp_path, store):
    plan = plan_of(tmp_path, pairs=PAIRS, methods=["kd", "at"])
    for (pair, label), value in {
        ("resnet14->resnet8", "KD"): 71.0,
        ("resnet14->resnet8", "AT"): 70.0,
        ("resnet20->resnet8", "KD"): 70.0,
        ("resnet20->resnet8", "AT"): 71.0,
    }.items():
        finish(store, cell_of(plan, label, pair), [value])
    cells = markdown_cells(plan, store)
    assert cells["KD"] == ["**71.00 (1)**", "<u>70.00 (1)</u>"]
    assert cells["AT"] == ["<u>70.00 (1)</u> (↓)", "**71.00 (1)** (↑)"]


def test_students_and_teachers_that_learn_from_each_other_have_places_and_arrows_apart(tmp_path, store):
    plan = plan_of(tmp_path, task="mutual", methods=["kd", "at"])
    for label, own, peers in (("KD", 60.0, 90.0), ("AT", 70.0, 80.0)):
        metrics = {"top1": own, "top5": 99.0, "peer_top1": peers, "peer_top5": 99.0}
        store.finish(cell_of(plan, label).runs[0].id, {"metrics": metrics, "best": None})
    cells = markdown_cells(plan, store)
    assert {label: cells[label] for label in ("KD", "KD (teacher)", "AT", "AT (teacher)")} == {
        "KD": ["<u>60.00 (1)</u>"],
        "KD (teacher)": ["**90.00 (1)**"],
        "AT": ["**70.00 (1)** (↑)"],
        "AT (teacher)": ["<u>80.00 (1)</u>"],
    }


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
    assert cells["SP"] == ["**71.00 ± 0.00 (2)**"]
    assert "- <sup>†</sup> not all seeds are there; see n" in written(plan, store, "md")
    tex = written(plan, store, "tex")
    assert r"KD & 99.00 {\scriptsize (1)}\textsuperscript{$\dagger$} \\" in tex
    assert r"\textsuperscript{$\dagger$} not all seeds are there; see n" in tex


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
        "- <sup>c</sup> diverged: the loss was nan",
    ]
    tex = written(plan, store, "tex")
    assert r"FSP & ---\textsuperscript{b} & ---\textsuperscript{b} \\" in tex
    assert r"\textsuperscript{c} diverged: the loss was nan" in tex


def test_a_finished_table_has_no_notes(tmp_path, store):
    plan = plan_of(tmp_path)
    finish_all(store, plan, {"teacher": [9.0], "none": [8.0], "KD": [70.0]})
    assert "\n- " not in written(plan, store, "md")
    assert r"\medskip" not in written(plan, store, "tex")


def test_the_protocol_names_epochs_seeds_and_what_is_not_the_default(tmp_path, store):
    methods = [
        "at",
        {"method": "kd", "temperature": 4.0, "weight": 0.5},
        {"method": "crd", "kd": 1.0, "n_negatives": 8, "label": "CRD+KD"},
        {"method": "crd", "dim": 64, "objective": ["crd", "infonce"], "n_negatives": 8},
    ]
    plan = plan_of(tmp_path, methods=methods, training={"epochs": 7}, seeds=2)
    said = written(plan, store, "md")
    assert "after the last of 7 epochs, never the best one;" in said
    assert "2 asked for; fp32. " in said
    rows = [f"CRD dim=64, objective={one}, n\\_negatives=8" for one in ("crd", "infonce")]
    assert f" Not the methods' defaults: KD weight=0.5; CRD+KD (n\\_negatives=8); {'; '.join(rows)}.\n" in said


def test_the_protocol_says_how_teachers_were_made_where_students_were_made_otherwise(tmp_path, store):
    changes = {"teacher_training": {"epochs": 5}, "teacher_data": {"name": "digits", "resize": 32}}
    said = protocol(plan_of(tmp_path, **changes))
    assert said.endswith(
        " fp32. Teacher resnet14 after 5 epochs on digits (all training images); "
        "students on digits (4 training images a class)."
    )
    other = {"teacher_training": {"lr": 0.3, "batch_size": 8}}
    assert protocol(plan_of(tmp_path, **other)).endswith(" fp32. Teacher resnet14 with batch_size=8, lr=0.3.")
    (tmp_path / "teacher.pth").write_bytes(b"weights")
    pairs = [{"teacher": {"network": "resnet14", "checkpoint": "teacher.pth"}, "student": "resnet8"}]
    assert protocol(plan_of(tmp_path, pairs=pairs)).endswith(" fp32. Teacher resnet14 read from a checkpoint.")
    assert protocol(plan_of(tmp_path)).endswith(" fp32.")


def test_the_protocol_of_a_cross_modal_suite_says_what_students_and_teachers_saw(tmp_path):
    patches = {"name": "photo_patches", "train_per_class": 4}
    training = {"epochs": 3, "precision": "bf16", "processes": 2}
    evaluation = {"data": patches | {"train_per_class": 20}, "stages": [1], "most_values": 900, "training": training}
    said = protocol(
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
        "photo_patches (20 training images a class) for 3 epochs "
        "(rate 0.05, batch 64, bf16, each batch shared by 2 processes)."
    ) in said
    assert "Students trained on the chrominance of photo_patches (4 training images a class) for 1 epochs." in said
    assert said.endswith(
        "Teacher resnet14 on the luminance of photo_patches (4 training images a class); "
        "students on the chrominance of photo_patches (4 training images a class)."
    )


def test_the_protocol_says_of_several_teachers_how_they_were_made(tmp_path):
    pairs = [{"teachers": {"network": "resnet14", "n": 2}, "student": "resnet8"}]
    assert protocol(plan_of(tmp_path, pairs=pairs)).endswith(" fp32.")
    changed = plan_of(tmp_path, pairs=pairs, teacher_training={"epochs": 5})
    assert protocol(changed).endswith(" fp32. Teacher resnet14x2 after 5 epochs.")


def test_the_protocol_says_that_students_and_teachers_that_train_together_are_told_apart(tmp_path):
    said = protocol(plan_of(tmp_path, task="mutual"))
    assert "Of the methods the best is bold, the second underlined, students and teachers apart;" in said


def test_the_protocol_names_what_the_command_line_changed(tmp_path):
    path = write_suite(tmp_path)
    changes = ["training.epochs=2"]
    plan = build(load(path, METHODS, changes), path, METHODS, changes=changes)
    assert protocol(plan).endswith(" fp32. Changed on the command line: training.epochs=2.")


def test_teacher_and_none_are_set_off_from_the_methods_in_latex(tmp_path, store):
    plan = plan_of(tmp_path)
    finish_all(store, plan, {"teacher": [9.0], "none": [8.0], "KD": [70.0]})
    assert written(plan, store, "tex").splitlines()[-11:] == [
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
        r"\end{table}",
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
    assert markdown_cells(plan, store)["AT"] == ["<u>75.00 (1)</u> (↑)"]


def test_a_suite_without_kd_has_no_arrows_and_does_not_explain_them(tmp_path, store):
    plan = plan_of(tmp_path, methods=["at", "sp"])
    finish_all(store, plan, {"teacher": [9.0], "none": [8.0], "AT": [7.0], "SP": [6.0]})
    assert "↑" not in written(plan, store, "md")
    assert "Of the methods the best is bold, the second underlined." in protocol(plan)


def test_the_best_epoch_stands_beside_the_last_one_and_is_named_so(tmp_path, store):
    plan = plan_of(tmp_path, seeds=2)
    finish(store, cell_of(plan, "none"), [60.0])
    finish(store, cell_of(plan, "KD"), [70.0, 72.0])
    assert markdown_cells(plan, store, below="resnet14-\\>resnet8\n") == {
        "method": ["last epoch", "best epoch"],
        "none": ["60.00 (1)<sup>†</sup>", "61.00<sup>†</sup>"],
        "KD": ["71.00 ± 1.41 (2)", "72.00"],
    }


def test_published_numbers_and_differences_stand_beside_ours(tmp_path, store):
    pair = {"teacher": "wrn_40_2", "student": "wrn_16_2"}
    source = {"source": "arXiv 1910.10699v3", "table": 1}
    plan = plan_of(tmp_path, pairs=[pair], data="cifar100", methods=["kd", "at"], published=source, seeds=2)
    finish(store, cell_of(plan, "KD"), [75.0, 75.0])
    finish(store, cell_of(plan, "AT"), [74.0])
    assert markdown_cells(plan, store, below="wrn\\_40\\_2-\\>wrn\\_16\\_2\n") == {
        "method": ["last epoch", "best epoch", "published", "difference"],
        "KD": ["75.00 ± 0.00 (2)", "76.00", "74.92", "+0.08"],
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
def test_the_protocol_says_which_settings_are_the_papers_and_which_its_codes(methods, said, tmp_path):
    assert said in protocol(plan_of(tmp_path, methods=methods))


def test_the_protocol_of_imagenet_names_torchvisions_weights_and_no_other_temperature_of_the_paper():
    path = SUITES / "imagenet.yaml"
    said = protocol(build(load(path, METHODS), path, METHODS))
    assert "Teacher torchvision.resnet34 with torchvision's weights IMAGENET1K_V1. Not the methods' defaults: " in said
    assert "CRD paper" not in said  # which has 0.07 there too


def test_the_protocol_does_not_name_the_papers_settings_where_they_are_what_varies(tmp_path):
    assert "CRD paper" not in protocol(plan_of(tmp_path, methods=[{"method": "crd", "temperature": [0.07, 0.1]}]))


# hostile labels

HOSTILE = r"""50% & $x_1^2$ #~{}\ <b> [1] * | `a` "q" -> — é"""


def test_markdown_shows_a_hostile_label_as_it_is_written(tmp_path, store):
    plan = plan_of(tmp_path, methods=[{"method": "kd", "label": HOSTILE}])
    row = next(line for line in written(plan, store, "md").splitlines() if "50%" in line and line.startswith("|"))
    assert row.startswith(r'| 50% \& \$x\_1^2\$ \#\~\{\}\\ \<b\> \[1\] \* \| \`a\` "q" -\> — é | —<sup>a</sup> |')


def test_csv_gives_a_hostile_label_back(tmp_path, store):
    assert HOSTILE in table(plan_of(tmp_path, methods=[{"method": "kd", "label": HOSTILE}]), store)


def plain_tex(text: str) -> str:
    """Return what LaTeX prints of an escaped text, and check that no special character is left raw."""
    named = {**{r"\textbackslash{}": "\\", r"\textasciitilde{}": "~", r"\textasciicircum{}": "^"}}
    named |= {r"\textless{}": "<", r"\textgreater{}": ">", r"\textbar{}": "|", r"$\pm$": "±", r"$\to$": "→"}
    named |= {
        r"$\uparrow$": "↑",
        r"$\downarrow$": "↓",
        r"$\dagger$": "†",
        r"$\tau$": "τ",
        r"$\Omega$": "Ω",
        r"$\geq$": "≥",
        "---": "—",
        "{[}": "[",
        "{]}": "]",
        "{*}": "*",
    }
    named |= {f"\\{character}": character for character in "&%$#_{}"}
    pieces = re.split("|".join(map(re.escape, named)), text)
    assert not any(character in piece for piece in pieces for character in "\\&%$#_{}~^<>|[]*")
    return re.sub("|".join(map(re.escape, named)), lambda found: named[found[0]], text)


@given(st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E) | st.sampled_from("±→—†τΩ≥éŁ-"), max_size=24))
def test_latex_escapes_every_special_character_and_nothing_is_lost(text):
    assert plain_tex(latex.escape_tex(text)) == text.replace("->", "→").replace("—", "---").replace("---", "—")


@given(st.text(st.characters()))
def test_latex_is_given_no_character_that_it_cannot_print(text):
    assert set(latex.escape_tex(text)) <= latex.PRINTED


def test_a_character_that_latex_cannot_print_stands_by_its_code_and_a_letter_in_parts_is_put_together():
    assert latex.escape_tex("KD 中 \x1b[31m e\u0301") == "KD U+4E2D U+001B{[}31m é"


labels = st.text(st.characters(exclude_categories=["C"]), min_size=1, max_size=60).map(lambda t: " ".join(t.split()))


@given(labels.filter(bool), labels.filter(bool))
@settings(max_examples=50, deadline=None)
def test_latex_braces_balance_whatever_the_texts(tmp_path_factory, label, reason):
    folder = tmp_path_factory.mktemp("tex")
    store = Store(folder / "results")
    plan = plan_of(folder, title=label, methods=[{"method": "kd", "label": f"x{label}"[:60].strip()}])
    fail(store, plan.cells[2], "failed", reason)
    depth = 0
    for character in re.sub(r"\\[\\&%$#_{}]", "", written(plan, store, "tex")):
        depth += (character == "{") - (character == "}")
        assert depth >= 0
    assert depth == 0


def compiled(folder: Path, text: str, packages: str = "booktabs") -> str:
    """Compile a table in an article and return what LaTeX logs."""
    (folder / "table.tex").write_text(text, encoding="utf-8")
    (folder / "paper.tex").write_text(
        rf"\documentclass{{article}}\usepackage{{{packages}}}\begin{{document}}\input{{table}}\end{{document}}"
    )
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    subprocess.run(command, cwd=folder, capture_output=True, check=False)
    assert (folder / "paper.pdf").exists(), (folder / "paper.log").read_text(errors="replace")[-2000:]
    return (folder / "paper.log").read_text(errors="replace")


needs_latex = pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")


@needs_latex
def test_a_table_of_hostile_labels_compiles(tmp_path, store):
    methods = [{"method": "kd", "label": HOSTILE}, {"method": "at", "label": "[x]"}, {"method": "sp", "label": "*"}]
    plan = plan_of(tmp_path, title=HOSTILE, methods=methods)
    fail(store, cell_of(plan, "[x]"), "failed", HOSTILE)
    fail(store, cell_of(plan, "*"), "failed", "".join(sorted(latex.PRINTED)) + "αβγδΩ ≤ ≥ ≠ ≈ ∞ 中 \x1b[31m \x00")
    compiled(tmp_path, written(plan, store, "tex"))


@needs_latex
def test_long_words_of_reasons_and_settings_stay_within_the_line(tmp_path, store):
    path = write_suite(tmp_path)
    changes = ['lr_by_network={"resnet8":0.05,"resnet14":0.05,"resnet20":0.05,"resnet32":0.05,"resnet44":0.05}']
    plan = build(load(path, METHODS, changes), path, METHODS, changes=changes)
    fail(store, plan.cells[0], "failed", f"FileNotFoundError: /{'a_folder/' * 30} is no file ({64 * 'f'})")
    assert "Overfull" not in compiled(tmp_path, written(plan, store, "tex"))


def made_up(frame: Frame) -> Frame:
    """Return results as wide as they get; of some methods with a note."""
    summaries = []
    for number, one in enumerate(frame.summaries):
        values = (70.25 + number % 7, 71.5)
        if one.cell.method == "fsp":
            one = replace(one, status="inapplicable", reason="stage 1 has 16 channels, teacher 32")
        elif one.cell.method == "ft":
            one = replace(one, status="partial", values=values[:1], mean=values[0])
        else:
            one = replace(one, status="done", values=values, mean=mean(values), std=stdev(values))
            one = replace(one, place=number % 3, arrow="↑") if one.is_method else one
        summaries.append(one)
    return replace(frame, summaries=summaries)


@needs_latex
def test_the_tables_of_every_suite_compile_and_fit_the_line(tmp_path):
    texts = []
    for path in sorted([*SUITES.glob("*.yaml"), *SUITES.glob("small/*.yaml")]):
        plan = build(load(path, METHODS), path, METHODS)
        texts.append(latex.to_latex(made_up(results_frame(plan, Store(tmp_path)))))
    assert len(texts) >= 16
    log = compiled(tmp_path, "\\clearpage\n".join(texts), "booktabs,graphicx")
    assert "Overfull \\hbox" not in log
    assert "Float too large" not in log
    assert "multiply defined" not in log
