"""Facts about this program: the command by which it was started, and the hash of its code. Imports no torch.

Imports no torch.
"""

import hashlib
import sys
from functools import cache
from pathlib import Path

INSTALLED = "distill-bench"


def started_as() -> str:
    """Return the words that start this program as it was started; in a job of a cluster, the installed command."""
    file = Path(sys.argv[0])
    if file.name == "run_suite.py":
        return "python run_suite.py"
    is_module = file.name == "__main__.py" and file.parent.name == "bench"  # not that of a test runner, for example
    return "python -m bench" if is_module else INSTALLED


@cache
def code_hash(*patterns: str) -> str:
    """Return a hash of this program's files whose names fit one of some patterns, such as `*.py`."""
    root = Path(__file__).parents[1]
    files = [path for folder in ("bench", "methods") for one in patterns for path in (root / folder).rglob(one)]
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in sorted(files))).hexdigest()
