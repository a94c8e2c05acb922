"""The README's method, and the published results that README and documentation show."""

import csv
import re
from pathlib import Path

import pytest

from bench.plan import build_plan
from bench.suite import load
from methods import catalog

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
QUOTED = {"quickstart": "docs/how-to/tables.md", "fashion_mnist": "docs/index.md"}  # pages by the suite they quote
RESULTS = ROOT / "results" / "published"
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md")), ROOT / "results" / "README.md"]


def published(suite: str) -> tuple[str, str]:
    """Return the protocol and the table of a published table.md."""
    _title, protocol, table, *_ = (RESULTS / suite / "table.md").read_text(encoding="utf-8").split("\n\n")
    assert table.startswith("| method |")
    return protocol, table


def test_the_readme_shows_a_methods_file_as_it_is():
    path, code = re.findall(r'^```python title="(.*?)"\n(.*?)^```', README, re.DOTALL | re.MULTILINE)[0]
    assert (ROOT / path).read_text(encoding="utf-8") == code


def test_the_readme_quotes_the_quickstarts_published_table_as_it_was_written():
    _, table = published("quickstart")
    assert f"\n\n{table}\n\n" in README


@pytest.mark.parametrize("suite", QUOTED)
def test_a_page_quotes_a_published_table_and_its_protocol_as_they_were_written(suite):
    protocol, table = published(suite)
    assert f"{protocol}\n\n{table}\n" in (ROOT / QUOTED[suite]).read_text(encoding="utf-8")


@pytest.mark.parametrize("suite", QUOTED)
def test_published_results_are_of_all_rows_that_the_suite_has_now(suite):
    path = ROOT / "suites" / f"{suite}.yaml"
    plan = build_plan(load(path, catalog()), path, catalog())
    with (RESULTS / suite / "table.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["metric"] == "top1"]
    assert [(row["pair"], row["label"], int(row["n"])) for row in rows] == [
        (cell.pair, cell.label, len(cell.runs)) for cell in plan.cells
    ]


def test_the_published_quickstart_is_of_the_suites_runs():
    path = ROOT / "suites" / "quickstart.yaml"
    plan = build_plan(load(path, catalog()), path, catalog())
    with (RESULTS / "quickstart" / "epochs.csv").open(encoding="utf-8", newline="") as file:
        assert {row["run"] for row in csv.DictReader(file)} == plan.runs.keys()


@pytest.mark.parametrize("page", ["README.md", "docs/index.md"])
def test_a_page_states_how_many_methods_there_are(page):
    assert re.search(rf"\b{len(catalog())} methods\b", (ROOT / page).read_text(encoding="utf-8"))


def test_the_readme_has_fewer_than_600_words():
    assert len(README.split()) < 600


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_file_that_a_page_links_is_there(page):
    links = re.findall(r"\]\(([^)\s#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []
