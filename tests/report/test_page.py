"""The web page as a reader has it: opened from disk in a browser, where there is Chromium."""

import base64
import gzip
import hashlib
import itertools
import json
import os
import random
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from bench.cli import main
from bench.plan import Plan
from bench.report import page, statistics_files
from bench.report.frame import results_frame
from bench.report.html import packed
from bench.report.write import write_tables
from bench.store import Failure, Store
from tests.stores import cell_of, fail, finish, finish_all, plan_of

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
TWO_PAIRS = [{"teacher": "resnet14", "student": "resnet8"}, {"teacher": "resnet20", "student": "resnet8"}]
FIRST, SECOND = "resnet14->resnet8", "resnet20->resnet8"
MARKUP = "<script>alert(1)</script>"
REASON = 'ValueError: <img src=x onerror="alert(2)">'
ROWS = ["teacher", "none", "KD", "SP", MARKUP, "AT", "CRD"]
MADE = {
    "device": "A processor",
    "threads": 2,
    "host": "machine7",
    "versions": {"python": "3.12.1", "torch": "2.9.0"},
    "commit": "0123456789abcdef0123456789abcdef01234567",
    "dirty": False,
}
RED = '<svg xmlns="http://www.w3.org/2000/svg" width="8" height="8"><rect width="8" height="8" fill="#f00"/></svg>'
PHONE, PAPER = {"width": 360, "height": 740}, {"width": 1047, "height": 718}  # pixels; A4 across within its margins


def train(store: Store, plan: Plan, label: str, pair: str, top1: list[float], epochs: int = 4) -> None:
    """Write what a training of a cell's first runs leaves in the store, one for each accuracy."""
    for run, value in zip(cell_of(plan, label, pair).runs, top1, strict=False):
        store.begin(run)
        rows = [
            {"stage": "main", "epoch": epoch, "loss": 2 / epoch, "top1": value - epochs + epoch, "wall_s": 1.5}
            for epoch in range(1, epochs + 1)
        ]
        store.write_epochs(run.id, rows)
        best = {"epoch": epochs, "top1": value, "top5": 99.0}
        numbers = {"metrics": {"top1": value, "top5": 99.0}, "best": best, "epochs": epochs, "wall_s": 1.5 * epochs}
        store.finish(run.id, MADE | numbers)


@dataclass
class Opened:
    """A page in the browser, and what happened there."""

    page: Page
    errors: list[str] = field(default_factory=list)
    alerts: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def open(self, path: Path) -> "Opened":
        self.page.on("console", lambda message: self.errors.append(message.text) if message.type == "error" else None)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.alerts.append(dialog.message), dialog.dismiss()))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(path.as_uri())
        self.page.wait_for_function("document.getElementById('run-a').options.length > 0")  # the last script has run
        return self

    def rows(self) -> list[str]:
        """Return the labels of the rows that are seen, from the top."""
        return self.page.locator("#results tbody th:visible").all_inner_texts()

    def head(self, number: int) -> "Page":
        """Return the button in a column's head, from 0, the labels' own."""
        return self.page.locator("#results thead th").nth(number).get_by_role("button")

    def cell(self, label: str, pair: int = 0) -> "Page":
        """Return a cell's button, by its row and the number of its pair."""
        return self.page.locator(f"#results tbody tr:nth-child({ROWS.index(label) + 1}) .cell").nth(pair)

    @property
    def window(self) -> str:
        """Return what the open window says."""
        expect(self.page.get_by_role("dialog")).to_be_visible()
        return self.page.get_by_role("dialog").inner_text()

    def is_scrolled_sideways(self) -> bool:
        return self.page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("there is no Chromium here: apt-get install chromium")
    root = ["--no-sandbox"] if os.geteuid() == 0 else []  # Chromium has no sandbox for root
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=root)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    """Return the page of a suite with two pairs, of which some cells are done, and others failed or never begun."""
    folder = tmp_path_factory.mktemp("page")
    methods = ["kd", "sp", {"method": "pkt", "label": MARKUP}, "at", "crd"]
    plan = plan_of(folder, title=f"A table {MARKUP}", pairs=TWO_PAIRS, methods=methods, seeds=2)
    store = Store(folder / "results")
    for pair in (FIRST, SECOND):
        train(store, plan, "teacher", pair, [95.0])
        train(store, plan, "none", pair, [80.0, 82.0])
        train(store, plan, "KD", pair, [90.0, 91.0])
    train(store, plan, "SP", FIRST, [88.0, 88.0])
    train(store, plan, MARKUP, FIRST, [70.0])
    fail(store, cell_of(plan, "AT", FIRST), "failed", REASON)
    results = store.suite_folder(plan.name)
    (results / "figures").mkdir(parents=True)
    (results / "figures" / "gain.svg").write_text(RED)
    (results / "figures" / "gain.pdf").write_bytes(b"%PDF")
    frame = write_tables(plan, store)
    statistics_files.write(frame)
    return page.write(frame)


