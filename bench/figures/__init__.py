"""A suite's figures, drawn from the store alone: results/<suite>/figures/, each as pdf, svg and png. Imports no torch.

A new figure is a module here that is named in `FIGURES` and has

    def draw(findings: Findings) -> Iterator[tuple[str, Figure]]

which yields names and figures; nothing where the store has no numbers for it.
"""

import io
import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType

import matplotlib as mpl
from matplotlib.figure import Figure

from bench.figures import cka, correlation, cost, critic, curves, ensemble, gain, parameter, ranks, tsne
from bench.figures.drawing import STYLE, legend
from bench.figures.findings import Findings
from bench.plan import Plan
from bench.report.frame import Frame, results_frame
from bench.store import Store, write_whole
from methods import Method

FIGURES = (curves, gain, ranks, parameter, ensemble, critic, correlation, cka, tsne, cost)
METADATA: dict[str, dict[str, None]] = {"pdf": {"CreationDate": None}, "svg": {"Date": None}, "png": {}}  # no dates


def write(frame: Frame, store: Store, methods: Mapping[str, Method]) -> list[Path]:
    """Write all figures, and remove those that no longer apply; return the files.

    Raises:
        RequestError: a file of the store cannot be read, or the folder not written.
    """
    written = list(_save(Findings(frame, store, methods), FIGURES))
    for path in (store.suite_folder(frame.plan.name) / "figures").glob("*"):
        if path.suffix[1:] in METADATA and path not in written:
            path.unlink()
    return written


def write_cost(plan: Plan, store: Store) -> list[Path]:
    """Write the figures of cost.csv alone; return the files."""
    return list(_save(Findings(results_frame(plan, store), store, {}), [cost]))


def figures(findings: Findings, modules: Iterable[ModuleType] = FIGURES) -> Iterator[tuple[str, Figure]]:
    """Yield file names, without their ending, and figures with their legends."""
    for module in modules:
        for name, figure in module.draw(findings):
            legend(figure)
            yield re.sub(r"[^A-Za-z0-9.+-]+", "_", name.replace("->", "-to-")), figure


def _save(findings: Findings, modules: Iterable[ModuleType]) -> Iterator[Path]:
    logging.getLogger("fontTools").setLevel(logging.WARNING)  # it logs every glyph of a pdf
    with mpl.rc_context(STYLE):
        for name, figure in figures(findings, modules):
            figure.draw_without_rendering()  # computes the layout, once for all formats
            figure.set_layout_engine("none")
            for kind, metadata in METADATA.items():
                buffer = io.BytesIO()
                figure.savefig(buffer, format=kind, metadata=metadata)  # the same store gives the same bytes
                path = findings.store.suite_folder(findings.plan.name) / "figures" / f"{name}.{kind}"
                write_whole(path, buffer.getvalue())
                yield path
