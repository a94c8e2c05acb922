"""How this program was started, for its help and for commands that users copy. Imports no torch."""

import sys
from pathlib import Path

INSTALLED = "distill-bench"


def started_as() -> str:
    """Return the words that start this program as it was started; in a job of a cluster, the installed command."""
    file = Path(sys.argv[0])
    if file.name == "run_suite.py":
        return "python run_suite.py"
    is_module = file.name == "__main__.py" and file.parent.name == "bench"  # not that of a test runner, for example
    return "python -m bench" if is_module else INSTALLED