@pytest.fixture(scope="module")
def tab(browser) -> Iterator[Page]:
    context = browser.new_context()
    yield context.new_page()
    context.close()


@pytest.fixture
def opened(tab, written) -> Iterator[Opened]:
    """Return the page, opened, and check at the end that it had nothing to complain of."""
    tab.goto("about:blank")
    tab.emulate_media(media="screen", color_scheme="light")
    tab.set_viewport_size({"width": 1280, "height": 900})
    found = Opened(tab).open(written)
    yield found
    assert found.errors == []


# in the browser


def test_the_table_shows_what_the_store_holds(opened):
    assert opened.rows() == ROWS
    assert opened.cell("KD").inner_text().split() == ["90.50", "(90.00,", "91.00)"]
    assert opened.cell(MARKUP).inner_text().split() == ["70.00", "(1)", "partial", "†"]
    assert opened.cell("AT").inner_text().split() == ["—", "failed"]
    assert opened.cell("CRD").inner_text().split() == ["—", "waiting"]


def test_what_is_above_or_below_kd_is_told_as_in_the_other_tables(opened):
    assert opened.cell("SP").inner_text().split() == ["88.00", "(88.00,", "88.00)", "(↓)"]
    assert "(↑) and (↓): above and below KD" in opened.page.locator("#table .legend").inner_text()


def test_methods_that_cannot_be_told_apart_from_the_best_are_bold(opened):
    weights = {
        label: opened.cell(label).locator(".mean").evaluate("e => getComputedStyle(e).fontWeight") for label in ROWS
    }
    assert [label for label, weight in weights.items() if int(weight) >= 700] == ["KD", "SP"]


def test_a_click_on_a_columns_head_sorts_best_first_then_worst_first_then_as_it_was(opened):
    head, column = opened.head(1), opened.page.locator("#results thead th").nth(1)
    head.click()
    assert opened.rows() == ["teacher", "KD", "SP", "none", MARKUP, "AT", "CRD"]
    assert column.get_attribute("aria-sort") == "descending"
    head.click()
    assert opened.rows() == [MARKUP, "none", "SP", "KD", "teacher", "AT", "CRD"]
    assert column.get_attribute("aria-sort") == "ascending"
    head.click()
    assert opened.rows() == ROWS
    assert column.get_attribute("aria-sort") is None


def test_labels_are_sorted_by_keyboard_and_only_their_column_is_said_to(opened):
    opened.head(1).click()
    opened.head(0).focus()
    opened.page.keyboard.press("Enter")
    assert opened.rows() == [MARKUP, "AT", "CRD", "KD", "none", "SP", "teacher"]
    assert opened.page.locator("#results [aria-sort]").count() == 1


def test_gains_are_sorted_by_their_numbers(opened):
    opened.page.get_by_text(re.compile(r"All \d+ gains")).click()
    opened.page.locator("#statistics thead button").nth(5).click()
    gains = [float(text) for text in opened.page.locator("#statistics td:nth-child(6)").all_inner_texts()]
    assert len(gains) > 3
    assert gains == sorted(gains, reverse=True)


def test_rows_are_filtered_by_label_or_method_and_columns_by_pair(opened):
    for typed, shown in (("kd", ["KD"]), ("PKT", [MARKUP]), ("t", ["teacher", MARKUP, "AT"])):
        opened.page.get_by_label("Method").fill(typed)
        assert opened.rows() == shown
        assert f"{len(shown)} of 7 rows" in opened.page.locator("#shown").inner_text()
    for typed in ("resnet20", "20 → resnet8", "20->"):
        opened.page.get_by_label("Pair").fill(typed)
        heads = opened.page.locator("#results thead th:visible").all_inner_texts()
        assert heads[1:] == ["resnet20\N{NO-BREAK SPACE}→ resnet8"]
        assert opened.page.locator("#results tbody td:visible").count() == 3
        assert "1 of 3 columns" in opened.page.locator("#shown").inner_text()


