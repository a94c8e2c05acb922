import csv
import io
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.store import csv_text
from bench.store.files import csv_rows
from bench.terminal.markup import escape
from bench.text import MAX_NAME, file_name, printable
from tests.forks import Command
from tests.stores import cell_of, fail, plan_of
from tests.test_imports import ROOT

TEXTS = st.text(st.characters(), max_size=30)  # lone surrogates too


@given(TEXTS)
def test_what_is_printed_has_no_control_characters_and_no_direction_marks(text):
    assert all(one.isprintable() or one in "\n\t" or one.isspace() for one in printable(text))
    printable(text).encode()


@pytest.mark.parametrize("text", ["\x1b]0;OWNED\x07", "\x9b31m", "\u202egnp.exe", "a\rb", "\x00", "\u2066", "\ud800"])
def test_hostile_characters_are_shown_as_their_codes(text):
    shown = printable(text)
    assert shown.isascii()
    assert shown.isprintable()
    assert "\\" in shown


def test_ordinary_text_is_printed_as_it_is():
    text = "Hinton's 75.48 ± 0.21 → é 中\u00a0文 [b] \\x"
    assert printable(text) == text
    assert escape("[b]") == r"\[b]"


@given(TEXTS)
def test_a_text_gives_a_short_name_of_a_file(text):
    assert 0 <= len(file_name(text * 20).encode()) <= MAX_NAME


def test_long_names_that_differ_at_their_ends_stay_apart():
    assert file_name("x" * 300 + "a") != file_name("x" * 300 + "b")


@given(st.text(st.sampled_from("=+-@\t\n'a,\"\uff1d"), max_size=6))
def test_a_text_in_a_csv_file_is_no_formula_and_comes_back(text):
    written = csv_text(["label", "mean"], [{"label": text, "mean": -1.5}])
    label, mean = list(csv.reader(io.StringIO(written, newline="")))[1]
    assert label[:1] not in ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d")
    assert mean == "-1.5"
    assert csv_rows(written)[0]["label"] == text


def command(redirected: str, *words: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in a shell, with its standard output redirected."""
    line = f'"$@" {redirected}'
    arguments = ["bash", "-c", line, "-", sys.executable, ROOT / "run_suite.py", *words]
    settings = {"capture_output": True, "text": True, "cwd": ROOT, "env": os.environ | environment}
    return subprocess.run(list(map(str, arguments)), check=False, **settings)


@pytest.mark.parametrize("redirected", [">&-", ">/dev/full", "<&- >&-"])
def test_an_answer_that_cannot_be_printed_is_an_exit_status_without_traceback(redirected, tmp_path):
    answer = command(redirected, "list", "models")
    assert answer.returncode == 1
    assert answer.stderr.startswith("standard output cannot be written: ")
    assert answer.stderr.count("\n") == 1


def test_what_standard_output_cannot_encode_is_replaced(tmp_path):
    plan_of(tmp_path, title="Zwölf ± 1")
    answer = command("", "status", tmp_path / "table.yaml", "--results", tmp_path, PYTHONIOENCODING="ascii")
    assert (answer.returncode, answer.stderr) == (0, "")
    assert "Zw?lf ? 1" in answer.stdout


def test_a_report_is_whole_where_standard_output_is_full(tmp_path):
    plan_of(tmp_path)
    (tmp_path / "said").mkdir()
    (tmp_path / "said" / "out").symlink_to("/dev/full")
    words = ["report", tmp_path / "table.yaml", "--results", tmp_path / "results"]
    assert Command(*words, streams=tmp_path / "said").wait() == 1
    assert (tmp_path / "results/table/report.html").exists()


def test_control_characters_of_a_reason_stand_escaped_in_every_table(tmp_path):
    from bench.report.write import TABLES, write_tables
    from bench.store import Store

    store, plan = Store(tmp_path / "results"), plan_of(tmp_path)
    fail(store, cell_of(plan, "KD"), "failed", "\x1b]0;OWNED\x07 \u202e")
    write_tables(plan, store)
    for name in TABLES:
        assert all(one.isprintable() or one == "\n" for one in (tmp_path / "results/table" / name).read_text())
