"""LocalCRD: CRD plus contrastive distillation of every position of a feature map.

Paper:   Tian, Krishnan and Isola, Contrastive Representation Distillation, ICLR 2020, whose transfer from RGB to depth
         has a global and a local loss. No code for it is published, so the exact form is our reading of the paper.
Family:  contrastive.
Formula: loss = CRD's + mean_BHW -[log(h(p) / (h(p) + N/M)) + sum_q log((N/M) / (h(q) + N/M))], where every position of
         a sample's map is an anchor against the bank of the teacher's embeddings. h, T and M are as in `crd`, Z is
         separate for this sum, and the positive p and the N negatives q are those of CRD's anchor of the same sample.
Reads:   what `crd` reads, and one stage of the student.
         Owns what `crd` owns, a 1x1 convolution, trained, and a third log Z.
Weight:  0.8 for both sums, which is CRD's; none is published for this method. Temperature 0.1, as in CRD.
"""

from collections.abc import Callable
from functools import partial
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from annotated_types import Gt, Le
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor, nn

from bench.types import DataInfo, Features, Shapes
from methods._banks import Pieces, masked_pieces, shared_pieces
from methods.base import register
from methods.crd import CRD, Partners


@register("crd_local", weight=0.8, version=2, space={"temperature": {"log": [0.03, 0.3]}})
class LocalCRD(CRD):
    observes = (*CRD.observes, "critic_local")

    def __init__(  # noqa: D417 - CRD describes the other arguments
        self,
        student: Shapes,
        teacher: Shapes,
        data: DataInfo,
        *,
        stage: int = -1,
        n_negatives: Annotated[int, Gt(0), Le(1_000_000)] = 16384,
        negatives: Literal["other_class", "other_sample", "all"] = "other_sample",
        negatives_fraction: PositiveFloat = 1.0,
        positives: Literal["same_sample", "same_class"] = "same_sample",
        objective: Literal["crd", "infonce"] = "crd",
        temperature: PositiveFloat = 0.1,
        dim: Annotated[int, Gt(0), Le(10_000)] = 128,
        bank_momentum: NonNegativeFloat = 0.5,
    ) -> None:
        """Build CRD, whose parameters apply to the positions too, and the convolution of the student's `stage`.

        With the default `negatives`, no labels are needed. Other arguments are those of CRD.

        Args:
            student: shapes of the student's features.
            teacher: shapes of the teacher's features.
            data: the training set.
            stage: the student's stage whose positions are anchors: 0 is the stem, negative numbers count from the end.
        """
        if reason := self.inapplicable(student, teacher, stage):
            raise ValueError(f"stage={stage}: {reason}")
        super().__init__(
            student,
            teacher,
            data,
            n_negatives=n_negatives,
            negatives=negatives,
            negatives_fraction=negatives_fraction,
            positives=positives,
            objective=objective,
            temperature=temperature,
            dim=dim,
            bank_momentum=bank_momentum,
        )
        self.stage = stage
        self.local_head = nn.Conv2d(student.stages[stage][0], dim, kernel_size=1)

    def sides(self, student: Features, teacher: Features, partners: Partners) -> Tensor:
        """Return CRD's two losses and the mean loss of the positions of a map (B, C, H, W): (3,)."""
        positions = self.local_head(student.stages[self.stage]).flatten(2).mT  # (B, H*W, D)
        pieces = self.local_pieces(partners, positions.shape[1])
        anchors = F.normalize(positions.flatten(0, 1))[None]
        local = self.contrast(anchors, (self.teacher_bank,), partners, pieces, self.log_z[2:])
        return torch.cat((super().sides(student, teacher, partners), local))

    def local_pieces(self, partners: Partners, each: int) -> Pieces:
        """Return the pieces that score `each` anchors of every sample with the sample's negatives."""
        drawn = partners.negatives
        if drawn is not None and drawn.shape[1] < self.n_samples:
            return partial(shared_pieces, drawn, each, self.teacher_bank.shape[1], self.entries_at_once)
        # if N > M, the whole bank has fewer rows than were drawn
        of_samples = self.mask(partners.indices) if drawn is None else self.times(drawn)

        def mask(columns: slice) -> Tensor:
            return of_samples(columns).repeat_interleave(each, dim=0)

        return partial(masked_pieces, mask, each * len(partners.indices), self.n_samples, self.entries_at_once)

    def times(self, drawn: Tensor) -> Callable[[slice], Tensor]:
        """Return a function that gives columns of (B, M): how often each row of the bank was drawn in (B, N)."""
        ones = self.teacher_bank.new_ones(drawn.shape)
        times = self.teacher_bank.new_zeros(len(drawn), self.n_samples).scatter_add_(1, drawn, ones)
        return lambda columns: times[:, columns]

    @classmethod
    def inapplicable(cls, student: Shapes, teacher: Shapes, stage: int = -1) -> str | None:
        """Return a reason if the student does not have the stage."""
        stages = len(student.stages)
        if -stages <= stage < stages:
            return None
        return f"{student.network} has stages 0 to {stages - 1}, local CRD reads stage {stage}"