def test_the_address_keeps_filters_order_columns_and_the_open_cell(opened, written):
    opened.page.get_by_label("Method").fill("t")
    opened.head(2).click()
    opened.page.get_by_label("average").uncheck()
    opened.page.locator("#results .cell:visible", has_text="95.00").nth(1).click()
    address = opened.page.url
    opened.page.goto("about:blank")
    opened.page.goto(address)
    assert "teacher, resnet20 → resnet8, top1" in opened.window
    opened.page.keyboard.press("Escape")
    assert opened.rows() == ["teacher", MARKUP, "AT"]
    assert opened.page.locator("#results thead th:visible").count() == 3
    assert opened.page.locator("#results thead th").nth(2).get_attribute("aria-sort") == "descending"
    assert "cell=" not in opened.page.url
    opened.page.get_by_role("link", name="Protocol").click()  # a section's address keeps what is shown
    assert opened.rows() == ["teacher", MARKUP, "AT"]


def test_a_row_with_a_number_in_each_pair_has_an_average(opened):
    averages = [opened.page.locator(f"#results tbody tr:nth-child({row}) td:last-child") for row in (1, 2, 3, 4)]
    assert [one.inner_text() for one in averages] == ["95.00", "81.00", "90.50", "—"]


def test_a_cell_is_reached_opened_and_closed_without_a_mouse(opened):
    opened.page.get_by_label("Pair").focus()
    for _ in range(7):  # the choice of columns, the table's frame, its four heads, its cells
        opened.page.keyboard.press("Tab")
    for key in ("ArrowDown", "ArrowDown", "ArrowRight", "Enter"):
        opened.page.keyboard.press(key)
    assert "KD, resnet20 → resnet8, top1" in opened.window
    opened.page.keyboard.press("Escape")
    expect(opened.page.get_by_role("dialog")).to_be_hidden()
    assert opened.page.evaluate("document.activeElement.innerText").startswith("90.50")


def test_the_arrow_keys_pass_over_what_is_filtered_out(opened):
    opened.page.get_by_label("Method").fill("t")
    opened.cell("teacher").focus()
    opened.page.keyboard.press("ArrowDown")
    assert opened.page.evaluate("document.activeElement.innerText").startswith("70.00")


def test_a_cells_window_tells_its_runs_settings_origin_and_command(opened):
    opened.cell("KD").click()
    said = opened.window
    for text in ("90.50 (90.00, 91.00)", "seed 1", "seed 2", "90.00 (epoch 4)", "4 of 1", "machine7", "A processor"):
        assert text in said
    assert MADE["commit"] in said
    assert "--only KD --pairs 'resnet14->resnet8'" in said
    opened.page.get_by_text("Settings of seed 1").click()
    assert "temperature: 4" in opened.window


def test_a_cells_window_draws_loss_and_accuracy_of_each_seed(opened):
    opened.cell("KD").click()
    charts = opened.page.get_by_role("dialog").get_by_role("img")
    assert [one.get_attribute("aria-label") for one in charts.all()] == [
        "training loss by epoch: seed 1 ends at 0.5, seed 2 ends at 0.5",
        "top1 on the test split, percent by epoch: seed 1 ends at 90, seed 2 ends at 91",
    ]


def test_the_values_of_a_curve_are_read_by_pointer_and_by_arrow_keys(opened):
    opened.cell("KD").click()
    chart = opened.page.get_by_role("dialog").get_by_role("img").nth(1)
    values = opened.page.locator("#window .lines").nth(1)
    chart.focus()
    opened.page.keyboard.press("ArrowRight")
    expect(values).to_have_text(re.compile(r"seed 1\s+87\s*seed 2\s+88"))
    box = chart.locator(".u-over").bounding_box()
    opened.page.mouse.move(box["x"] + box["width"] - 2, box["y"] + 20)
    expect(values).to_have_text(re.compile(r"seed 1\s+90\s*seed 2\s+91"))
    assert "epoch 4" in opened.page.get_by_role("dialog").locator("figcaption").nth(1).inner_text()


