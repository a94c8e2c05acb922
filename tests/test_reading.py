"""Files from outside are read only if they are regular ones."""

import os

import pytest

from bench.reading import open_regular, read_bytes
from bench.types import RequestError


def test_a_regular_file_is_read_also_through_a_link(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    (tmp_path / "link").symlink_to("file")
    assert read_bytes(tmp_path / "link") == b"abc"


def test_a_missing_file_is_said_to_be_missing(tmp_path):
    with pytest.raises(FileNotFoundError):
        open_regular(tmp_path / "none")


def special(folder, kind):
    """Return a path at which there is no regular file."""
    path = folder / kind
    match kind:
        case "a FIFO":
            os.mkfifo(path)
        case "a folder":
            path.mkdir()
        case "a device":
            path.symlink_to("/dev/zero")
        case "symbolic links":
            path.symlink_to(path.name)
        case "too long":
            path = folder / ("x" * 300)
        case "Not a directory":
            (folder / "file").touch()
            path = folder / "file" / "inner"
        case "null":
            path = folder / "a\0b"
    return path


KINDS = ["a FIFO", "a folder", "a device", "symbolic links", "too long", "Not a directory", "null"]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_regular_file_is_refused_by_name_at_once(kind, tmp_path):
    path = special(tmp_path, kind)
    with pytest.raises(RequestError, match=kind) as refusal:
        read_bytes(path)
    assert str(path) in str(refusal.value)
