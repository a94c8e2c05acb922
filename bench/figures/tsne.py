"""t-SNE: the embeddings of test images in two dimensions, of the first seed that is done, a panel per row.

t-SNE of scikit-learn, with fewer steps and neighbours than its defaults. Van der Maaten and Hinton, JMLR 9, 2008.
"""

import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from matplotlib.figure import Figure

from bench.data.named import DATASETS
from bench.figures.drawing import grid, unscaled
from bench.figures.findings import Findings
from bench.figures.looks import look
from bench.report.summary import Summary

MAX_POINTS, MAX_CLASSES = 150, 10  # of a panel an inch wide in a paper
PERPLEXITY = 20.0  # a little more than the points of a class, 15 of ten classes
ANGLE = 0.8  # as coarse as scikit-learn advises; of so few points, neighbours are kept as well as with its default, 0.5
STEPS = 300  # of scikit-learn's default, 1000, which takes three times as long and lowers the divergence by 3 %
NOTE = "axes have no unit and differ between panels: only what lies close together means something"
Places = tuple[np.ndarray, np.ndarray]  # of images: points (n, D) or (n, 2), and their classes (n,)


def draw(findings: Findings, max_panels: int = 16) -> Iterator[tuple[str, Figure]]:
    """Yield a figure per group, or several of `max_panels` rows at most: the second one's name ends in `_2`."""
    for group, rows in findings.groups.items():
        if not (answers := _answers(findings, rows)):
            continue
        names = _class_names(rows[0].cell.runs[0].data.name)
        classes = sorted({int(one) for _, own in answers.values() for one in own})
        looks = {names.get(one, f"class {one}"): look(number) for number, one in enumerate(classes)}
        every = list(answers)
        each = math.ceil(len(every) / math.ceil(len(every) / max_panels))  # panels, as equally many as possible
        parts = [every[start : start + each] for start in range(0, len(every), each)]
        for number, labels in enumerate(parts, start=1):
            part = f", {number} of {len(parts)}" if len(parts) > 1 else ""
            heading = [findings.title, f"{group}: t-SNE of embeddings{part}", NOTE]
            figure, axes = grid(findings.style, labels, 4, 1.75, heading)
            flat = _in_two_dimensions(answers[label][0] for label in labels)
            for axis, label, places in zip(axes, labels, flat, strict=True):
                drawn = answers[label][1]
                for one in np.unique(drawn):  # seaborn's scatterplot takes several times as long for marks of ten kinds
                    name = names.get(int(one), f"class {one}")
                    style = {**looks[name], "linestyle": "none", "markersize": 2.8, "markeredgewidth": 0}
                    axis.plot(*places[drawn == one].T, label=name, **style)
                unscaled(axis)
            yield f"tsne_{group}" + (f"_{number}" if number > 1 else ""), figure


def _answers(findings: Findings, rows: Sequence[Summary]) -> dict[str, Places]:
    """Return the embeddings of each row that can be told apart, by label, of the images of the first classes."""
    first = {row.label: next(filter(None, map(findings.outputs, row.cell.runs)), {}) for row in rows}
    answered = {label: own for label, own in first.items() if "labels" in own}
    classes = sorted({int(one) for own in answered.values() for one in own["labels"]})[:MAX_CLASSES]
    places = {}
    for label, own in answered.items():
        chosen = np.flatnonzero(np.isin(own["labels"], classes))[:MAX_POINTS]
        points = own["embedding"][chosen].astype(np.float32)
        if _differ(points):
            places[label] = points, own["labels"][chosen]
    return places


def _class_names(data: str) -> dict[int, str]:
    """Return the names of the first classes of a data set that has them, by number."""
    named = DATASETS.get(data)
    return dict(enumerate(named.class_names)) if named else {}


def _differ(points: np.ndarray) -> bool:
    """Return whether embeddings are finite and not all equal, as they are for a network that has died.

    They are stored as float16, whose greatest value is 65504. scikit-learn's t-SNE ends the process if all points are
    equal.
    """
    if len(points) <= MAX_CLASSES or not np.isfinite(points).all():
        return False
    return bool(np.ptp(points, axis=0).max() > 0)


def _in_two_dimensions(sets: Iterable[np.ndarray]) -> list[np.ndarray]:
    """Return each set of points (n, D) in two dimensions: (n, 2)."""
    from sklearn.manifold import TSNE  # takes a second to import
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):  # several threads are no faster for so few points, and far slower on a busy machine
        return [
            TSNE(
                random_state=0, perplexity=min(PERPLEXITY, (len(own) - 1) / 3), angle=ANGLE, max_iter=STEPS
            ).fit_transform(own)
            for own in sets
        ]