def test_a_method_is_hidden_in_the_curves_of_all_pairs(opened):
    kd = opened.page.locator("#curve-lines").get_by_role("button", name="KD")
    charts = "[...document.querySelectorAll('#curve-charts canvas')].map((canvas) => canvas.toDataURL())"
    opened.page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    before = opened.page.evaluate(charts)
    kd.click()
    assert kd.get_attribute("aria-pressed") == "false"
    assert len(before) == 2
    opened.page.wait_for_function(f"before => {charts}.every((chart, at) => chart !== before[at])", arg=before)


def test_a_failed_cells_window_tells_the_reason(opened):
    opened.cell("AT").click()
    assert opened.window.count(REASON) == 3  # of the cell, and of each of its two runs


def test_a_cell_that_never_began_opens(opened):
    opened.cell("CRD").click()
    assert "waiting" in opened.window


def test_text_from_the_store_is_text_wherever_it_stands(opened):
    assert opened.page.title() == f"A table {MARKUP}"
    assert MARKUP in opened.page.get_by_role("heading", level=1).inner_text()
    assert REASON in opened.page.locator(".reasons").inner_text()
    assert MARKUP in opened.page.locator("#statistics").text_content()
    opened.cell(MARKUP).click()
    assert f"{MARKUP}, resnet14" in opened.window
    assert opened.page.locator("img[src=x]").count() == 0
    assert opened.alerts == []


def test_the_page_asks_for_nothing_but_itself(opened, written):
    opened.cell("KD").click()
    assert [url for url in opened.asked if not url.startswith(("data:", "blob:"))] == [written.as_uri()]


def test_markup_that_got_into_the_page_would_not_run(browser, written, tmp_path):
    (tmp_path / "report.html").write_text(written.read_text().replace("<main>", f"<main>{MARKUP}"))
    context = browser.new_context()
    found = Opened(context.new_page()).open(tmp_path / "report.html")
    context.close()
    assert found.alerts == []
    assert "Content Security Policy" in found.errors[0]


def test_a_figure_enlarges_and_names_its_pdf(opened, written):
    opened.page.get_by_role("button", name="Enlarge: gain").click()
    figure = opened.page.get_by_role("dialog").get_by_role("img", name="Figure: gain")
    assert figure.evaluate("image => image.decode().then(() => image.naturalWidth)") == 8
    assert figure.bounding_box()["width"] > 1000
    link = opened.page.get_by_role("dialog").get_by_role("link", name="PDF").get_attribute("href")
    assert (written.parent / link).read_bytes() == b"%PDF"


def test_the_table_is_copied_and_downloaded_as_its_files_have_it(opened, written):
    opened.page.get_by_role("button", name="Copy as LaTeX").click()
    expect(opened.page.locator("#copied")).to_have_text("table.tex is on the clipboard")
    opened.page.evaluate("document.body.prepend(document.createElement('textarea'))")
    opened.page.locator("textarea").focus()
    opened.page.keyboard.press("Control+V")
    assert opened.page.locator("textarea").input_value() == (written.parent / "table.tex").read_text()
    with opened.page.expect_download() as started:
        opened.page.locator("#table").get_by_role("button", name="Download CSV").click()
    assert started.value.suggested_filename == "table.csv"
    assert started.value.path().read_text() == (written.parent / "table.csv").read_text()


def test_the_settings_in_which_two_runs_differ_are_listed(opened):
    opened.page.locator("#run-a").select_option(label="KD, seed 1")
    opened.page.locator("#run-b").select_option(label="SP, seed 2")
    rows = [row.split("\t") for row in opened.page.locator("#settings-diff tbody tr").all_inner_texts()]
    assert ["seed", "1", "2"] in rows
    assert next(row for row in rows if "temperature" in row[0])[1:] == ["4", "—"]
    assert all(one != other for _, one, other in rows)


def test_a_second_suite_is_shown_next_to_this_one_from_its_page_or_table(opened, written, tmp_path):
    table = (written.parent / "table.csv").read_text().replace("90.5,", "91.75,")
    (tmp_path / "other.csv").write_text(table)
    (tmp_path / "wrong.csv").write_text("a,b\n1,2\n")
    rows = opened.page.locator("#second-table tbody tr", has_text=re.compile("^KD"))
    opened.page.get_by_label("File").set_input_files(tmp_path / "other.csv")
    expect(rows.first).to_have_text(re.compile(r"90\.50\s*91\.75\s*\+1\.25"))
    opened.page.get_by_label("File").set_input_files(written)
    expect(rows.first).to_have_text(re.compile(r"90\.50\s*90\.50\s*\+0\.00"))
    opened.page.get_by_label("File").set_input_files(tmp_path / "wrong.csv")
    expect(opened.page.get_by_role("alert")).to_contain_text("wrong.csv is neither a page")


