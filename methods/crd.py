"""CRD: contrastive representation distillation.

Paper:   Tian, Krishnan and Isola, Contrastive Representation Distillation, ICLR 2020.
Formula: h(x) = exp(<anchor, x> / T) / Z for the anchor's positive p, its N negatives q, and M training samples;
         loss = mean_B -[log(h(p) / (h(p) + N/M)) + sum_q log((N/M) / (h(q) + N/M))], summed over two directions:
         student anchors against the bank of the teacher's embeddings, teacher anchors against the student's.
         Z is M times the first batch's mean of exp(...), then kept; the paper has no Z, its published code has.
Reads:   embedding of both networks, the samples' indices and, unless negatives are any other sample, their classes.
         Owns a linear head a side, trained, and two banks (M x 128) and log Z, which are not learnt.
Weight:  0.8. Temperature 0.1 as in the paper (0.07 on ImageNet; its published code has 0.07 throughout).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from bench.types import Batch, DataInfo, Features, Shapes
from methods._banks import (
    ENTRIES_AT_ONCE,
    Banks,
    Pieces,
    drawn_pieces,
    log_sum,
    log_sum_value,
    masked_pieces,
    softplus_sum,
)
from methods.base import Distiller, register

EPS = 1e-7  # added to N/M in the denominators, as in the published code
KEYS_AT_ONCE = 2**23  # random keys that a draw on an accelerator holds at a time: 32 MB


@dataclass(frozen=True)
class Partners:
    """What B samples are scored with.

    Attributes:
        indices: (B,), the samples themselves.
        positives: (B,), each one's positive.
        negatives: (B, N), which may repeat; None for all that may be one.
        counts: (B,), how many negatives each has.
    """

    indices: Tensor
    positives: Tensor
    negatives: Tensor | None
    counts: Tensor


@register("crd", weight=0.8)
class CRD(Distiller):
    observes: ClassVar[tuple[str, ...]] = ("critic_student", "critic_teacher")
    entries_at_once = ENTRIES_AT_ONCE  # bounds a step's memory; another number changes rounding only
    student_bank: Tensor  # (M, D), unit rows once visited
    teacher_bank: Tensor  # (M, D)
    log_z: Tensor  # one for each of `observes`; infinite until the first batch
    pools: Tensor  # (classes,), how many samples may be negatives of each class
    kept: Tensor | None  # (classes, M), which samples may be negatives of each class, where not all others are

    def __init__(
        self,
        student: Shapes,
        teacher: Shapes,
        data: DataInfo,
        *,
        n_negatives: PositiveInt = 16384,
        negatives: Literal["other_class", "other_sample", "all"] = "other_class",
        negatives_fraction: PositiveFloat = 1.0,
        positives: Literal["same_sample", "same_class"] = "same_sample",
        objective: Literal["crd", "infonce"] = "crd",
        temperature: PositiveFloat = 0.1,
        dim: PositiveInt = 128,
        bank_momentum: NonNegativeFloat = 0.5,
    ) -> None:
        """Build heads and banks; banks and the cut of `negatives_fraction` come from torch's default generator.

        Args:
            student: shapes of the student's features.
            teacher: shapes of the teacher's features.
            data: the training set; its targets are needed unless only `other_sample` and `same_sample` are asked for.
            n_negatives: N, drawn anew each step; not read with `all`.
            negatives: samples of another class, any other sample, or every sample of another class, without a draw.
            negatives_fraction: share of each class's possible negatives that is ever used, chosen here, rounded up.
            positives: the sample itself, or any sample of its class (itself included), drawn anew each step.
            objective: the paper's, or softmax cross-entropy of the positive among the negatives.
            temperature: T, divides the scores.
            dim: D, of the heads' outputs and the banks' rows.
            bank_momentum: share of a bank row that stays when its sample is visited, 0 to 1.

        Raises:
            ValueError: values out of range or at odds with each other, or classes are needed and unknown.
        """
        super().__init__(student, teacher, data)
        if not 0 < negatives_fraction <= 1:
            raise ValueError(f"negatives_fraction={negatives_fraction} must lie above 0 and at most at 1")
        if not 0 <= bank_momentum <= 1:
            raise ValueError(f"bank_momentum={bank_momentum} must lie between 0 and 1")
        if negatives == "other_sample" and negatives_fraction < 1:
            raise ValueError("negatives_fraction cuts the classes' pools; with negatives=other_sample leave it at 1")
        if data.targets is None and (negatives != "other_sample" or positives == "same_class"):
            raise ValueError("without labels use negatives=other_sample and positives=same_sample")
        self.n_samples, self.n_negatives = data.n, n_negatives
        self.score_all, self.objective = negatives == "all", objective
        self.temperature, self.bank_momentum = temperature, bank_momentum
        self.student_head = nn.Linear(student.embedding, dim)
        self.teacher_head = nn.Linear(teacher.embedding, dim)
        bound = 1 / math.sqrt(dim / 3)
        self.register_buffer("student_bank", torch.empty(data.n, dim).uniform_(-bound, bound))
        self.register_buffer("teacher_bank", torch.empty(data.n, dim).uniform_(-bound, bound))
        self.register_buffer("log_z", torch.full((len(self.observes),), math.inf))
        self.alike = Groups(
            torch.arange(data.n) if negatives == "other_sample" or data.targets is None else data.targets
        )
        self.same_class = Groups(data.targets) if positives == "same_class" and data.targets is not None else None
        # drawn here from the run's seed, so a resumed run has it without a checkpoint, where it would be large
        kept = self.alike.cut(negatives_fraction) if negatives_fraction < 1 else None
        self.register_buffer("kept", kept, persistent=False)
        pools = data.n - self.alike.sizes if self.kept is None else self.kept.sum(dim=1)
        self.register_buffer("pools", pools, persistent=False)
        self.visited: tuple[Tensor, Tensor, Tensor] | None = None
        self.at_start = True  # no step since it was built: Z may be infinite, which it would cost a GPU's wait to ask

    def loss(self, student: Features, teacher: Features, batch: Batch) -> Tensor:
        """Return the unweighted term of embeddings (B, D_s), (B, D_t): mean over the batch, both directions summed."""
        partners = self.partners(batch.indices)
        sides = self.sides(student, teacher, partners)
        self.critics = partners.counts.to(sides).log().mean() - sides.detach()
        return sides.sum()

    def observed(self) -> Sequence[Tensor]:
        """Return log N less the loss, for each of `observes`: the critic's value, in nats.

        A lower bound on the two embeddings' mutual information only where negatives are any other sample
        (`other_sample`): then they come from the product of the marginals.
        """
        return self.critics.unbind()

    def partners(self, indices: Tensor) -> Partners:
        """Return what the samples at indices (B,) are scored with, drawn anew."""
        positives = indices if self.same_class is None else self.same_class.draw_member(indices)
        if self.score_all:
            return Partners(indices, positives, None, self.pools[self.alike.labels[indices]])
        drawn = self.draw_negatives(indices)
        return Partners(indices, positives, drawn, torch.full_like(indices, drawn.shape[1]))

    def sides(self, student: Features, teacher: Features, partners: Partners) -> Tensor:
        """Return the losses of student anchors and of teacher anchors: (2,), mean over the batch."""
        z_s = F.normalize(self.student_head(student.embedding))
        z_t = F.normalize(self.teacher_head(teacher.embedding))
        self.visited = (partners.indices, z_s.detach(), z_t.detach())
        banks = (self.teacher_bank, self.student_bank)
        return self.contrast(torch.stack((z_s, z_t)), banks, partners, self.pieces(partners), self.log_z[:2])

    def pieces(self, partners: Partners) -> Pieces:
        """Return the scores of a batch's samples with their negatives, in pieces of the banks."""
        if partners.negatives is None:
            return partial(
                masked_pieces, self.mask(partners.indices), len(partners.indices), self.n_samples, self.entries_at_once
            )
        dim = self.student_bank.shape[1]
        return partial(drawn_pieces, partners.negatives, self.n_samples, dim, self.entries_at_once)

    def mask(self, indices: Tensor) -> Callable[[slice], Tensor]:
        """Return what gives columns of (B, M), 1 where a sample may be a negative and 0 elsewhere, for indices (B,)."""
        return lambda columns: self.candidates(indices, columns).to(self.student_bank)

    def contrast(self, anchors: Tensor, banks: Banks, partners: Partners, pieces: Pieces, log_z: Tensor) -> Tensor:
        """Return the objective by side: (S,), mean over the anchors.

        With c = N/M and u = score - log Z - log(c + eps), -log(h / (h + c + eps)) is softplus(-u), and
        -log(c / (h + c + eps)) is softplus(u) + log((c + eps) / c).

        Args:
            anchors: (S, B*A, D), unit vectors, each sample's A in a row.
            banks: what the anchors are scored against, one a side.
            partners: which rows each sample's anchors are scored with.
            pieces: the scores with the negatives.
            log_z: (S,), set here where it is infinite.
        """
        anchors = anchors / self.temperature
        each = anchors.shape[1] // len(partners.counts)
        positives, counts = (rows.repeat_interleave(each) for rows in (partners.positives, partners.counts))
        positive = (anchors * torch.stack([bank[positives] for bank in banks])).sum(dim=2)
        if self.objective == "infonce":
            return infonce(positive, log_sum(anchors, banks, pieces))
        if self.at_start:
            log_sums = torch.logaddexp(positive.detach(), log_sum_value(anchors, banks, pieces))
            of_all, terms = self.gather(log_sums.T).T, self.gather(counts + 1)  # Z is the whole batch's
            log_mean = of_all.logsumexp(dim=1) - terms.sum().to(of_all).log()
            log_z.copy_(torch.where(log_z.isinf(), math.log(self.n_samples) + log_mean, log_z))
        share = counts.to(positive) / self.n_samples
        shift = log_z[:, None] + (share + EPS).log()
        attract = F.softplus(shift - positive, threshold=40.0)
        repel = softplus_sum(anchors, banks, pieces, shift) + counts * (EPS / share).log1p()
        return (attract + repel).mean(dim=1)

    @torch.no_grad()
    def after_step(self, gather: Callable[[Tensor], Tensor]) -> None:
        """Move the visited rows of both banks towards the step's embeddings, in all processes those of all."""
        if self.visited is None:
            return
        indices, z_s, z_t = (gather(rows) for rows in self.visited)
        for bank, embedding in ((self.student_bank, z_s), (self.teacher_bank, z_t)):
            moved = self.bank_momentum * bank[indices] + (1 - self.bank_momentum) * embedding
            bank[indices] = F.normalize(moved)
        self.visited, self.at_start = None, False

    def candidates(self, indices: Tensor, columns: slice = slice(None)) -> Tensor:
        """Return which samples, or columns of them, may be a negative of each anchor: (B, M) booleans for (B,)."""
        labels = self.alike.labels[indices]
        others = self.alike.labels[columns] != labels[:, None]
        return others if self.kept is None else others & self.kept[labels, columns]

    def draw_negatives(self, indices: Tensor) -> Tensor:
        """Return N negatives for each anchor: (B, N) int64 positions in the training set for indices (B,).

        Uniform; distinct where an anchor's pool holds N samples, with replacement where it does not. Drawn where the
        indices live, so that no step waits for an accelerator; the CPU's way is several times faster on a CPU.
        """
        if indices.device.type != "cpu":
            blocks = indices.split(max(1, KEYS_AT_ONCE // self.n_samples))
            return torch.cat([draw_by_keys(self.candidates(block), self.n_negatives) for block in blocks])
        generator = np.random.default_rng(int(torch.randint(2**63 - 1, ())))
        if self.kept is None:
            return self.alike.draw_others(indices, self.n_negatives, generator)
        pools = (np.flatnonzero(self.candidates(anchor)) for anchor in indices.split(1))  # one at a time in memory
        return torch.from_numpy(np.stack([pool[draw_ranks(len(pool), self.n_negatives, generator)] for pool in pools]))


class Groups(nn.Module):
    """The training set in groups: its classes, or every sample by itself. Nothing here is part of a checkpoint."""

    labels: Tensor  # (M,), each sample's group
    order: Tensor  # (M,), samples group by group
    starts: Tensor  # (groups,), where each begins in `order`
    sizes: Tensor  # (groups,)

    def __init__(self, labels: Tensor) -> None:
        super().__init__()
        sizes = labels.bincount()
        if int(sizes.max()) == len(labels):
            raise ValueError(f"all {len(labels)} training samples are of one class: there are no negatives")
        buffers = {
            "labels": labels,
            "order": labels.argsort(stable=True),
            "starts": sizes.cumsum(0) - sizes,
            "sizes": sizes,
        }
        for name, value in buffers.items():
            self.register_buffer(name, value, persistent=False)

    def cut(self, fraction: float) -> Tensor:
        """Return (groups, M) booleans: of each group's others a random share, rounded up."""
        kept = torch.zeros(len(self.sizes), len(self.labels), dtype=torch.bool)
        for group, row in enumerate(kept):
            others = (self.labels != group).nonzero()[:, 0]
            share = math.ceil(round(fraction * len(others), 6))  # 0.07 * 100 is a little above 7
            row[others[torch.randperm(len(others))[:share]]] = True
        return kept

    def draw_member(self, indices: Tensor) -> Tensor:
        """Return a sample of each given sample's group, itself included, uniform: (B,) for indices (B,)."""
        groups = self.labels[indices]
        ranks = torch.randint(2**62, indices.shape, device=indices.device) % self.sizes[groups]
        return self.order[self.starts[groups] + ranks]

    def draw_others(self, indices: Tensor, n: int, generator: np.random.Generator) -> Tensor:
        """Return n samples of other groups for each given one: (B, n) for indices (B,), on the CPU."""
        groups = self.labels[indices]
        starts, sizes = self.starts[groups, None], self.sizes[groups, None]
        pools = (len(self.labels) - sizes)[:, 0].tolist()
        ranks = torch.from_numpy(np.stack([draw_ranks(pool, n, generator) for pool in pools]))
        ranks += sizes * (ranks >= starts)  # a group is a run in `order`: step over it
        return self.order.take(ranks)


def draw_ranks(pool: int, n: int, generator: np.random.Generator) -> np.ndarray:
    """Return n numbers below `pool`, uniform, distinct where there are enough: (n,) int64."""
    return generator.choice(pool, n, replace=n > pool, shuffle=False)


def draw_by_keys(candidates: Tensor, n: int) -> Tensor:
    """Return n columns of each row's candidates: uniform, distinct where there are enough. On any device, no sync.

    Args:
        candidates: (B, M) booleans, at least one a row.
        n: how many.

    Returns:
        (B, n) int64.
    """
    keys = torch.rand(candidates.shape, device=candidates.device).masked_fill(~candidates, math.inf)
    shuffled = keys.topk(min(n, keys.shape[1]), largest=False).indices  # the candidates first, in random order
    pools = candidates.sum(dim=1, keepdim=True)
    again = torch.randint(2**62, (len(keys), n), device=keys.device) % pools
    return shuffled.gather(1, torch.where(pools < n, again, torch.arange(n, device=keys.device)))


def infonce(positive: Tensor, negatives: Tensor) -> Tensor:
    """Return the cross-entropy of the positive among the negatives by side: (S,), mean over B.

    Args:
        positive: (S, B), scores.
        negatives: (S, B), log of the sum over the negatives' exp(score).
    """
    return (torch.logaddexp(positive, negatives) - positive).mean(dim=1)
