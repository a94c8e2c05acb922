"""How this program was started, for its help and for commands that users copy. Imports no torch."""

import sys
from pathlib import Path

INSTALLED = "distill-bench"
STARTS = {"run_suite.py": "python run_suite.py", "__main__.py": "python -m bench"}  # by the name of the first file


def started_as() -> str:
    """Return the words that start this program as it was started; in a job of a cluster, the installed command."""
    return STARTS.get(Path(sys.argv[0]).name, INSTALLED)
