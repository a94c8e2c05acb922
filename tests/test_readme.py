"""The README's examples, run as they stand, and the published results that it shows."""

import csv
import re
from pathlib import Path

import pytest

from bench.plan import build
from bench.suite import load
from methods import catalog
from tests.train.conftest import Bench, cell, document

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PUBLISHED = ("quickstart", "fashion_mnist")
RESULTS = ROOT / "results" / "published"


def block(language: str) -> str:
    found = re.search(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    assert found is not None
    return found[1]


def test_the_readmes_suite_file_is_a_suite_file(tmp_path):
    (tmp_path / "example.yaml").write_text(block("yaml"))
    suite = load(tmp_path / "example.yaml", catalog())
    assert len(suite.pairs) == 3


def test_the_readmes_method_trains_as_a_plugin(tmp_path):
    plugin = tmp_path / "logit_mse.py"
    plugin.write_text(block("python"))
    row = {"method": "logit_mse", "scale": 2.0, "label": "mine"}
    plan, store, _ = Bench(tmp_path, document(methods=[row]), [plugin]).run()
    assert store.state(cell(plan, "mine").runs[0].id) == "done"


@pytest.mark.parametrize("suite", PUBLISHED)
def test_the_readme_quotes_a_published_table_and_its_protocol_as_they_were_written(suite):
    _title, protocol, table, *_ = (RESULTS / suite / "table.md").read_text(encoding="utf-8").split("\n\n")
    assert table.startswith("| method |")
    assert f"{protocol}\n\n{table}\n" in README


@pytest.mark.parametrize("suite", PUBLISHED)
def test_published_results_are_of_all_rows_that_the_suite_has_now(suite):
    path = ROOT / "suites" / f"{suite}.yaml"
    plan = build(load(path, catalog()), path, catalog())
    with (RESULTS / suite / "table.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["metric"] == "top1"]
    assert [(row["pair"], row["label"], int(row["n"])) for row in rows] == [
        (cell.pair, cell.label, len(cell.runs)) for cell in plan.cells
    ]


def test_every_picture_and_page_that_the_readme_links_is_there():
    links = re.findall(r"\]\(([^):]+)\)", README)
    assert any(link.endswith(".png") for link in links)
    assert [link for link in links if not (ROOT / link).exists()] == []
