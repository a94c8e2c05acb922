"""A disk that takes no more: one message with the file, nothing lost, and the same command goes on afterwards."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.faults.child import FAULTS

TMPFS_KB = 1500


PLACES = (0.0, 0.2, 0.4, 0.6, 0.8, 0.95)
SHORT = [("full", 0.4), ("read-only", 0.0)]
ALL = [pytest.param(fault, place, marks=pytest.mark.slow) for fault in FAULTS for place in PLACES]


@pytest.mark.parametrize(("fault", "place"), [*SHORT, *(one for one in ALL if tuple(one.values) not in SHORT)])
def test_a_write_that_fails_is_one_message_and_the_next_start_ends_as_an_undisturbed_one(
    fault, place, disturbed, undisturbed
):
    """From one of the changes on, each fails: the first, some while it trains, some of the report."""
    suite = disturbed()
    at = 1 + round(place * 90)
    status = suite.ends(suite.start(fault, at))
    assert status in (1, 2), suite.said
    assert "Traceback" not in suite.said
    assert re.search(re.escape(str(suite.results)) + r".*(cannot be written|written|" + fault + ")", suite.said)
    assert suite.ends() == 0, suite.said
    assert suite.result() == undisturbed[0]


@pytest.fixture
def small_disk(tmp_path):
    """Return a folder on a disk of its own, with little room."""
    folder = tmp_path / "disk"
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", f"size={TMPFS_KB}k", "tmpfs", str(folder)]
    if os.getuid() or subprocess.run(words, capture_output=True, check=False).returncode:
        pytest.skip("a disk of its own needs root, and a system that lets root mount one")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def remount(folder: Path, option: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{option}", str(folder)], check=True)


def test_a_disk_that_is_full_is_named_and_with_more_room_the_suite_ends_as_undisturbed(
    small_disk, disturbed, undisturbed
):
    suite = disturbed(results=small_disk / "results")
    assert suite.ends() in (1, 2)
    assert "No space left on device" in suite.said
    assert "Traceback" not in suite.said
    remount(small_disk, "size=100m")
    assert suite.ends() == 0, suite.said
    assert suite.result() == undisturbed[0]


def test_a_disk_that_becomes_read_only_is_named_and_written_again_later(small_disk, disturbed, undisturbed):
    suite = disturbed(results=small_disk / "results")
    remount(small_disk, "size=100m,ro")
    assert suite.ends() == 2
    assert "Read-only file system" in suite.said
    assert "Traceback" not in suite.said
    remount(small_disk, "rw")
    assert suite.ends() == 0, suite.said
    assert suite.result() == undisturbed[0]
