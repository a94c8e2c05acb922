"""Where a number comes from: what a record says of machine, packages and code."""

import subprocess
from importlib.metadata import version

import pytest
import torch

import bench
from bench.launch.provenance import git_state, provenance


def git(folder, *arguments):
    identity = ("-c", "user.name=Test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false")
    return subprocess.run(
        ["git", "-C", folder, *identity, *arguments], check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.fixture(autouse=True)
def _no_git_around(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):  # set where a commit hook runs the tests
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def checkout(tmp_path):
    """Return a repository with one commit, and an ignored folder."""
    git(tmp_path, "init", "--quiet")
    (tmp_path / "method.py").write_text("weight = 1\n")
    (tmp_path / ".gitignore").write_text("results/\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message", "methods: add one")
    return tmp_path


def test_a_clean_checkout_is_named_by_its_commit(checkout):
    assert git_state(checkout) == {"commit": git(checkout, "rev-parse", "HEAD"), "dirty": False}


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "method.py").write_text("weight = 2\n"),
        lambda folder: (folder / "method.py").unlink(),
        lambda folder: (folder / "another.py").write_text("weight = 2\n"),
    ],
    ids=["changed", "removed", "new"],
)
def test_a_file_that_is_not_as_committed_makes_the_checkout_dirty(change, checkout):
    change(checkout)
    assert git_state(checkout) == {"commit": git(checkout, "rev-parse", "HEAD"), "dirty": True}


def test_ignored_files_leave_the_checkout_clean(checkout):
    (checkout / "results").mkdir()
    (checkout / "results" / "table.csv").write_text("pair\n")
    assert git_state(checkout)["dirty"] is False


def test_published_results_that_another_run_has_written_anew_leave_the_checkout_clean(checkout):
    (checkout / ".gitignore").unlink()
    (checkout / "results").mkdir()
    (checkout / "results" / "table.csv").write_text("pair\n")
    git(checkout, "add", ".")
    git(checkout, "commit", "--quiet", "--message", "results: publish")
    (checkout / "results" / "table.csv").write_text("pair,mean\n")
    assert git_state(checkout)["dirty"] is False
    (checkout / "method.py").write_text("weight = 2\n")
    assert git_state(checkout)["dirty"] is True


def test_without_git_nothing_is_claimed(tmp_path):
    assert git_state(tmp_path) == {"commit": None, "dirty": None}


def test_a_repository_without_a_commit_names_none(tmp_path):
    git(tmp_path, "init", "--quiet")
    (tmp_path / "method.py").write_text("weight = 1\n")
    git(tmp_path, "add", ".")
    assert git_state(tmp_path) == {"commit": None, "dirty": None}


def test_code_installed_inside_another_projects_checkout_is_not_named_by_its_commit(checkout):
    installed = checkout / "results" / "site-packages"
    installed.mkdir(parents=True)
    (installed / "method.py").write_text("weight = 1\n")
    assert git_state(installed) == {"commit": None, "dirty": None}


def test_where_git_is_not_installed_nothing_is_claimed(checkout, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert git_state(checkout) == {"commit": None, "dirty": None}


def test_a_record_says_on_what_and_with_which_packages_it_was_made():
    facts = provenance(torch.device("cpu"), threads=2)
    assert facts.keys() == {"device", "threads", "date", "host", "versions", "commit", "dirty"}
    assert facts["threads"] == 2
    assert facts["device"]
    assert facts["versions"]["torch"] == version("torch")
    assert facts["versions"]["distill-bench"] == bench.__version__
