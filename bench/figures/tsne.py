"""t-SNE: the embeddings of test images in two dimensions, of the first seed that is done, a panel per row.

Van der Maaten and Hinton, Visualizing Data using t-SNE, JMLR 9, 2008. For so few points, the exact gradient takes a
fraction of the time of scikit-learn's, which approximates it for thousands.
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np
from matplotlib.figure import Figure

from bench.data.named import DATASETS
from bench.figures.drawing import grid, unscaled
from bench.figures.findings import Findings
from bench.figures.looks import look
from bench.report.summary import Summary

MAX_POINTS, MAX_CLASSES = 200, 10
PERPLEXITY = 30.0  # scikit-learn's default, where there are enough points
STEPS, EXAGGERATED_STEPS = 300, 250  # scikit-learn takes 1000, of which 250 are with exaggerated affinities
EXAGGERATION = 12.0  # scikit-learn's default
BISECTIONS = 40  # to a width within 1e-10 of itself
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
            for axis, label in zip(axes, labels, strict=True):
                points, drawn = answers[label]
                places = in_two_dimensions(points)
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

    They are stored as float16, whose greatest value is 65504.
    """
    if len(points) <= MAX_CLASSES or not np.isfinite(points).all():
        return False
    return bool(np.ptp(points, axis=0).max() > 0)


def in_two_dimensions(points: np.ndarray) -> np.ndarray:
    """Return points (n, D) in two dimensions, (n, 2) float32, by t-SNE with the exact gradient.

    Minimises KL(P || Q) by gradient descent with momentum and a gain for each coordinate, from the first two principal
    components. P[i, j] is how likely i and j pick each other as neighbours, and Q[i, j] the same of the result, with
    Student's t distribution (van der Maaten and Hinton, equations 1, 4 and 5, and section 3.4). The learning rate is
    that of Belkina et al., Nature Communications 10, 2019; with 50, scikit-learn's lowest, single points fly off.
    """
    n = len(points)
    wanted = _neighbours(points, min(PERPLEXITY, (n - 1) / 3)) * EXAGGERATION
    centred = points - points.mean(axis=0)
    axes, lengths, _ = np.linalg.svd(centred, full_matrices=False)
    places = np.zeros((n, 2), dtype=np.float32)
    places[:, : len(lengths)] = (axes * lengths)[:, :2]
    places *= 1e-4 / places[:, 0].std()
    rate = max(n / EXAGGERATION, 10.0)
    step, gains = np.zeros_like(places), np.ones_like(places)
    for number in range(STEPS):
        if number == EXAGGERATED_STEPS:
            wanted /= EXAGGERATION
            step, gains = np.zeros_like(places), np.ones_like(places)
        near = 1 / (1 + _squared_distances(places))
        np.fill_diagonal(near, 0)
        pull = (wanted - near / near.sum()) * near
        gradient = 4 * (pull.sum(axis=1, keepdims=True) * places - pull @ places)
        gains = np.maximum(np.where(step * gradient < 0, gains + 0.2, gains * 0.8), 0.01)
        step = (0.5 if number < EXAGGERATED_STEPS else 0.8) * step - rate * gains * gradient
        places += step
    return places


def _squared_distances(points: np.ndarray) -> np.ndarray:
    """Return |x_i - x_j|^2 of points (n, D): (n, n)."""
    squares = (points**2).sum(axis=1)
    return np.maximum(squares[:, None] + squares - 2 * points @ points.T, 0)


def _neighbours(points: np.ndarray, perplexity: float) -> np.ndarray:
    """Return how likely each two of the points (n, D) pick each other as neighbours: (n, n) float32, with the sum 1.

    The width of each point's Gaussian is found by bisection, so that its neighbours have the given perplexity.
    """
    distances = _squared_distances(points.astype(np.float64))
    np.fill_diagonal(distances, np.inf)  # no point is its own neighbour
    distances -= distances.min(axis=1, keepdims=True)
    distances /= distances[np.isfinite(distances)].mean() or 1.0
    finite = np.where(np.isfinite(distances), distances, 0)
    low, high = np.full((2, len(points), 1), [[[-20.0]], [[20.0]]])  # logarithms of precisions
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        chances = np.exp(-distances * np.exp(middle))
        totals = chances.sum(axis=1, keepdims=True)
        chances /= totals
        entropy = np.log(totals) + np.exp(middle) * (chances * finite).sum(axis=1, keepdims=True)
        is_wide = entropy > np.log(perplexity)
        low, high = np.where(is_wide, middle, low), np.where(is_wide, high, middle)
    return ((chances + chances.T) / (2 * len(points))).astype(np.float32)
