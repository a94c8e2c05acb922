"""LocalCRD: contrastive representation distillation of every position of a feature map.

Paper:   Tian, Krishnan and Isola, Contrastive Representation Distillation, ICLR 2020, of whose transfer from RGB to
         depth no code is published: the form is this project's reading, and what it leaves open is as in `crd`.
Formula: h(x) = exp(<anchor, x> / T) / Z for each position of sample i's map as anchor, its positive p, row i of the
         teacher's bank, N negatives q, one draw for all positions of a sample, and M training samples;
         loss = mean_BHW -[log(h(p) / (h(p) + N/M)) + sum_q log((N/M) / (h(q) + N/M))].
         Z is M times the first batch's mean of exp(...), then kept.
Reads:   one stage of the student, the teacher's embedding, the samples' indices; their classes for `other_class` alone.
         Owns a 1x1 convolution, trained. The teacher's linear head, its bank (M x 128) and log Z are not: teacher
         embeddings meet the student through the bank only, so no gradient reaches the head, a random projection.
Weight:  0.8, CRD's, for want of a published one. Temperature 0.1, as there.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from annotated_types import Ge, Le
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn

from bench.types import Batch, DataInfo, Features, Shapes
from methods.banks import shared_pieces
from methods.base import Distiller, register
from methods.crd import Groups, NoiseContrast, move_rows, new_bank


@register("crd_local", weight=0.8)
class LocalCRD(Distiller):
    observes = ("critic_student",)
    teacher_bank: Tensor  # (M, D), unit rows once visited
    log_z: Tensor  # (1,), infinite until the first batch

    def __init__(
        self,
        student: Shapes,
        teacher: Shapes,
        data: DataInfo,
        *,
        stage: int = -1,
        n_negatives: PositiveInt = 16384,
        negatives: Literal["other_sample", "other_class"] = "other_sample",
        temperature: PositiveFloat = 0.1,
        dim: PositiveInt = 128,
        bank_momentum: Annotated[float, Ge(0), Le(1)] = 0.5,
    ) -> None:
        """Build heads and bank, which comes from torch's default generator.

        Args:
            student: shapes of the student's features.
            teacher: shapes of the teacher's features.
            data: the training set; its targets are read for `other_class` only.
            stage: the student's stage, the stem being 0; negative counts from the end.
            n_negatives: N, drawn anew each step for each sample.
            negatives: any other sample, or samples of another class.
            temperature: T, divides the scores.
            dim: D, of the heads' outputs and the bank's rows.
            bank_momentum: share of a bank row that stays when its sample is visited.

        Raises:
            ValueError: the student lacks the stage, or classes are needed and unknown.
        """
        super().__init__(student, teacher, data)
        if reason := self.inapplicable(student, teacher, stage):
            raise ValueError(f"stage={stage}: {reason}")
        if negatives == "other_class" and data.targets is None:
            raise ValueError("without labels use negatives=other_sample")
        self.stage, self.n_negatives = stage, n_negatives
        self.temperature, self.bank_momentum = temperature, bank_momentum
        self.student_head = nn.Conv2d(student.stages[stage][0], dim, kernel_size=1)
        self.teacher_head = nn.Linear(teacher.embedding, dim).requires_grad_(False)
        self.register_buffer("teacher_bank", new_bank(data.n, dim))
        self.register_buffer("log_z", torch.full((1,), math.inf))
        self.alike = Groups(
            torch.arange(data.n) if negatives == "other_sample" or data.targets is None else data.targets
        )
        self.visited: tuple[Tensor, Tensor] | None = None

    def loss(self, student: Features, teacher: Features, batch: Batch) -> Tensor:
        """Return the unweighted term of a map (B, C, H, W) and embeddings (B, D_t): mean over batch and positions."""
        self.visited = (batch.indices, F.normalize(self.teacher_head(teacher.embedding)).detach())
        positions = self.student_head(student.stages[self.stage]).flatten(2).mT  # (B, H*W, D)
        anchors = F.normalize(positions, dim=2) / self.temperature
        positive = anchors @ self.teacher_bank[batch.indices, :, None]
        n_anchors = anchors.shape[1]
        contrast = NoiseContrast(
            positive=positive.reshape(1, -1),
            counts=torch.full_like(batch.indices, self.n_negatives).repeat_interleave(n_anchors),
            anchors=anchors.reshape(1, -1, anchors.shape[2]),
            banks=(self.teacher_bank,),
            pieces=partial(shared_pieces, self.draw_negatives(batch.indices), n_anchors, *self.teacher_bank.shape),
        )
        loss = contrast.loss(self.log_z)[0]
        self.critic = math.log(self.n_negatives) - loss.detach()
        return loss

    def observed(self) -> Sequence[Tensor]:
        """Return log N less the loss: the critic's value, in nats, of one position and the teacher's embedding.

        A lower bound on their mutual information only where negatives are any other sample.
        """
        return (self.critic,)

    def draw_negatives(self, indices: Tensor) -> Tensor:
        """Return N negatives for each sample: (B, N) int64 positions in the training set for indices (B,).

        Uniform; distinct where a sample's pool holds N, with replacement where it does not.
        """
        return self.alike.draw_others(indices, self.n_negatives)

    @torch.no_grad()
    def after_step(self, gather: Callable[[Tensor], Tensor]) -> None:
        """Move the bank's visited rows towards the step's embeddings; all processes keep the first one's Z."""
        if self.visited is None:
            return
        indices, embedding = (gather(rows) for rows in self.visited)
        move_rows(self.teacher_bank, indices, embedding, self.bank_momentum)
        self.log_z.copy_(gather(self.log_z[None])[0])
        self.visited = None

    @classmethod
    def inapplicable(cls, student: Shapes, teacher: Shapes, stage: int = -1) -> str | None:
        """Return a reason where the student lacks the stage."""
        stages = len(student.stages)
        if -stages <= stage < stages:
            return None
        return f"{student.network} has stages 0 to {stages - 1}, local CRD reads stage {stage}"
