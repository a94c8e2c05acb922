"""A suite's figures, drawn from the store alone: results/<suite>/figures/, each as pdf, svg and png. Imports no torch.

A new figure is a module here that is named in `FIGURES` and has

    def draw(findings: Findings) -> Iterator[tuple[str, Figure]]

which yields names and figures; nothing where the store has no numbers for it.
"""

import io
import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import ModuleType

import matplotlib as mpl
from matplotlib.figure import Figure

from bench.figures import cka, correlation, cost, critic, curves, ensemble, gain, parameter, parts, ranks, tsne
from bench.figures.drawing import STYLE, legend
from bench.figures.findings import Findings
from bench.plan import Plan
from bench.report.folder import FIGURES as FOLDER
from bench.report.folder import note, noted
from bench.report.frame import Frame, results_frame
from bench.report.write import attempt
from bench.store import Store, write_whole
from bench.text import file_name
from methods import Method

FIGURES = (curves, gain, ranks, parameter, ensemble, critic, parts, correlation, cka, tsne, cost)
METADATA: dict[str, dict[str, None]] = {"pdf": {"CreationDate": None}, "svg": {"Date": None}, "png": {}}  # no dates


def write(
    frame: Frame, store: Store, methods: Mapping[str, Method], failed: list[Exception] | None = None
) -> list[Path]:
    """Write all figures, and remove those of an earlier report that no longer apply; return the files.

    If a figure fails, all earlier ones stay. For `failed`, see `bench.report.write.attempt`.
    """
    before = len(failed or ())
    written = list(_save(Findings(frame, store, methods), FIGURES, failed))
    folder = store.suite_folder(frame.plan.folder)
    with attempt(folder / FOLDER, failed):
        earlier = noted(folder)
        names, known = {path.name for path in written}, set(earlier.figures if earlier else ())
        if len(failed or ()) > before:
            names |= known
        gone = known - names
        for name in gone:
            with suppress(OSError):  # it is gone already, or a folder now
                (folder / FOLDER / Path(name).name).unlink()
        if written or gone:
            note(frame.plan, store, figures=sorted(names))
    return written


def write_cost(plan: Plan, store: Store, failed: list[Exception] | None = None) -> list[Path]:
    """Write the figures of cost.csv alone; return the files; for `failed`, see `bench.report.write.attempt`."""
    return list(_save(Findings(results_frame(plan, store), store, {}), [cost], failed))


def figures(
    findings: Findings, modules: Iterable[ModuleType] = FIGURES, failed: list[Exception] | None = None
) -> Iterator[tuple[str, Figure]]:
    """Yield file names, without their ending, and figures with their legends; see `bench.report.write.attempt`."""
    taken: set[str] = set()
    for module in modules:
        with attempt(f"the figure {module.__name__.rpartition('.')[2]}", failed):
            for name, figure in module.draw(findings):
                legend(figure)
                name = file_name(name.replace("->", "-to-"))
                while name in taken:  # two names that differ in other characters
                    name += "_"
                taken.add(name)
                yield name, figure


def _save(findings: Findings, modules: Iterable[ModuleType], failed: list[Exception] | None) -> Iterator[Path]:
    logging.getLogger("fontTools").setLevel(logging.WARNING)  # it logs every glyph of a pdf
    folder = findings.store.suite_folder(findings.plan.folder) / FOLDER
    with mpl.rc_context(STYLE):
        for name, figure in figures(findings, modules, failed):
            with attempt(folder / name, failed):
                figure.draw_without_rendering()  # computes the layout, once for all formats
                figure.set_layout_engine("none")
                for kind, metadata in METADATA.items():
                    buffer = io.BytesIO()
                    figure.savefig(buffer, format=kind, metadata=metadata)  # the same store gives the same bytes
                    write_whole(folder / f"{name}.{kind}", buffer.getvalue())
                    yield folder / f"{name}.{kind}"
