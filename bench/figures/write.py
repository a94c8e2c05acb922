"""A suite's figures, drawn from the store alone: results/<suite>/figures/, each as pdf and svg. Imports no torch.

Figures of the style `paper` are in figures/paper/. They have no headings; captions.md there has their text.

A new figure is a module here that is named in `FIGURES` and has

    def draw(findings: Findings) -> Iterator[tuple[str, Figure]]

which yields names and figures; nothing where the store has no numbers for it.
"""

import io
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from itertools import chain
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import matplotlib as mpl
from matplotlib.figure import Figure

from bench.figures import cka, correlation, cost, critic, curves, ensemble, gain, parameter, parts, ranks, tsne, tuning
from bench.figures.arrangement import arrange, legend
from bench.figures.drawing import STYLES
from bench.figures.findings import Findings
from bench.figures.parallel import in_processes
from bench.figures.svg import compact
from bench.plan import Plan
from bench.report.folder import FIGURES as FOLDER
from bench.report.folder import PAPER, is_of_paper, note, noted
from bench.report.frame import Frame, results_frame
from bench.report.write import attempt
from bench.store import Store, write_whole
from bench.text import file_name
from bench.types import StyleName
from methods import Method

Draw = Callable[[Findings], Iterator[tuple[str, Figure]]]
# These modules draw each pair on its own, the slowest first. Modules in one line read the same files.
APART = (
    (tsne,),
    (correlation, cka),
    (curves, critic, parts),
)
FIGURES = (*chain(*APART), gain, ranks, parameter, tuning, ensemble, cost)
METADATA: dict[str, dict[str, None]] = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}  # no dates
CAPTIONS = "captions.md"
MANY_CELLS = 32  # figures of as many are worth several processes


def write_figures(
    frame: Frame,
    store: Store,
    methods: Mapping[str, Method],
    failed: list[Exception] | None = None,
    style: StyleName = "page",
    meanwhile: Callable[[], None] = lambda: None,
    many_cells: int = MANY_CELLS,
) -> list[Path]:
    """Write all figures, and remove those of an earlier report that no longer apply; return the files.

    Figures of the style `page` are always written; those of the style `paper` also if an earlier report has them. If a
    figure fails, all earlier ones stay. For `failed`, see `bench.report.write.attempt`.

    `meanwhile` is called before any figure is written; from `many_cells` with runs on, while other processes draw.
    """
    folder = store.suite_folder(frame.plan.folder)
    written: list[Path] = []
    findings = Findings(frame, store, methods)
    with attempt(folder / FOLDER, failed):
        with _draw(findings, FIGURES, many_cells) as drawn:
            meanwhile()  # before anything here can fail
            earlier = noted(folder)
            known = set(earlier.figures if earlier else ())
            before = len(failed or ())
            written += _save(findings, drawn, failed)
        if style == PAPER or any(map(is_of_paper, known)):
            of_paper = replace(findings, style=STYLES[PAPER])
            with _draw(of_paper, FIGURES, many_cells) as drawn:
                written += _save(of_paper, drawn, failed, PAPER)
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


def write_cost(plan: Plan, store: Store, failed: list[Exception] | None = None) -> list[Path]:
    """Write the figures of cost.csv alone; return the files; for `failed`, see `bench.report.write.attempt`."""
    findings = Findings(results_frame(plan, store), store, {})
    with _draw(findings, [cost]) as drawn:
        return list(_save(findings, drawn, failed))


def figures(findings: Findings, draws: Iterable[Draw] | None = None) -> Iterator[tuple[str, Figure]]:
    """Yield file names, without their ending, and figures with their legends; without `draws`, all."""
    for draw in draws or [module.draw for module in FIGURES]:
        for name, figure in draw(findings):
            legend(figure)
            yield file_name(name.replace("->", "-to-")), figure


class Drawn(NamedTuple):
    """A figure's files by their kind, or why there are none."""

    name: str  # of the files, without their ending; of the module, or "all", if it has failed
    label: str
    files: dict[str, bytes] | Exception


