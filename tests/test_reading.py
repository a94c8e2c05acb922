"""Files from outside are read only if they are regular ones."""

import os

import pytest

from bench.reading import file_of_module, open_regular, read_bytes
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


@pytest.mark.parametrize("file", ["whole/part/leaf.py", "whole/folder/leaf.py", "folder/other/leaf.py"])
def test_a_module_is_found_without_an_import_whether_or_not_its_folders_are_packages(file, tmp_path, monkeypatch):
    for package in ("whole", "whole/part"):
        (tmp_path / package).mkdir(exist_ok=True)
        (tmp_path / package / "__init__.py").write_text("raise SystemExit")
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("raise SystemExit")
    monkeypatch.syspath_prepend(tmp_path)
    assert file_of_module(file.removesuffix(".py").replace("/", ".")) == path
