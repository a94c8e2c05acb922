"""FSP: flow of the solution procedure.

Paper:   Yim, Joo, Bae and Kim, A Gift from Knowledge Distillation, CVPR 2017.
Family:  relations.
Formula: G[b, a] = mean over positions of f_b * f_a, for the maps of two consecutive stages;
         loss = sum over consecutive stages of mean_{B,C_b,C_a} (G_s - G_t)^2.
Reads:   all stages; of two consecutive stages, the larger map is pooled to the smaller. Owns no parameters.
Weight:  1 in the initial stage, which trains the student's trunk; the main stage is cross-entropy alone, as in the
         CRD tables.
Code:    its scripts pass the weight 50, which has no effect there.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.types import Batch, Features, InitialStage, Shapes
from methods._adapters import match
from methods._maps import gram
from methods.base import Distiller, register, same_stages


def flows(stages: tuple[Tensor, ...]) -> list[Tensor]:
    """Return the Gram matrix (B, C_b, C_a), mean over positions, of every two consecutive stages a and b."""
    grams = []
    for earlier, later in pairwise(stages):
        a, b = (f.flatten(2) for f in match(earlier, later))
        grams.append(gram(b, a) / a.shape[2])
    return grams


@register(
    "fsp",
    weight=1.0,
    initial_stage=True,
    variant="pairs consecutive stages, pooled by the mean; the paper pairs layers within a stage, pooled by maxima",
)
class FSP(Distiller):
    def loss(self, student: Features, teacher: Features, batch: Batch) -> None:
        """Return None: the main stage is cross-entropy alone."""

    def initial_stage(self) -> InitialStage:
        """Return the stage that trains the student's trunk."""
        return InitialStage(modules=(), trains_student=True, loss=self.initial_loss)

    def initial_loss(self, student: Features | None, teacher: Features, batch: Batch) -> Tensor:
        """Return the term of all stages: a mean over all entries per pair of consecutive stages, summed."""
        assert student is not None  # the stage trains the student
        pairs = zip(flows(student.stages), flows(teacher.stages), strict=True)
        return torch.stack([F.mse_loss(g_s, g_t) for g_s, g_t in pairs]).sum()

    @classmethod
    def inapplicable(cls, student: Shapes, teacher: Shapes) -> str | None:
        """Return a reason if the stages do not pair up or have different numbers of channels."""
        if reason := same_stages(student, teacher):
            return reason
        for i, ((c_s, *_), (c_t, *_)) in enumerate(zip(student.stages, teacher.stages, strict=True)):
            if c_s != c_t:
                return f"stage {i} has {c_s} channels, teacher {c_t}; FSP needs equal ones"
        return None
