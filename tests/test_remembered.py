"""What is remembered lies in the user's cache folder, and nowhere else."""

import pytest

from bench.remembered import cache_file, keep, recall


def test_what_is_kept_is_recalled(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    keep(cache_file("a.json"), [1, "x"])
    assert recall(cache_file("a.json")) == [1, "x"]


@pytest.mark.parametrize("cache", ["", "cache"])
def test_without_a_home_folder_nothing_is_kept_in_the_working_folder(cache, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "home")
    monkeypatch.setenv("XDG_CACHE_HOME", cache)
    keep(cache_file("a.json"), [1, "x"])
    assert recall(cache_file("a.json")) is None
    assert not list(tmp_path.iterdir())