def test_a_second_suite_is_read_as_this_program_has_written_it(opened, tmp_path):
    text = f"pair,label,metric,mean\n{FIRST},KD,top1,90.4999\n{FIRST},'=1+1,top1,50.0\n"
    (tmp_path / "other.csv").write_text(text)
    opened.page.get_by_label("File").set_input_files(tmp_path / "other.csv")
    rows = opened.page.locator("#second-table tbody tr")
    expect(rows.filter(has_text="KD").first).to_have_text(re.compile(r"90\.50\s*90\.50\s*\+0\.00"))
    expect(rows.last).to_have_text(re.compile(r"^=1\+1"))


@pytest.mark.parametrize("cell", [{"pair": 5, "label": "KD", "metric": "top1", "mean": 1.0}, None], ids=str)
def test_a_page_with_other_values_than_this_program_writes_is_no_second_suite(opened, tmp_path, cell):
    data = packed({"name": "other", "cells": [cell]})
    (tmp_path / "other.html").write_text(f'<script type="application/octet-stream" id="data">{data}</script>')
    opened.page.get_by_label("File").set_input_files(tmp_path / "other.html")
    expect(opened.page.get_by_role("alert")).to_contain_text("other.html is neither a page")


def test_a_phone_shows_the_page_without_scrolling_it_sideways(opened):
    opened.page.set_viewport_size(PHONE)
    frame = opened.page.get_by_role("region", name="Table")
    assert frame.evaluate("frame => frame.scrollWidth > frame.clientWidth")  # the table is wider, within its frame
    assert not opened.is_scrolled_sideways()
    opened.page.locator("#run-a").evaluate("select => select.append(new Option('a long label '.repeat(9)))")
    assert not opened.is_scrolled_sideways()
    opened.cell("KD").click()
    assert opened.page.get_by_role("dialog").evaluate("dialog => dialog.scrollWidth <= dialog.clientWidth")
    assert not opened.is_scrolled_sideways()


def test_the_page_follows_a_dark_scheme(opened):
    def brightness(name: str) -> int:
        colour = opened.page.locator("body").evaluate(f"body => getComputedStyle(body).{name}")
        return sum(map(int, re.findall(r"\d+", colour)[:3]))

    assert brightness("backgroundColor") > 600 > brightness("color")
    opened.page.emulate_media(color_scheme="dark")
    assert brightness("backgroundColor") < 150 < brightness("color")


def test_the_page_prints_its_table_whole_and_dark_on_white(opened):
    opened.page.emulate_media(media="print", color_scheme="dark")
    opened.page.set_viewport_size(PAPER)
    assert (
        opened.page.locator("body").evaluate("body => getComputedStyle(body).backgroundColor") == "rgb(255, 255, 255)"
    )
    assert not opened.page.get_by_label("Method").is_visible()
    table, frame = opened.page.locator("#results"), opened.page.get_by_role("region", name="Table")
    assert frame.evaluate("frame => getComputedStyle(frame).overflow") == "visible"
    assert table.bounding_box()["width"] <= PAPER["width"]
    assert opened.page.pdf(prefer_css_page_size=True).startswith(b"%PDF")


def test_thirteen_pairs_fit_across_a_sheet(browser, tmp_path):
    networks = ["resnet14", "resnet20", "resnet32", "resnet44", "resnet56", "resnet110", "resnet32x4"]
    pairs = [{"teacher": name, "student": student} for student in ("resnet8", "resnet8x4") for name in networks][:13]
    plan, store = plan_of(tmp_path, pairs=pairs, seeds=2), Store(tmp_path / "results")
    finish_all(store, plan, {"teacher": [90.25], "none": [80.25, 81.5], "KD": [85.25, 86.0]})
    context = browser.new_context(viewport=PAPER)
    found = Opened(context.new_page()).open(page.write(write_tables(plan, store)))
    assert found.page.locator("#results").bounding_box()["width"] > PAPER["width"]
    found.page.emulate_media(media="print")
    assert found.page.locator("#results").bounding_box()["width"] <= PAPER["width"]
    context.close()


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "results")


