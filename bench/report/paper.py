"""What the CRD paper says and our tables repeat: the names of its rows, and where the paper and its code differ.

Imports no torch.
"""

import itertools
from collections.abc import Sequence

from bench.plan import Cell

KD, CRD = "KD", "CRD"  # rows with a role of their own: what tables compare with, and the paper's own method


def row_named(cells: Sequence[Cell], name: str) -> str | None:
    """Return the label of the row with a paper's name: a method at its defaults, or else the row with that label."""
    at_defaults = (cell.label for cell in cells if cell.standard == name and not cell.overrides)
    labelled = (cell.label for cell in cells if cell.label == name)
    return next(itertools.chain(at_defaults, labelled), None)
