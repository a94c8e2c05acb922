"""The README's examples, run as they stand."""

import re
from pathlib import Path

from bench.suite import load
from methods.catalog import catalog
from tests.train.conftest import Bench, cell, document

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


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
