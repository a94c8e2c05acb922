"""The linear CKA of each of the teacher's stages with each of the student's, of the first seed that is done.

Of the stages' Gram matrices A and B, centred over the images: <A, B> / (|A| |B|), in 0..1, with a linear kernel.
Kornblith et al., Similarity of Neural Network Representations Revisited, ICML 2019.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import seaborn as sns
from matplotlib.figure import Figure

from bench.figures.drawing import grid, number_edges
from bench.figures.findings import Findings, Outputs

MAX_WRITTEN = 8  # panels in whose cells the numbers are written


def draw(findings: Findings) -> Iterator[tuple[str, Figure]]:
    """Yield a figure per group, a panel per row, the nearest to the teacher first."""
    for group, rows in findings.beside_teachers():
        grams = ((label, _grams(taught), _grams(own)) for label, taught, own in rows)
        panels = {label: cka(taught, own) for label, taught, own in grams if taught and own}
        if not panels:
            continue
        panels = dict(sorted(panels.items(), key=lambda one: -np.diagonal(one[1]).mean()))
        titles = [f"{label}\ndiagonal {np.diagonal(one).mean():.3f}" for label, one in panels.items()]
        heading = [findings.title, f"{group}: linear CKA of stages, and the mean of the diagonal"]
        figure, axes = grid(findings.style, titles, 4, 1.75, heading)
        lowest = min(float(matrix.min()) for matrix in panels.values())
        for axis, matrix in zip(axes, panels.values(), strict=True):
            text = {
                "annot": findings.style.has_titles and len(panels) <= MAX_WRITTEN,
                "fmt": ".2f",
                "annot_kws": {"size": 7},
                **dict.fromkeys(("xticklabels", "yticklabels"), False),  # it would draw each to see how long it is
            }
            sns.heatmap(matrix, vmin=lowest, vmax=1, cmap="cividis", cbar=False, ax=axis, **text)
            axis.invert_yaxis()
            for own, stages in ((axis.yaxis, matrix.shape[0]), (axis.xaxis, matrix.shape[1])):
                own.set_ticks(np.arange(stages) + 0.5, [str(stage) for stage in range(stages)])
            axis.tick_params(labelsize=findings.style.small, length=2, rotation=0)
        number_edges(axes)
        figure.supxlabel("student's stage (0: stem)", size="medium")
        figure.supylabel("teacher's stage", size="medium")
        figure.colorbar(axes[0].collections[0], ax=axes, shrink=0.8, aspect=30, label="linear CKA")
        yield f"cka_{group}", figure


def cka(taught: Sequence[np.ndarray], own: Sequence[np.ndarray]) -> np.ndarray:
    """Return the linear CKA of the stages of two networks.

    Args:
        taught: a centred Gram matrix (b, b) for each of the teacher's stages.
        own: likewise of the student's stages, on the same images.

    Returns:
        (teacher's stages, student's stages) float64, 0 to 1; 0 where a stage gives all images the same.
    """
    of_teacher, of_student = (np.array(grams, dtype=np.float64) for grams in (taught, own))
    norms = np.outer(*(np.linalg.norm(grams, axis=(1, 2)) for grams in (of_teacher, of_student)))
    return np.tensordot(of_teacher, of_student, axes=([1, 2], [1, 2])) / np.where(norms, norms, 1)


def _grams(outputs: Outputs) -> list[np.ndarray]:
    return [outputs[f"gram{i}"] for i in range(sum(name.startswith("gram") for name in outputs))]
