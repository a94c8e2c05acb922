"""The linear CKA of each of the teacher's stages with each of the student's, of the first seed that is done.

Of the stages' Gram matrices A and B, centred over the images: <A, B> / (|A| |B|), in 0..1, with a linear kernel.
Kornblith et al., Similarity of Neural Network Representations Revisited, ICML 2019.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from matplotlib.figure import Figure

from bench.figures.drawing import grid
from bench.figures.findings import Findings, Outputs

MAX_WRITTEN = 8  # panels in whose cells the numbers are written
MAX_NUMBERED = 11  # stages from which on not each has its number
BRIGHT = 0.743  # values from which on cividis is so bright that dark numbers are read more easily


def draw(findings: Findings) -> Iterator[tuple[str, Figure]]:
    """Yield a figure per group, a panel per row, the nearest to the teacher first."""
    for group, outputs in findings.beside_teachers():
        stages = {label: (_grams(taught), _grams(own)) for label, (taught, own) in outputs.items()}
        panels = {label: cka(taught, own) for label, (taught, own) in stages.items() if taught and own}
        if not panels:
            continue
        panels = dict(sorted(panels.items(), key=lambda one: -np.diagonal(one[1]).mean()))
        titles = [f"{label}\nmean of diagonal {np.diagonal(one).mean():.3f}" for label, one in panels.items()]
        figure, axes = grid(findings.style, titles, 4, 1.75, [findings.title, f"{group}: linear CKA of stages"])
        lowest = min(float(matrix.min()) for matrix in panels.values())
        for axis, matrix in zip(axes, panels.values(), strict=True):
            mesh = axis.pcolormesh(matrix, vmin=lowest, vmax=1, cmap="cividis")
            if findings.style.has_titles and len(panels) <= MAX_WRITTEN:
                is_bright = np.asarray(mesh.norm(matrix)) > BRIGHT
                for (row, column), value in np.ndenumerate(matrix):
                    ink = "0.15" if is_bright[row, column] else "w"
                    axis.text(column + 0.5, row + 0.5, f"{value:.2f}", color=ink, ha="center", va="center", size=7)
            taught, own = (np.arange(0, stages, 1 + stages // MAX_NUMBERED) for stages in matrix.shape)
            axis.set_yticks(taught + 0.5, taught, va="center")
            axis.set_xticks(own + 0.5, own)
            axis.spines[:].set_visible(False)
            axis.tick_params(labelsize=findings.style.small, length=2)
        figure.supxlabel("student's stage (0: stem)", size="medium")
        figure.supylabel("teacher's stage", size="medium")
        figure.colorbar(mesh, ax=axes, shrink=0.8, aspect=30, label="linear CKA")
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
