"""Facts from the CRD paper: the names of its rows, and its settings.

Paper: Tian, Krishnan and Isola, Contrastive Representation Distillation, ICLR 2020. Imports no torch.
"""

import itertools
from collections.abc import Iterator, Sequence

from bench.plan import Cell
from bench.spec import RunSpec

KD, CRD = "KD", "CRD"  # the rows that tables compare with, and whose improvement the paper reports
NOT_AS_IN_CODE = {  # that differ between the paper and its code: method, parameter, the paper's value, the code's
    "FT's weight": ("ft", "weight", 500.0, 200.0),
    "CRD's temperature": ("crd", "temperature", 0.1, 0.07),
}


def row_named(cells: Sequence[Cell], name: str) -> str | None:
    """Return the label of the row with a paper's name: a method at its defaults, or else the row with that label."""
    at_defaults = (cell.label for cell in cells if cell.standard == name and not cell.overrides)
    labelled = (cell.label for cell in cells if cell.label == name)
    return next(itertools.chain(at_defaults, labelled), None)


def settings_used(runs: Sequence[RunSpec]) -> Iterator[str]:
    """Yield a sentence on the settings that runs take from the paper, not its code, and one on the reverse."""
    used: dict[str, list[str]] = {}
    if any(run.terms and run.data.name == "imagenet" for run in runs):
        return  # there, the paper and its code have the same temperature, and no FT
    for name, (method, parameter, papers, codes) in NOT_AS_IN_CODE.items():
        terms = [term for run in runs for term in run.terms if term.method == method]
        values = {term.weight if parameter == "weight" else term.parameters[parameter] for term in terms}
        if values == {papers}:
            used.setdefault("From the CRD paper, not its code", []).append(f"{name} {papers:g} (code: {codes:g})")
        elif values == {codes}:
            used.setdefault("From the CRD paper's code", []).append(f"{name} {codes:g} (paper: {papers:g})")
    for whose, settings in used.items():
        yield f"{whose}: {', '.join(settings)}."