@contextmanager
def _draw(findings: Findings, modules: Iterable[ModuleType], many_cells: int = MANY_CELLS) -> Iterator[Iterator[Drawn]]:
    """Yield the figures of modules; from `many_cells` with runs on, other processes begin to draw them at once."""
    with ExitStack() as stack:
        try:
            begun = findings.store.begun()
            with_runs = sum(any({run.id, run.trained_by} & begun for run in cell.runs) for cell in findings.plan.cells)
            is_large = with_runs >= many_cells
            # the caller's frame changes while this one is sent to processes: it remembers what is computed
            if is_large:
                findings = replace(findings, frame=replace(findings.frame))
            drawn = stack.enter_context(in_processes(_drawn, _tasks(findings, modules), is_large))
        except Exception as error:  # processes cannot be started, or the store cannot be read
            yield iter([Drawn("all", "", error)])
        else:
            yield chain.from_iterable(drawn)


def _save(
    findings: Findings, drawn: Iterable[Drawn], failed: list[Exception] | None, subfolder: str = ""
) -> Iterator[Path]:
    """Write the files of figures, and the captions of those that have no heading; yield them."""
    folder = findings.store.suite_folder(findings.plan.folder) / FOLDER / subfolder
    captions: dict[str, str] = {}  # by name
    for name, label, files in drawn:
        while name in captions:  # two names that differ in other characters
            name += "_"
        with attempt(folder / name, failed):
            if isinstance(files, Exception):
                raise files
            for kind, content in files.items():
                write_whole(folder / f"{name}.{kind}", content)
                yield folder / f"{name}.{kind}"
            captions[name] = f"- `{name}`: {'. '.join(label.splitlines())}."
    if captions and not findings.style.has_titles:
        with attempt(folder / CAPTIONS, failed):
            write_whole(folder / CAPTIONS, "\n".join(captions.values()) + "\n")
            yield folder / CAPTIONS


def _tasks(findings: Findings, modules: Iterable[ModuleType]) -> Iterator[tuple[Findings, list[Draw]]]:
    """Yield the parts of the work that several processes can share; pairs of which no run has begun have no figure."""
    wanted, begun = list(modules), findings.store.begun()
    runs = ((cell.pair, name) for cell in findings.plan.cells for run in cell.runs for name in (run.id, run.trained_by))
    pairs = dict.fromkeys(pair for pair, name in runs if name in begun)
    for together in APART:
        if draws := [module.draw for module in together if module in wanted]:
            yield from ((replace(findings, pair=pair), draws) for pair in pairs)
    yield from ((findings, [module.draw]) for module in wanted if module not in chain(*APART))


def _drawn(task: tuple[Findings, list[Draw]]) -> list[Drawn]:
    """Return the figures of a task."""
    findings, draws = task
    logging.getLogger("fontTools").setLevel(logging.WARNING)  # it logs every glyph of a pdf
    drawn = []
    with mpl.rc_context(findings.style.rc):
        for draw in draws:
            try:
                for name, figure in figures(findings, [draw]):
                    drawn.append(Drawn(name, str(figure.get_label()), _rendered(figure)))
            except Exception as error:  # a file that cannot be read, or one of matplotlib; other figures are written
                name = f"{draw.__module__.rpartition('.')[2]}{f' of {findings.pair}' if findings.pair else ''}"
                drawn.append(Drawn(name, "", error))
    return drawn


def _rendered(figure: Figure) -> dict[str, bytes] | Exception:
    """Return a figure's files by their kind, or why there are none; the same store gives the same bytes."""
    files = {}
    try:
        arrange(figure)  # computes the layout, once for all formats
        for kind, metadata in METADATA.items():
            buffer = io.BytesIO()
            figure.savefig(buffer, format=kind, metadata=metadata)
            files[kind] = compact(buffer.getvalue()) if kind == "svg" else buffer.getvalue()
    except Exception as error:  # of matplotlib; the other figures are written
        return error
    return files
