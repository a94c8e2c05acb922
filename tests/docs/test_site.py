"""The documentation is built without a warning, and its reference is complete."""

import os
import re
import subprocess
import sys

import pytest
import yaml

from bench.data import DATASETS
from bench.models import NETWORKS
from bench.suite.json_schema import json_schema
from methods import catalog
from tests.docs.blocks import ROOT, blocks

REFERENCE = ROOT / "docs" / "reference"
SUITE_FILE = REFERENCE / "suite-file.md"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Return the folder of the built documentation; a warning ends the build."""
    folder = tmp_path_factory.mktemp("site")
    words = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(folder)]
    variables = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(words, cwd=ROOT, env=variables, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    assert built.stderr == ""
    return folder


@pytest.mark.parametrize("page", sorted(REFERENCE.glob("*.md")), ids=lambda page: page.name)
def test_a_page_of_the_reference_says_what_the_code_says(page, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs")
    from generated.places import filled

    text = page.read_text(encoding="utf-8")
    assert text == filled(text), f"{page.name} is out of date: run `make reference`"


@pytest.mark.parametrize(("page", "names"), [("methods", catalog()), ("datasets", DATASETS)])
def test_every_method_and_data_set_can_be_linked_to_by_its_name(site, page, names):
    text = (site / "reference" / f"{page}.html").read_text(encoding="utf-8")
    assert [name for name in names if f'<h2 id="{name}"' not in text] == []


def test_every_network_is_in_the_reference():
    text = (REFERENCE / "networks.md").read_text(encoding="utf-8")
    assert [name for name in NETWORKS if f"| `{name}` |" not in text] == []


def test_no_page_asks_another_server_for_a_file(site):
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        for asked in ('<script src="http', '<img src="http', "<iframe"):
            assert asked not in text, page


def test_no_list_is_part_of_a_paragraph(site):
    # unlike GitHub, MkDocs needs an empty line before a list
    lost = re.compile(r"<p>(?:(?!</p>).)*?\n(?:- |\d+\. )", re.DOTALL)
    pages = {page: lost.search(page.read_text(encoding="utf-8")) for page in site.rglob("*.html")}
    assert {page.name: found[0] for page, found in pages.items() if found} == {}


def keys_of(value):
    """Return the keys of a document, at any depth."""
    if isinstance(value, dict):
        return set(value) | set().union(*map(keys_of, value.values()), set())
    return set().union(*map(keys_of, value), set()) if isinstance(value, list) else set()


def test_every_key_of_a_suite_file_has_an_example():
    models = json_schema()["$defs"].values()
    keys = {key for model in models for key in (model["anyOf"][1] if "anyOf" in model else model)["properties"]}
    examples = [yaml.safe_load(block.text) for block in blocks(SUITE_FILE) if block.language == "yaml"]
    assert keys - keys_of(examples) == set()
