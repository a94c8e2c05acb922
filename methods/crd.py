"""CRD: contrastive representation distillation.

Paper:   Tian, Krishnan and Isola, Contrastive Representation Distillation, ICLR 2020.
Family:  contrastive.
Formula: h(x) = exp(<anchor, x> / T) / Z for the anchor's positive p, its N negatives q, and M training samples;
         loss = mean_B -[log(h(p) / (h(p) + N/M)) + sum_q log((N/M) / (h(q) + N/M))], summed over two directions:
         student anchors against the bank of the teacher's embeddings, teacher anchors against the student's.
         Z is M times the first batch's mean of exp(...) and then stays fixed.
Reads:   embedding of both networks, the samples' indices and, unless negatives are any other sample, their classes.
         Owns one linear head per side, both trained, and two banks (M x 128) and log Z, which are not learned.
Weight:  0.8. Temperature 0.1 as in the paper, which has 0.07 on ImageNet.
Code:    has temperature 0.07 throughout, and the constant Z, which the paper does not mention. Where a class has fewer
         possible negatives than N, both draw with replacement; on ImageNet, the code always does.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from annotated_types import Gt, Le
from pydantic import NonNegativeFloat, PositiveFloat
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
from methods._draws import LARGEST, new_seed, numbers
from methods.base import Distiller, register

EPS = 1e-7  # added to N/M in the denominators, as in the published code


@dataclass(frozen=True)
class Partners:
    """The positives and negatives that B samples are scored with."""

    indices: Tensor  # (B,), the samples
    positives: Tensor  # (B,), one per sample
    negatives: Tensor | None  # (B, N), which may repeat; None for all possible negatives
    counts: Tensor  # (B,), the number of negatives per sample


@register("crd", weight=0.8, version=2, space={"temperature": {"log": [0.03, 0.3]}})
class CRD(Distiller):
    takes_mixed_images = False  # its memory holds one embedding per image
    observes: ClassVar[tuple[str, ...]] = ("critic_student", "critic_teacher")
    entries_at_once = ENTRIES_AT_ONCE  # bounds a step's memory; affects results by rounding only
    student_bank: Tensor  # (M, D), rows have unit length once visited
    teacher_bank: Tensor  # (M, D)
    log_z: Tensor  # one per name in `observes`; infinite until the first batch
    pools: Tensor  # (classes,), how many samples can be negatives of each class
    kept: Tensor | None  # (classes, M), which samples can be negatives of each class; None for all of the other classes

    def __init__(
        self,
        student: Shapes,
        teacher: Shapes,
        data: DataInfo,
        *,
        n_negatives: Annotated[int, Gt(0), Le(1_000_000)] = 16384,
        negatives: Literal["other_class", "other_sample", "all"] = "other_class",
        negatives_fraction: PositiveFloat = 1.0,
        positives: Literal["same_sample", "same_class"] = "same_sample",
        objective: Literal["crd", "infonce"] = "crd",
        temperature: PositiveFloat = 0.1,
        dim: Annotated[int, Gt(0), Le(10_000)] = 128,
        bank_momentum: NonNegativeFloat = 0.5,
    ) -> None:
        """Build heads and banks; banks and the choice for `negatives_fraction` use torch's default generator.

        Args:
            student: shapes of the student's features.
            teacher: shapes of the teacher's features.
            data: the training set; it needs targets unless negatives are `other_sample` and positives `same_sample`.
            n_negatives: N, drawn at each step; ignored for `all`.
            negatives: samples of another class, any other sample, or (`all`) every sample of another class, undrawn.
            negatives_fraction: share of each class's possible negatives that is ever used, chosen here, rounded up.
            positives: the sample itself, or any sample of its class (itself included), drawn at each step.
            objective: the paper's, or softmax cross-entropy of the positive among the negatives.
            temperature: T, which divides the scores.
            dim: D, the dimension of the heads' outputs and the banks' rows.
            bank_momentum: share of a bank row that is kept when its sample is visited, 0 to 1.

        Raises:
            ValueError: values are out of range or contradict each other, or classes are needed but unknown.
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
        # drawn here from the run's seed: a resumed run has it again, and it need not be stored in a large checkpoint
        kept = self.alike.cut(negatives_fraction) if negatives_fraction < 1 else None
        self.register_buffer("kept", kept, persistent=False)
        pools = data.n - self.alike.sizes if self.kept is None else self.kept.sum(dim=1)
        self.register_buffer("pools", pools, persistent=False)
        self.visited: tuple[Tensor, Tensor, Tensor] | None = None
        self.at_start = True  # no step yet, so Z may be infinite; asking the GPU would make the host wait

    def loss(self, student: Features, teacher: Features, batch: Batch) -> Tensor:
        """Return the unweighted term of embeddings (B, D_s), (B, D_t): mean over the batch, both directions summed."""
        partners = self.partners(batch.indices)
        sides = self.sides(student, teacher, partners)
        # log N minus the loss: the critic's value, in nats. It is a lower bound on the mutual information of the two
        # embeddings only if negatives are any other sample (`other_sample`), because they then come from the product of
        # the marginals.
        self.record(*(partners.counts.to(sides).log().mean() - sides))
        return sides.sum()

    def partners(self, indices: Tensor) -> Partners:
        """Return newly drawn positives and negatives of the samples at indices (B,)."""
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
        if partners.negatives is None:
            mask, b = self.mask(partners.indices), len(partners.indices)
            pieces: Pieces = partial(masked_pieces, mask, b, self.n_samples, self.entries_at_once)
        else:
            dim = self.student_bank.shape[1]
            pieces = partial(drawn_pieces, partners.negatives, self.n_samples, dim, self.entries_at_once)
        return self.contrast(torch.stack((z_s, z_t)), banks, partners, pieces, self.log_z[:2])

    def mask(self, indices: Tensor) -> Callable[[slice], Tensor]:
        """Return a function that gives columns of a (B, M) mask for indices (B,): 1 for possible negatives, else 0."""
        return lambda columns: self.candidates(indices, columns).to(self.student_bank)

    def contrast(self, anchors: Tensor, banks: Banks, partners: Partners, pieces: Pieces, log_z: Tensor) -> Tensor:
        """Return the objective of each side: (S,), mean over the anchors.

        With c = N/M and u = score - log Z - log(c + eps), -log(h / (h + c + eps)) is softplus(-u), and
        -log(c / (h + c + eps)) is softplus(u) + log((c + eps) / c).

        Args:
            anchors: (S, B*A, D), unit vectors, the A anchors of each sample in succession.
            banks: the bank of each side.
            partners: the rows that each sample's anchors are scored with.
            pieces: the pieces that score them with the negatives.
            log_z: (S,), set here where it is infinite.
        """
        anchors = anchors / self.temperature
        each = anchors.shape[1] // len(partners.counts)
        positives, counts = (rows.repeat_interleave(each) for rows in (partners.positives, partners.counts))
        positive = (anchors * torch.stack([bank[positives] for bank in banks])).sum(dim=2)
        if self.objective == "infonce":
            # cross-entropy of the positive among the negatives
            return (torch.logaddexp(positive, log_sum(anchors, banks, pieces)) - positive).mean(dim=1)
        if self.at_start:
            log_sums = torch.logaddexp(positive.detach(), log_sum_value(anchors, banks, pieces))
            of_all, terms = self.gather(log_sums.T).T, self.gather(counts + 1)  # Z is that of the whole batch
            log_mean = of_all.logsumexp(dim=1) - terms.sum().to(of_all).log()
            log_z.copy_(torch.where(log_z.isinf(), math.log(self.n_samples) + log_mean, log_z))
        share = counts.to(positive) / self.n_samples
        shift = log_z[:, None] + (share + EPS).log()
        attract = F.softplus(shift - positive, threshold=40.0)
        repel = softplus_sum(anchors, banks, pieces, shift) + counts * (EPS / share).log1p()
        return (attract + repel).mean(dim=1)

    @torch.no_grad()
    def after_step(self) -> None:
        """Move the visited rows of both banks towards the step's embeddings, those of all processes."""
        if self.visited is None:
            return
        indices, z_s, z_t = (self.gather(rows) for rows in self.visited)
        for bank, embedding in ((self.student_bank, z_s), (self.teacher_bank, z_t)):
            moved = self.bank_momentum * bank[indices] + (1 - self.bank_momentum) * embedding
            bank[indices] = F.normalize(moved)
        self.visited, self.at_start = None, False

    def candidates(self, indices: Tensor, columns: slice = slice(None)) -> Tensor:
        """Return which of the samples `columns` can be negatives of each anchor: (B, M) booleans for indices (B,)."""
        labels = self.alike.labels[indices]
        others = self.alike.labels[columns] != labels[:, None]
        return others if self.kept is None else others & self.kept[labels, columns]

    def draw_negatives(self, indices: Tensor) -> Tensor:
        """Return N negatives for each anchor: (B, N) int64 positions in the training set for indices (B,).

        Uniform, without replacement if the anchor's pool contains N samples, with replacement otherwise. The same on
        every device, and no step waits for an accelerator.
        """
        seeds, rows = (new_seed(), new_seed()), max(1, self.entries_at_once // self.n_samples)
        blocks = ((first, self.candidates(block)) for first, block in zip(count(0, rows), indices.split(rows)))
        return torch.cat([draw_by_keys(block, self.n_negatives, seeds, first) for first, block in blocks])


class Groups(nn.Module):
    """The training set in groups: its classes, or single samples. None of it is stored in checkpoints."""

    labels: Tensor  # (M,), the group of each sample
    order: Tensor  # (M,), samples ordered by group
    starts: Tensor  # (groups,), where each group begins in `order`
    sizes: Tensor  # (groups,)

    def __init__(self, labels: Tensor) -> None:
        super().__init__()
        sizes = labels.bincount()
        if int(sizes.max()) == len(labels):
            raise ValueError(f"all {len(labels)} training samples are of one class: there are no negatives")
        order, starts = labels.argsort(stable=True), sizes.cumsum(0) - sizes
        for name, value in {"labels": labels, "order": order, "starts": starts, "sizes": sizes}.items():
            self.register_buffer(name, value, persistent=False)

    def cut(self, fraction: float) -> Tensor:
        """Return (groups, M) booleans: for each group, a random share of the samples outside it, rounded up."""
        kept = torch.zeros(len(self.sizes), len(self.labels), dtype=torch.bool)
        for group, row in enumerate(kept):
            others = (self.labels != group).nonzero()[:, 0]
            share = math.ceil(round(fraction * len(others), 6))  # 0.07 * 100 is a little above 7
            row[others[torch.randperm(len(others))[:share]]] = True
        return kept

    def draw_member(self, indices: Tensor) -> Tensor:
        """Return a uniformly drawn sample from the group of each given sample, which it may be: (B,) for (B,)."""
        groups = self.labels[indices]
        ranks = numbers(new_seed(), indices.shape, indices.device) % self.sizes[groups]
        return self.order[self.starts[groups] + ranks]


def draw_by_keys(candidates: Tensor, n: int, seeds: tuple[int | Tensor, int | Tensor], first: int) -> Tensor:
    """Return n uniform candidates per row, distinct if there are enough, the same on every device: (B, n).

    Each row of the candidates, (B, M) booleans, has at least one; `first` rows of the draw precede them.
    """
    (b, m), device = candidates.shape, candidates.device
    keys = numbers(seeds[0], (b, m), device, first * m).masked_fill_(~candidates, LARGEST)
    shuffled = keys.topk(min(n, m), largest=False).indices  # candidates come first, in random order
    pools = candidates.sum(dim=1, keepdim=True)
    again = numbers(seeds[1], (b, n), device, first * n) % pools
    return shuffled.gather(1, torch.where(pools < n, again, torch.arange(n, device=device)))
