"""Records the provenance of a result: machine, package versions, and the state of the code."""

import hashlib
import platform
import subprocess
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from bench import __version__
from bench.program import INSTALLED
from bench.store import Store
from bench.store.files import read_json

ORIGIN = "origin.json"  # in the copy of the code that jobs run: the git state of the original
PACKAGES = ("torch", "torchvision", "numpy")


def provenance(device: torch.device, threads: int) -> dict[str, Any]:
    """Return the facts about machine and code that a record of a run includes."""
    return {
        "device": device_name(device),
        "threads": threads,
        "date": datetime.now(UTC).date().isoformat(),
        "host": platform.node(),
        "versions": {
            INSTALLED: __version__,  # says which code it was where no commit does
            "python": platform.python_version(),
            **{name: version(name) for name in PACKAGES},
        },
        **git_state(Path(__file__).parents[2]),
    }


def device_name(device: torch.device) -> str:
    """Return the name of a GPU, or of the processor."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()


def git_state(folder: Path) -> dict[str, Any]:
    """Return {commit, dirty} of a checkout, both None if the folder is not tracked by git."""
    if (origin := read_json(folder / ORIGIN)) is not None:
        return origin
    try:
        _git(folder, "ls-files", "--error-unmatch", ".")
        commit = _git(folder, "rev-parse", "HEAD")
        changed = _git(folder, "status", "--porcelain", "--", ".", ":(exclude)results")
        return {"commit": commit, "dirty": bool(changed)}
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "dirty": None}


def weights_hash(store: Store, run_id: str) -> str:
    """Return the SHA-256 of a finished run's weights; records of earlier versions do not hold it."""
    return store.weights_sha256(run_id) or hashlib.sha256(store.weights(run_id)).hexdigest()


def _git(folder: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", "--no-optional-locks", "-C", str(folder), *arguments], capture_output=True, text=True, check=True
    ).stdout.strip()


def _processor() -> str:
    """Return the name of the processor, or its architecture if the name is unknown."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip() or platform.machine()
    return platform.machine()
