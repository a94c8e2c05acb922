"""The table as LaTeX prints it."""

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.plan import build_plan
from bench.report.frame import Frame, results_frame
from bench.report.latex import PRINTED, escape_tex, to_latex
from bench.store import Store
from bench.suite import load
from tests.few import short_or_whole
from tests.stores import HOSTILE, METHODS, cell_of, fail, plan_of, write_suite

SUITES = Path(__file__).parents[2] / "suites"


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "results")


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
    assert plain_tex(escape_tex(text)) == text.replace("->", "→").replace("—", "---").replace("---", "—")


@given(st.text(st.characters()))
def test_latex_is_given_no_character_that_it_cannot_print(text):
    assert set(escape_tex(text)) <= PRINTED


def test_a_character_that_latex_cannot_print_stands_by_its_code_and_a_letter_in_parts_is_put_together():
    assert escape_tex("KD 中 \x1b[31m e\u0301") == "KD U+4E2D U+001B{[}31m é"


labels = st.text(st.characters(exclude_categories=["C"]), min_size=1, max_size=60).map(lambda t: " ".join(t.split()))


@given(labels.filter(bool), labels.filter(bool))
@settings(max_examples=50, deadline=None)
def test_latex_braces_balance_whatever_the_texts(tmp_path_factory, label, reason):
    folder = tmp_path_factory.mktemp("tex")
    store = Store(folder / "results")
    plan = plan_of(folder, title=label, methods=[{"method": "kd", "label": f"x{label}"[:60].strip()}])
    fail(store, plan.cells[2], "failed", reason)
    depth = 0
    for character in re.sub(r"\\[\\&%$#_{}]", "", to_latex(results_frame(plan, store))):
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
    fail(store, cell_of(plan, "*"), "failed", "".join(sorted(PRINTED)) + "αβγδΩ ≤ ≥ ≠ ≈ ∞ 中 \x1b[31m \x00")
    compiled(tmp_path, to_latex(results_frame(plan, store)))


@needs_latex
def test_long_words_of_reasons_and_settings_stay_within_the_line(tmp_path, store):
    path = write_suite(tmp_path)
    changes = ['lr_by_network={"resnet8":0.05,"resnet14":0.05,"resnet20":0.05,"resnet32":0.05,"resnet44":0.05}']
    plan = build_plan(load(path, METHODS, changes), path, METHODS, changes=changes)
    fail(store, plan.cells[0], "failed", f"FileNotFoundError: /{'a_folder/' * 30} is no file ({64 * 'f'})")
    assert "Overfull" not in compiled(tmp_path, to_latex(results_frame(plan, store)))


def made_up(frame: Frame) -> Frame:
    """Return results as wide as they get; of some methods with a note."""
    summaries = []
    for number, one in enumerate(frame.summaries):
        values = (70.25 + number % 7, 71.5)
        if one.cell.method == "fsp":
            one = replace(one, status="inapplicable", reason="stage 1 has 16 channels, teacher 32")
        elif one.cell.method == "ft":
            one = replace(one, status="partial", by_seed={1: values[0]}, mean=values[0])
        else:
            places = [frame.plan.seed_of(run) for run in one.cell.runs][:2]
            by_seed = dict(zip(places, values, strict=False))
            one = replace(one, status="done", by_seed=by_seed, mean=mean(values), std=stdev(values))
            one = replace(one, arrow="↑") if one.is_method else one
        summaries.append(one)
    return replace(frame, summaries=summaries)


# in the short form: the widest table, the longest labels and captions, and one of each task
DIVERSE = ("later_similar_arch", "ablation_objective", "ensemble", "mutual_learning", "transfer", "rgb_depth")
DIVERSE += ("correlation", "small/digits_tuned", "small/digits_tuned_later", "fashion_mnist")


@needs_latex
def test_the_tables_of_every_suite_compile_and_fit_the_line(tmp_path):
    texts = []
    files = sorted([*SUITES.glob("*.yaml"), *SUITES.glob("small/*.yaml")])
    for path in short_or_whole([SUITES / f"{name}.yaml" for name in DIVERSE], files):
        plan = build_plan(load(path, METHODS), path, METHODS)
        texts.append(to_latex(made_up(results_frame(plan, Store(tmp_path)))))
    assert len(texts) >= short_or_whole(8, 16)
    log = compiled(tmp_path, "\\clearpage\n".join(texts), "booktabs,graphicx")
    assert "Overfull \\hbox" not in log
    assert "Float too large" not in log
    assert "multiply defined" not in log
