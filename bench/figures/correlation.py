"""The correlation of logits over the test images, the teacher's minus the student's, as in the CRD paper's figure.

Of the first seed that is done, a panel per row. Colours grow lighter from the lowest to the highest difference, so that
its sign can be seen in greyscale too; zero is in the middle.
"""

from collections.abc import Iterator

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from bench.figures.drawing import grid, unscaled
from bench.figures.findings import Findings

SHADES = 64  # neighbouring ones cannot be told apart, and more of them would make the page larger
MAX_WHOLE = 250  # classes that are drawn with a pixel each; panels have about as many pixels


def draw(findings: Findings) -> Iterator[tuple[str, Figure]]:
    """Yield a figure per group, the smallest difference first."""
    for group, rows in findings.beside_teachers():
        panels = {label: taught["correlation"] - own["correlation"] for label, taught, own in rows}
        if not panels:
            continue
        panels = dict(sorted(panels.items(), key=lambda one: float(np.abs(one[1]).mean())))
        titles = [f"{label}\nmean |difference| {np.abs(matrix).mean():.4f}" for label, matrix in panels.items()]
        heading = [findings.title, f"{group}: correlation of logits, teacher's minus student's"]
        figure, axes = grid(findings.style, titles, 4, 1.75, heading)
        most = max(float(np.abs(matrix).max()) for matrix in panels.values()) or 1.0
        colours = mpl.colormaps["cividis"].resampled(SHADES)
        for axis, matrix in zip(axes, panels.values(), strict=True):
            # seaborn's heatmap takes four times as long for the 1000 classes of ImageNet
            pixels = "none" if len(matrix) <= MAX_WHOLE else "nearest"
            image = axis.imshow(matrix, cmap=colours, vmin=-most, vmax=most, interpolation=pixels)
            unscaled(axis)
        figure.colorbar(image, ax=axes, shrink=0.8, aspect=30, label="difference of correlations")
        yield f"correlation_{group}", figure
