"""SP: similarity-preserving distillation.

Paper:   Tung and Mori, Similarity-Preserving Knowledge Distillation, ICCV 2019.
Family:  relations.
Formula: G = F F^T of flattened maps F (B, C*H*W), each row then L2-normalised;  loss = ||G_t - G_s||^2 / B^2.
Reads:   last stage of both networks (variant=paper: all but the stem). Owns no parameters.
Weight:  3000 (a mean over B*B entries of unit rows is small), as in the CRD tables.
Code:    compares the last stage alone, as here; `variant: paper` sums the loss over all stages but the stem, the ends
         of the networks' blocks. Both normalise after the product.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.types import Batch, DataInfo, Features, Shapes
from methods.base import Distiller, register, same_stages


def similarities(features: Tensor) -> Tensor:
    """Return the similarity of each sample (row) of maps (B, C, H, W) to every one (column): (B, B), unit rows."""
    flat = features.flatten(1)
    return F.normalize(flat @ flat.T)


@register(
    "sp",
    weight=3000.0,
    added=("variant",),
    variant="compares the last stage alone; the paper sums over the ends of all blocks",
)
class SP(Distiller):
    def __init__(
        self,
        student: Shapes,
        teacher: Shapes,
        data: DataInfo,
        *,
        variant: Literal["reference", "paper"] = "reference",
    ) -> None:
        """Choose the stages.

        Args:
            student: shapes of the student's features.
            teacher: shapes of the teacher's features.
            data: the training set, of which nothing is used.
            variant: whose stages: the last one (`reference`), or all but the stem, whose terms are added (`paper`).
        """
        super().__init__(student, teacher, data)
        self.first = 1 if variant == "paper" else -1

    def loss(self, student: Features, teacher: Features, batch: Batch) -> Tensor:
        """Return the unweighted term: scalar, mean over B*B entries, summed over the compared stages."""
        pairs = zip(student.stages[self.first :], teacher.stages[self.first :], strict=True)
        return torch.stack([F.mse_loss(similarities(s), similarities(t)) for s, t in pairs]).sum()

    @classmethod
    def inapplicable(cls, student: Shapes, teacher: Shapes, variant: str = "reference") -> str | None:
        """Return a reason if the paper's variant cannot pair the two networks' stages."""
        return same_stages(student, teacher) if variant == "paper" else None
