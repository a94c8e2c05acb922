"""Figures of what networks answer to the test images, from their outputs.safetensors: of the first seed that is done.

Correlation: of a network's logits over the test images, as in the CRD paper's figure.
CKA:         of the stages' Gram matrices A, B, centred over the images: <A, B> / (|A| |B|), in 0..1, linear kernel.
             Kornblith et al., Similarity of Neural Network Representations Revisited, ICML 2019.
t-SNE:       of the embeddings, with scikit-learn's defaults. Van der Maaten and Hinton, JMLR 9, 2008.
"""

import textwrap
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from safetensors import SafetensorError
from safetensors.numpy import load_file

from bench.figures.drawing import PANEL_LINE, grid, legend, look, named
from bench.figures.findings import Findings, row_of
from bench.plan import Cell
from bench.spec import RunSpec
from bench.store import OUTPUTS, Store
from bench.suite import TEACHER
from bench.types import RequestError

Outputs = Mapping[str, np.ndarray]  # of bench/train/outputs.py, by name
MOST_POINTS, MOST_CLASSES, MOST_PANELS = 200, 10, 16  # of t-SNE, which takes half a second a panel
TSNE_NOTE = "axes have no unit and differ between panels: only what lies close together means something"


def correlations(findings: Findings) -> Iterator[tuple[str, Figure]]:
    """Yield the teacher's less the student's correlations of logits, a panel a row."""
    for group, found in _beside_teachers(findings):
        panels = {label: taught["correlation"] - own["correlation"] for label, (taught, own) in found.items()}
        most = max(float(np.abs(matrix).max()) for matrix in panels.values()) or 1.0
        title = f"{findings.plan.suite.title}\n{group}: correlation of logits, teacher's less student's"
        lines = {label: f"mean |difference| {np.abs(matrix).mean():.4f}" for label, matrix in panels.items()}
        figure, axes = _panels(lines, title)
        for axis, matrix in zip(axes, panels.values(), strict=True):
            image = axis.imshow(matrix, cmap="RdBu", vmin=-most, vmax=most, interpolation="nearest")
            _frame(axis)
        figure.colorbar(image, ax=axes, shrink=0.8, aspect=30)
        yield named("correlation", group), figure


def similarities(findings: Findings) -> Iterator[tuple[str, Figure]]:
    """Yield the linear CKA of each of the teacher's stages with each of the student's, a panel a row."""
    for group, found in _beside_teachers(findings):
        stages = {label: (_grams(taught), _grams(own)) for label, (taught, own) in found.items()}
        panels = {label: cka(taught, own) for label, (taught, own) in stages.items() if taught and own}
        if not panels:
            continue
        lines = {label: f"mean of diagonal {np.diagonal(one).mean():.3f}" for label, one in panels.items()}
        title = f"{findings.plan.suite.title}\n{group}: linear CKA of stages"
        figure, axes = _panels(lines, title)
        lowest = min(float(matrix.min()) for matrix in panels.values())
        for axis, matrix in zip(axes, panels.values(), strict=True):
            image = axis.imshow(matrix, cmap="cividis", vmin=lowest, vmax=1, origin="lower")
            for (row, column), value in np.ndenumerate(matrix):
                colour = "white" if value < (1 + lowest) / 2 else "black"
                axis.text(column, row, f"{value:.2f}", ha="center", va="center", color=colour, size=6.5)
            axis.set_xticks(range(matrix.shape[1]))
            axis.set_yticks(range(matrix.shape[0]))
            axis.tick_params(labelsize=7, length=2)
        figure.supxlabel("student's stage (0: stem)", size=9)
        figure.supylabel("teacher's stage", size=9)
        figure.colorbar(image, ax=axes, shrink=0.8, aspect=30)
        yield named("cka", group), figure


def cka(taught: Sequence[np.ndarray], own: Sequence[np.ndarray]) -> np.ndarray:
    """Return the linear CKA of the stages of two networks.

    Args:
        taught: a centred Gram matrix (b, b) for each of the teacher's stages.
        own: likewise of the student's stages, on the same images.

    Returns:
        (teacher's stages, student's stages) float64, 0 to 1; 0 where a stage gives all images the same.
    """
    of_teacher = [_unit(gram) for gram in taught]
    of_student = [_unit(gram) for gram in own]
    return np.array([[float(np.vdot(A, B)) for B in of_student] for A in of_teacher])


def _unit(gram: np.ndarray) -> np.ndarray:
    exact = gram.astype(np.float64)
    return exact / (np.linalg.norm(exact) or 1.0)


def _grams(found: Outputs) -> list[np.ndarray]:
    stages = sum(name.startswith("gram") for name in found)
    return [found[f"gram{i}"] for i in range(stages)]


