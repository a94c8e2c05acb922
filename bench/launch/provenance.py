"""Where a number comes from: machine, package versions, and the state of the code."""

import hashlib
import json
import platform
import subprocess
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

ORIGIN = "origin.json"  # in a copy of the code that jobs run: the state of the checkout that it was made of
PACKAGES = ("torch", "torchvision", "numpy")


def provenance(device: torch.device, threads: int) -> dict[str, Any]:
    """Return what a record says of how its run was made: on a device, with a number of CPU threads."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    facts = {
        "device": name,
        "threads": threads,
        "date": datetime.now(UTC).date().isoformat(),
        "host": platform.node(),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
    }
    return facts | git_state(Path(__file__).parents[2])


def git_state(folder: Path) -> dict[str, Any]:
    """Return {commit, dirty} of a checkout, both None where there is no git, or another project's around the code."""
    if (folder / ORIGIN).exists():
        return json.loads((folder / ORIGIN).read_text(encoding="utf-8"))
    try:
        _git(folder, "ls-files", "--error-unmatch", ".")
        commit = _git(folder, "rev-parse", "HEAD")
        changed = _git(folder, "status", "--porcelain", "--", ".", ":(exclude)results")  # numbers are no code
        return {"commit": commit, "dirty": bool(changed)}
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "dirty": None}


def sha256_of(path: Path) -> str:
    """Return a file's hash."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _git(folder: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", "--no-optional-locks", "-C", str(folder), *arguments], capture_output=True, text=True, check=True
    ).stdout.strip()


def _processor() -> str:
    """Return the processor's name, or its architecture where the system does not give one."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip() or platform.machine()
    return platform.machine()
