import os
from dataclasses import replace
from html import unescape
from pathlib import Path

from bench.report import index, page
from bench.report.write import write_tables
from bench.store import Store
from tests.stores import finish_all, plan_of


def test_all_reports_of_a_folder_are_listed_with_their_titles_and_numbers_of_runs(tmp_path):
    store = Store(tmp_path / "results")
    for name, title, changes in (("one", "One & only", ()), ("two", "Two", ()), ("two", "Two", ("seeds=2",))):
        plan = replace(plan_of(tmp_path, *changes, name=name, title=title), changes=changes)
        finish_all(store, plan, {"teacher": [90.0], "none": [80.0, 81.0], "KD": [85.0]})
        page.write(write_tables(plan, store))
    found = list(index.listed(store.root))
    assert [(one.name, one.title) for one in found] == [
        ("one", "One & only"),
        ("two", "Two"),
        ("two/with_seeds=2", "Two"),
    ]
    assert [(one.pairs, one.rows, one.finished, one.statuses) for one in found][::2] == [
        (1, 3, 3, {"done": 3}),
        (1, 3, 4, {"done": 2, "partial": 1}),
    ]
    text = index.write(store).read_text()
    assert "One &amp; only" in text
    assert all(Path(store.root, unescape(one.address).replace("%3D", "=")).is_file() for one in found)
    assert all(f'href="{one.address}"' in text for one in found)


def test_a_report_that_cannot_be_read_is_left_out(tmp_path):
    store = Store(tmp_path / "results")
    plan = plan_of(tmp_path)
    path = page.write(write_tables(plan, store))
    path.write_bytes(b"\xff\xfe\xff")
    assert list(index.listed(store.root)) == []
    assert "There is no report yet" in index.write(store).read_text()
    path.unlink()
    os.mkfifo(path)
    assert list(index.listed(store.root)) == []