def embeddings(findings: Findings) -> Iterator[tuple[str, Figure]]:
    """Yield the embeddings of test images in two dimensions, a panel a row, the teacher's first."""
    for group, cells in findings.groups.items():
        every = {cell.label: _first(cell, findings.store) for cell in cells}
        answered = {label: found for label, found in every.items() if found is not None and "labels" in found}
        classes = sorted({int(one) for found in answered.values() for one in found["labels"]})[:MOST_CLASSES]
        chosen = {label: _chosen(found, classes) for label, found in answered.items()}
        panels = {label: (points, labels) for label, (points, labels) in chosen.items() if _differ(points)}
        if not panels:
            continue
        rows = list(panels)
        shown, left_out = rows[:MOST_PANELS], rows[MOST_PANELS:]
        title = f"{findings.plan.suite.title}\n{group}: t-SNE of embeddings"
        note = TSNE_NOTE
        if left_out:
            note += f"\nnot drawn, as there is no room: {', '.join(left_out)}"
        figure, axes = _panels(dict.fromkeys(shown, ""), title, note)
        for axis, label in zip(axes, shown, strict=True):
            points, labels = panels[label]
            _scatter(axis, points, labels, classes)
        legend(figure)
        yield named("tsne", group), figure


def _chosen(found: Outputs, classes: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return the embeddings (n, D) float32 of the first images of some classes, and their labels (n,)."""
    places = np.flatnonzero(np.isin(found["labels"], classes))[:MOST_POINTS]
    return found["embedding"][places].astype(np.float32), found["labels"][places]


def _differ(points: np.ndarray) -> bool:
    """Return whether there are embeddings that can be told apart; float16 ends at 65504, and a network may be dead.

    Of points that are all alike, scikit-learn's t-SNE does not come back: it ends the process.
    """
    if len(points) <= MOST_CLASSES or not np.isfinite(points).all():
        return False
    return bool(np.ptp(points, axis=0).max() > 0)


def _scatter(axis: Axes, embeddings: np.ndarray, labels: np.ndarray, classes: Sequence[int]) -> None:
    """Draw embeddings (n, D) in two dimensions, each class with a colour and a marker of its own."""
    from sklearn.manifold import TSNE  # takes a second to import
    from threadpoolctl import threadpool_limits

    perplexity = min(30.0, (len(labels) - 1) / 3)  # scikit-learn's, where there are enough points
    with threadpool_limits(1):  # so few points are no faster by several, and far slower beside other work
        points = TSNE(random_state=0, perplexity=perplexity).fit_transform(embeddings)
    for number, one in enumerate(classes):
        style = {**look(number), "linestyle": "none", "markersize": 2.5, "markeredgewidth": 0}
        axis.plot(*points[labels == one].T, label=f"class {one}", **style)
    _frame(axis)


def _frame(axis: Axes) -> None:
    """Leave an axis without a scale, in a frame."""
    axis.set_xticks([])
    axis.set_yticks([])
    axis.spines[:].set_visible(True)


def _panels(lines: Mapping[str, str], title: str, note: str = "") -> tuple[Figure, list[Axes]]:
    """Return an empty figure with a square panel for each row, under its label and a line of text."""
    names = [[*textwrap.wrap(label, PANEL_LINE), *line.splitlines()] for label, line in lines.items()]
    height = 1.61 + 0.14 * max(len(name) for name in names)
    figure, axes = grid(len(lines), 4, height, title, note)
    for axis, name in zip(axes, names, strict=True):
        axis.set_title("\n".join(name), size=8)
    return figure, axes


def _beside_teachers(findings: Findings) -> Iterator[tuple[str, dict[str, tuple[Outputs, Outputs]]]]:
    """Yield each group with what the teacher and each row answered, by label; none that cannot be compared."""
    if findings.plan.suite.task == "mutual":
        return  # the row `teacher` is nobody's teacher there
    for group, cells in findings.groups.items():
        teacher = row_of(TEACHER, cells)
        found = {}
        for cell in cells:
            both = None if cell.method == TEACHER else _both(cell, teacher, findings.store)
            if both is not None:
                found[cell.label] = both
        if found:
            yield group, found


def _both(cell: Cell, teacher: Cell, store: Store) -> tuple[Outputs, Outputs] | None:
    """Return the teacher's and a row's answers to the same images, or None.

    There are several teachers, another test split, or no seed whose outputs are there.
    """
    for number, run in enumerate(cell.runs):
        tested = teacher.runs[min(number, len(teacher.runs) - 1)]  # one teacher for all seeds, or one each
        if any(getattr(run.data, key) != getattr(tested.data, key) for key in ("name", "size", "fingerprint")):
            continue
        own = _outputs(run, store)
        taught = _outputs(tested, store)
        if own is not None and taught is not None:
            return taught, own
    return None


def _first(cell: Cell, store: Store) -> Outputs | None:
    """Return what the first seed of a row answered that has left its outputs."""
    for run in cell.runs:
        found = _outputs(run, store)
        if found is not None:
            return found
    return None


def _outputs(run: RunSpec, store: Store) -> Outputs | None:
    """Return what a run's network answered to the test images; None if it is not done, or has left no outputs."""
    path = store.folder(run.id) / OUTPUTS
    if store.state(run.id) != "done" or not path.exists():
        return None
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise RequestError(
            f"{path}: cannot be read ({error}). Copy the whole run folder, or remove this file"
        ) from error