def test_long_labels_stay_readable(browser, tmp_path, store):
    grid = {"method": "crd", "temperature": [0.05, 0.07], "n_negatives": [16, 64]}
    plan = plan_of(tmp_path, methods=["kd", grid], seeds=3)
    for number, cell in enumerate(plan.cells):
        finish(store, cell, [70.123 - number / 7, 71.234 + number / 3, 71.987 + number / 9])
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    opened = Opened(context.new_page()).open(page.write(write_tables(plan, store)))
    lines = "e => { const r = document.createRange(); r.selectNodeContents(e); return r.getClientRects().length; }"
    labels = opened.page.locator("#results tbody th").all()
    assert max(label.evaluate(lines) for label in labels) <= 2
    context.close()


# without one


def data_of(html: str) -> dict:
    """Return what the page's script reads."""
    return json.loads(gzip.decompress(base64.b64decode(re.search(r'id="data">(.*?)</script>', html, re.DOTALL)[1])))


def rendered(plan: Plan, store: Store) -> str:
    return page.render(results_frame(plan, store))


def test_a_suite_that_was_never_run_has_a_page(tmp_path, store):
    html = rendered(plan_of(tmp_path), store)
    assert "3 waiting" in html
    assert "How it was made" not in html


def test_there_is_no_section_for_what_nobody_has_written(tmp_path, store):
    html = rendered(plan_of(tmp_path), store)
    assert 'id="statistics"' not in html
    assert 'id="figures"' not in html


def test_statistics_of_earlier_results_are_not_shown(tmp_path, store):
    plan = plan_of(tmp_path, seeds=2)
    finish_all(store, plan, {"teacher": [90.0], "none": [80.0], "KD": [85.0]})
    statistics_files.write(write_tables(plan, store))
    assert 'id="statistics"' in rendered(plan, store)
    finish_all(store, plan, {"teacher": [90.0], "none": [80.0, 81.0], "KD": [85.0, 86.0]})
    html = rendered(plan, store)
    assert 'id="statistics"' not in html
    assert "statistics.csv" not in data_of(html)["files"]


def test_a_page_is_written_although_a_file_of_statistics_cannot_be_read(tmp_path, store):
    plan = plan_of(tmp_path, seeds=2)
    finish_all(store, plan, {"teacher": [90.0], "none": [80.0, 81.0], "KD": [85.0, 86.0]})
    frame = write_tables(plan, store)
    statistics_files.write(frame)
    (frame.folder / "statistics.csv").write_text(f"metric\n{'x' * 200_000}\n")  # longer than a field may be
    assert 'id="statistics"' not in rendered(plan, store)


def test_the_command_says_what_the_command_line_changed(tmp_path, store, monkeypatch, capsys):
    plan_of(tmp_path)
    results = ["--results", str(tmp_path / "results")]
    monkeypatch.setattr(sys, "argv", ["run_suite.py", "report", str(tmp_path / "table.yaml"), "--seeds=2", *results])
    with pytest.raises(SystemExit):
        main()
    said = capsys.readouterr().out
    path = tmp_path / "results" / "table" / "report.html"
    assert f"Page: {path}" in said
    assert "<code>python run_suite.py table.yaml --set=seeds=2</code>" in path.read_text()
    assert "table/report.html" in (tmp_path / "results" / "index.html").read_text()


def test_a_cells_command_trains_that_cell_and_what_it_needs(tmp_path, store, monkeypatch, capsys):
    label = "[KD] what's *this*?"
    plan = plan_of(tmp_path, methods=["kd", {"method": "sp", "label": label}])
    cell = next(one for one in data_of(rendered(plan, store))["cells"] if one["label"] == label)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [*shlex.split(cell["command"]), "--dry-run"])
    with pytest.raises(SystemExit):
        main()
    needed = [*cell_of(plan, label).runs, *cell_of(plan, "teacher").runs]
    assert set(re.findall(r"\b[0-9a-f]{16}\b", capsys.readouterr().out)) == {run.id for run in needed}


