"""A suite's figures, drawn from the store alone: results/<suite>/figures/, each as pdf, svg and png. Imports no torch.

Those of the style `paper` are in figures/paper/, with captions.md, which has what their headings would say.

A new figure is a module here that is named in `FIGURES` and has

    def draw(findings: Findings) -> Iterator[tuple[str, Figure]]

which yields names and figures; nothing where the store has no numbers for it.
"""

import io
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from bench.figures import cka, correlation, cost, critic, curves, ensemble, gain, parameter, parts, ranks, tsne, tuning
from bench.figures.drawing import STYLES, arrange, legend
from bench.figures.findings import Findings
from bench.figures.parallel import in_processes
from bench.plan import Plan
from bench.report.folder import FIGURES as FOLDER
from bench.report.folder import PAPER, StyleName, is_of_paper, note, noted
from bench.report.frame import Frame, results_frame
from bench.report.write import attempt
from bench.store import Store, write_whole
from bench.text import file_name
from methods import Method

FIGURES = (curves, gain, ranks, parameter, tuning, ensemble, critic, parts, correlation, cka, tsne, cost)
METADATA: dict[str, dict[str, None]] = {"pdf": {"CreationDate": None}, "svg": {"Date": None}, "png": {}}  # no dates
CAPTIONS = "captions.md"
MIN_IN_PARALLEL = 8  # figures that are worth a process


def write(
    frame: Frame,
    store: Store,
    methods: Mapping[str, Method],
    failed: list[Exception] | None = None,
    style: StyleName = "page",
) -> list[Path]:
    """Write all figures, and remove those of an earlier report that no longer apply; return the files.

    The page shows those of the style `page`, which are written in any case, and those for a paper if an earlier report
    has them. If a figure fails, all earlier ones stay. For `failed`, see `bench.report.write.attempt`.
    """
    before = len(failed or ())
    folder = store.suite_folder(frame.plan.folder)
    written: list[Path] = []
    with attempt(folder / FOLDER, failed):
        earlier = noted(folder)
        known = set(earlier.figures if earlier else ())
        has_paper = style == PAPER or any(map(is_of_paper, known))
        for shown, findings in _findings(frame, store, methods, ["page", PAPER] if has_paper else ["page"]).items():
            written += _save(findings, FIGURES, failed, PAPER if shown == PAPER else "")
        names = {path.relative_to(folder / FOLDER).as_posix() for path in written}
        if len(failed or ()) > before:
            names |= known
        gone = known - names
        for name in gone:
            with suppress(OSError):  # it is gone already, or a folder now
                (folder / FOLDER / (PAPER if is_of_paper(name) else "") / Path(name).name).unlink()
        if written or gone:
            note(frame.plan, store, figures=sorted(names))
    return written


def _findings(
    frame: Frame, store: Store, methods: Mapping[str, Method], styles: Sequence[StyleName]
) -> dict[StyleName, Findings]:
    """Return what the figures of each style are drawn from; all read the epochs of the first."""
    first = Findings(frame, store, methods)
    return {name: replace(first, style=STYLES[name]) for name in styles}


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


def _save(
    findings: Findings, modules: Iterable[ModuleType], failed: list[Exception] | None, subfolder: str = ""
) -> Iterator[Path]:
    folder = findings.store.suite_folder(findings.plan.folder) / FOLDER / subfolder
    captions: list[str] = []
    rc = findings.style.rc
    with mpl.rc_context(rc):
        drawn = list(figures(findings, modules, failed))
    rendered = in_processes(_rendered, [(figure, rc) for _, figure in drawn], MIN_IN_PARALLEL)
    for (name, figure), files in zip(drawn, rendered, strict=True):
        with attempt(folder / name, failed):
            if isinstance(files, Exception):
                raise files
            for kind, content in files.items():
                write_whole(folder / f"{name}.{kind}", content)
                yield folder / f"{name}.{kind}"
            captions.append(f"- `{name}`: {'. '.join(str(figure.get_label()).splitlines())}.")
    if captions and not findings.style.has_titles:
        with attempt(folder / CAPTIONS, failed):
            write_whole(folder / CAPTIONS, "\n".join(captions) + "\n")
            yield folder / CAPTIONS


def _rendered(task: tuple[Figure, dict[Any, Any]]) -> dict[str, bytes] | Exception:
    """Return a figure's files by their kind, or why there are none; the same store gives the same bytes."""
    figure, rc = task
    logging.getLogger("fontTools").setLevel(logging.WARNING)  # it logs every glyph of a pdf
    files = {}
    try:
        with mpl.rc_context(rc):
            arrange(figure)  # computes the layout, once for all formats
            for kind, metadata in METADATA.items():
                buffer = io.BytesIO()
                figure.savefig(buffer, format=kind, metadata=metadata)
                files[kind] = buffer.getvalue()
    except Exception as error:  # of matplotlib; the other figures are written
        return error
    return files
