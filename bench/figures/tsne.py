"""The embeddings of test images in two dimensions, of the first seed that is done, a panel per row.

t-SNE with scikit-learn's defaults. Van der Maaten and Hinton, JMLR 9, 2008.
"""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from bench.figures.drawing import grid, look, marks, unscaled
from bench.figures.findings import Findings

MAX_POINTS, MAX_CLASSES, MAX_PANELS = 200, 10, 16  # it takes half a second per panel
NOTE = "axes have no unit and differ between panels: only what lies close together means something"


def draw(findings: Findings) -> Iterator[tuple[str, Figure]]:
    """Yield a figure per group."""
    for group, rows in findings.groups.items():
        first = {row.label: next(filter(None, map(findings.outputs, row.cell.runs)), {}) for row in rows}
        answered = {label: own for label, own in first.items() if "labels" in own}
        classes = sorted({int(one) for own in answered.values() for one in own["labels"]})[:MAX_CLASSES]
        looks = {f"class {one}": look(number) for number, one in enumerate(classes)}
        panels = {}
        for label, own in answered.items():
            chosen = np.flatnonzero(np.isin(own["labels"], classes))[:MAX_POINTS]
            points = own["embedding"][chosen].astype(np.float32)
            if _differ(points):
                panels[label] = points, own["labels"][chosen]
        if not panels:
            continue
        shown, left_out = list(panels)[:MAX_PANELS], list(panels)[MAX_PANELS:]
        heading = [findings.title, f"{group}: t-SNE of embeddings", NOTE]
        if left_out:
            heading.append(f"not drawn for lack of room: {', '.join(left_out)}")
        figure, axes = grid(shown, 4, 1.75, heading)
        for axis, label in zip(axes, shown, strict=True):
            points, labels = panels[label]
            x, y = _embedded(points).T
            places = pd.DataFrame({"x": x, "y": y, "label": [f"class {one}" for one in labels]})
            marks(axis, places, looks, x="x", y="y", s=8)
            unscaled(axis)
        yield f"tsne_{group}", figure


def _differ(points: np.ndarray) -> bool:
    """Return whether there are embeddings that can be told apart; float16 ends at 65504, and a network may be dead.

    scikit-learn's t-SNE ends the process if all points are equal.
    """
    if len(points) <= MAX_CLASSES or not np.isfinite(points).all():
        return False
    return bool(np.ptp(points, axis=0).max() > 0)


def _embedded(points: np.ndarray) -> np.ndarray:
    """Return points (n, D) in two dimensions: (n, 2)."""
    from sklearn.manifold import TSNE  # takes a second to import
    from threadpoolctl import threadpool_limits

    perplexity = min(30.0, (len(points) - 1) / 3)  # scikit-learn's default, where there are enough points
    with threadpool_limits(1):  # several threads are no faster for so few points, and far slower on a busy machine
        return TSNE(random_state=0, perplexity=perplexity).fit_transform(points)