def test_of_two_networks_that_train_together_each_has_its_own_curves_and_best_epoch(browser, tmp_path, store):
    plan = plan_of(tmp_path, task="mutual")
    (run,) = cell_of(plan, "KD (teacher)").runs
    both = {"top1": 70.0, "top5": 99.0, "peer_top1": 60.0, "peer_top5": 98.0}
    epochs = [{"stage": "main", "epoch": n, "loss": 2.0, "peer_loss": 3.0 + n, "wall_s": 1.0, **both} for n in (1, 2)]
    store.begin(run)
    store.write_epochs(run.id, epochs)
    best = {"epoch": 1, "peer_epoch": 2, **both}
    store.finish(run.id, MADE | {"metrics": both, "best": best, "epochs": 2, "wall_s": 2.0})
    context = browser.new_context()
    opened = Opened(context.new_page()).open(page.write(write_tables(plan, store)))
    opened.page.locator("#results tbody tr", has_text="KD (teacher)").locator(".cell").click()
    assert "60.00 (epoch 2)" in opened.window
    told = [one.get_attribute("aria-label") for one in opened.page.locator("#window .chart").all()]
    assert told == [
        "training loss by epoch: seed 1 ends at 5",
        "top1 on the test split, percent by epoch: seed 1 ends at 60",
    ]
    context.close()
    assert opened.errors == []


def test_a_difference_from_the_published_number_is_told(tmp_path, store):
    plan = plan_of(
        tmp_path,
        data="cifar100",
        pairs=[{"teacher": "wrn_40_2", "student": "wrn_16_2"}],
        published={"source": "a paper", "table": 1},
    )
    finish(store, cell_of(plan, "KD"), [75.42])
    facts = {cell["label"]: cell["facts"] for cell in data_of(rendered(plan, store))["cells"]}
    assert facts["KD"]["published"] == "74.92 (here +0.50)"
    assert facts["none"]["published"] == "73.26"


def test_a_curve_is_thinned_evenly_and_keeps_its_last_epoch():
    epochs = [{"epoch": epoch, "top1": float(epoch)} for epoch in range(1, 996)]
    places, values = page.curve(epochs, "top1")
    assert len(places) <= page.MAX_POINTS
    assert {after - before for before, after in itertools.pairwise(places)} == {9}
    assert (places[-1], values[-1]) == (995, 995.0)


def test_a_curve_has_the_epochs_that_were_evaluated_and_finite():
    epochs = [{"epoch": 1}, {"epoch": 2, "top1": 50.0}, {"epoch": 3}, {"epoch": 4, "top1": float("nan")}]
    assert page.curve(epochs, "top1") == [[2], [50.0]]


def test_the_curves_of_560_runs_of_240_epochs_take_less_than_one_megabyte():
    noise = random.Random(0)
    curves = []
    for _ in range(56):
        epochs = [{"epoch": n, "loss": 3 / n + noise.gauss(0, 0.1), "top1": noise.gauss(70, 2)} for n in range(1, 241)]
        curves.append({name: page.curve(epochs, name) for name in ("loss", "top1")})
    assert 10 * len(packed(curves)) < 1_000_000


def test_a_run_that_left_no_reason_or_record_is_told_by_its_state(tmp_path, store):
    plan = plan_of(tmp_path, seeds=2)
    run = cell_of(plan, "KD").runs[1]
    store.begin(run)
    store.fail(run.id, Failure("diverged", "the loss is not finite in epoch 1"))
    runs = data_of(rendered(plan, store))["runs"]
    states = [(one["status"], one["reason"], one["made"]) for one in (runs[run.id] for run in cell_of(plan, "KD").runs)]
    reason = f"the loss is not finite in epoch 1 (run {run.id})"
    assert states == [("waiting", "", None), ("diverged", reason, None)]


def test_what_answers_tell_is_a_table_of_its_own_if_some_run_was_scored(tmp_path):
    plan, store = plan_of(tmp_path), Store(tmp_path / "results")
    finish_all(store, plan, {"teacher": [90.0], "none": [80.0], "KD": [85.0]})
    assert 'id="answered"' not in page.render(results_frame(plan, store))
    store.amend(cell_of(plan, "KD").runs[0].id, {"scores": {"nll": 0.123}})
    html = page.render(results_frame(plan, store))
    assert "negative log-likelihood (nats)" in html
    assert '<td data-value="0.123">0.12 (1)</td>' in html
    assert "calibration error" not in html


def test_the_vendored_library_is_the_one_that_its_page_names():
    folder = Path(page.__file__).parent / "web" / "uplot"
    for name, digest in re.findall(r"`(uPlot\S+)` \| `([0-9a-f]{64})`", (folder / "README.md").read_text()):
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
