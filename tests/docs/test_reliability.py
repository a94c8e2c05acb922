"""The page on reliability: each promise names tests that exist."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_each_promise_names_tests_that_exist():
    promises = (ROOT / "docs" / "reliability.md").read_text().split("## Promises")[1].split("\n## ")[0]
    rows = [line for line in promises.splitlines() if line.startswith("| ")][1:]
    named = [re.findall(r"`(tests/[\w./]+)`", row.rpartition(" | ")[2]) for row in rows]
    assert rows
    assert all(named)
    for path in (ROOT / one for of_row in named for one in of_row):
        files = path.glob("test_*.py") if path.is_dir() else [path]
        assert any("def test_" in file.read_text() for file in files), path
