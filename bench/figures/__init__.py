"""From the store to the figures: results/<suite>/figures/, each as pdf, svg and png. Imports no torch, never trains."""

import io
import logging
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from bench.figures.cost import costs
from bench.figures.drawing import STYLE
from bench.figures.findings import Findings
from bench.figures.networks import correlations, embeddings, similarities
from bench.figures.results import ensembles, gains, parameters, ranks
from bench.figures.training import critics, curves
from bench.plan import Plan
from bench.store import Store, write_whole
from methods import Method

KINDS = ("pdf", "svg", "png")


def write(plan: Plan, store: Store, methods: Mapping[str, Method]) -> list[Path]:
    """Write every figure that the store has something for now, and remove those of before; return the files.

    Raises:
        RequestError: a file of the store cannot be read, or the folder not written.
    """
    with mpl.rc_context(STYLE):
        written = list(_save(plan, store, figures(Findings(plan, store), methods)))
    for path in (store.suite_folder(plan.name) / "figures").glob("*"):
        if path.suffix[1:] in KINDS and path not in written:
            path.unlink()
    return written


def write_cost(plan: Plan, store: Store) -> list[Path]:
    """Write the figures of cost.csv alone; return the files."""
    with mpl.rc_context(STYLE):
        return list(_save(plan, store, costs(Findings(plan, store))))


def _save(plan: Plan, store: Store, drawn: Iterable[tuple[str, Figure]]) -> Iterator[Path]:
    logging.getLogger("fontTools").setLevel(logging.WARNING)  # it tells of every glyph that a pdf takes
    dates: dict[str, dict[str, None]] = {"pdf": {"CreationDate": None}, "svg": {"Date": None}, "png": {}}
    for name, figure in drawn:
        figure.draw_without_rendering()  # lays it out, once for all kinds
        figure.set_layout_engine("none")
        for kind in KINDS:
            buffer = io.BytesIO()
            figure.savefig(buffer, format=kind, metadata=dates[kind])  # the same store gives the same bytes
            path = store.suite_folder(plan.name) / "figures" / f"{name}.{kind}"
            write_whole(path, buffer.getvalue())
            yield path


def figures(findings: Findings, methods: Mapping[str, Method]) -> Iterator[tuple[str, Figure]]:
    """Yield name and figure of all that the store has something for.

    Args:
        findings: of the suite.
        methods: by name, for their parameters' defaults.
    """
    yield from curves(findings)
    yield from gains(findings)
    yield from ranks(findings)
    yield from parameters(findings, methods)
    yield from ensembles(findings)
    yield from critics(findings)
    yield from correlations(findings)
    yield from similarities(findings)
    yield from embeddings(findings)
    yield from costs(findings)
