"""A cache in the user's cache folder, for hashes of image folders and answers of dry runs. Imports no torch."""

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from bench.reading import check_regular
from bench.types import RequestError


def cache_file(name: str) -> Path:
    """Return the path of a file in the cache folder: that of the user, or in the one that XDG_CACHE_HOME names.

    A user without a home folder gets a relative path, at which nothing is kept: it would lie in the working folder.
    """
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(base):
        base = os.path.expanduser("~/.cache")
    return Path(base, "distillation-bench", name)


def recall(file: Path) -> Any:  # noqa: ANN401
    """Return what `keep` wrote; None if it is missing or damaged."""
    if not file.is_absolute():
        return None
    with suppress(OSError, ValueError, RequestError, RecursionError):
        check_regular(file)
        sha256, _, text = file.read_text("utf-8", "surrogateescape").partition("\n")
        if hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest() == sha256:
            return json.loads(text)
    return None


def keep(file: Path, document: object) -> None:
    """Write a document with its checksum, if that can be done."""
    if not file.is_absolute():
        return
    content = json.dumps(document).encode()
    temporary = file.with_suffix(f".{uuid4().hex}.tmp")
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_bytes(hashlib.sha256(content).hexdigest().encode() + b"\n" + content)
            temporary.replace(file)
        finally:
            temporary.unlink(missing_ok=True)
