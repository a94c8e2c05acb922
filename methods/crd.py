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
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from bench.types import Batch, DataInfo, Features, Shapes
from methods.base import Distiller, register

EPS = 1e-7  # added to N/M in the denominators, as in the published code
GATHERED_ROW_COST = 16  # a bank row read at random for one anchor costs as much as this many in one whole product
KEYS_AT_ONCE = 2**26  # random keys that a draw on an accelerator holds at a time: 256 MB


@register("crd", weight=0.8)
class CRD(Distiller):
    student_bank: Tensor  # (M, D), unit rows once visited
    teacher_bank: Tensor  # (M, D)
    log_z: Tensor  # (2,), of student anchors and of teacher anchors; infinite until the first batch
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
        self.register_buffer("log_z", torch.full((2,), math.inf))
        self.alike = Groups(
            torch.arange(data.n) if negatives == "other_sample" or data.targets is None else data.targets
        )
        self.same_class = Groups(data.targets) if positives == "same_class" and data.targets is not None else None
        self.register_buffer("kept", self.alike.cut(negatives_fraction) if negatives_fraction < 1 else None)
        self.visited: tuple[Tensor, Tensor, Tensor] | None = None

    def loss(self, student: Features, teacher: Features, batch: Batch) -> Tensor:
        """Return the unweighted term of embeddings (B, D_s), (B, D_t): mean over the batch, both directions summed."""
        z_s = F.normalize(self.student_head(student.embedding))
        z_t = F.normalize(self.teacher_head(teacher.embedding))
        self.visited = (batch.indices, z_s.detach(), z_t.detach())
        positives = batch.indices if self.same_class is None else self.same_class.draw_member(batch.indices)
        negatives = self.candidates(batch.indices) if self.score_all else self.draw_negatives(batch.indices)
        from_student = self.contrast(z_s, self.teacher_bank, positives, negatives, self.log_z[0])
        from_teacher = self.contrast(z_t, self.student_bank, positives, negatives, self.log_z[1])
        return from_student + from_teacher

    def contrast(self, anchors: Tensor, bank: Tensor, positives: Tensor, negatives: Tensor, log_z: Tensor) -> Tensor:
        """Return one direction's loss: scalar, mean over the batch.

        Args:
            anchors: (B, D), unit rows, with gradient.
            bank: (M, D), the other side's.
            positives: (B,), rows of the bank.
            negatives: (B, N), rows of the bank, or (B, M) booleans that say which rows are negatives.
            log_z: view of the direction's constant, set here if it is still infinite.
        """
        anchors = anchors / self.temperature
        positive = (anchors * bank[positives]).sum(dim=1)
        if negatives.dtype == torch.bool:
            counts = negatives.sum(dim=1)
            negative = (anchors @ bank.T).masked_fill(~negatives, -math.inf)
        else:
            counts = torch.full_like(positives, negatives.shape[1])
            negative = bank_scores(anchors, bank, negatives)
        if self.objective == "infonce":
            return infonce(positive, negative)
        with torch.no_grad():
            log_sum = torch.logaddexp(positive.logsumexp(dim=0), negative.logsumexp(dim=(0, 1)))
            log_mean = log_sum - (counts + 1).sum().to(log_sum).log()
            log_z.copy_(torch.where(log_z.isinf(), math.log(self.n_samples) + log_mean, log_z))
        return noise_contrast(positive, negative, counts, self.n_samples, log_z)

    @torch.no_grad()
    def after_step(self, gather: Callable[[Tensor], Tensor]) -> None:
        """Move the visited rows of both banks towards the step's embeddings; all processes keep the first one's Z."""
        if self.visited is None:
            return
        indices, z_s, z_t = (gather(rows) for rows in self.visited)
        for bank, embedding in ((self.student_bank, z_s), (self.teacher_bank, z_t)):
            moved = self.bank_momentum * bank[indices] + (1 - self.bank_momentum) * embedding
            bank[indices] = F.normalize(moved)
        self.log_z.copy_(gather(self.log_z[None])[0])
        self.visited = None

    def candidates(self, indices: Tensor) -> Tensor:
        """Return which samples may be a negative of each anchor: (B, M) booleans for indices (B,)."""
        labels = self.alike.labels[indices]
        others = self.alike.labels != labels[:, None]
        return others if self.kept is None else others & self.kept[labels]

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
        pools = [np.flatnonzero(row) for row in self.candidates(indices).numpy()]
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
        return self.order[
            torch.where(ranks < starts, ranks, ranks + sizes)
        ]  # a group is a run in `order`: step over it


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


def noise_contrast(positive: Tensor, negatives: Tensor, counts: Tensor, n_samples: int, log_z: Tensor) -> Tensor:
    """Return the paper's objective for one direction: scalar, mean over the batch.

    With c = N/M and u = score - log Z - log(c + eps), -log(h / (h + c + eps)) is softplus(-u), and
    -log(c / (h + c + eps)) is softplus(u) + log((c + eps) / c). Scores of -inf add nothing.

    Args:
        positive: (B,), scores before exp.
        negatives: (B, N), scores before exp, -inf where a column does not count.
        counts: (B,), N for each anchor.
        n_samples: M.
        log_z: scalar.
    """
    share = counts.to(positive) / n_samples
    shift = log_z + (share + EPS).log()
    attract = softplus(shift - positive)
    repel = softplus(negatives - shift[:, None]).sum(dim=1) + counts * (EPS / share).log1p()
    return (attract + repel).mean()


def infonce(positive: Tensor, negatives: Tensor) -> Tensor:
    """Return the cross-entropy of the positive among the negatives, scores (B,) and (B, N): scalar, mean over B."""
    return (torch.logaddexp(positive, negatives.logsumexp(dim=1)) - positive).mean()


def softplus(x: Tensor) -> Tensor:
    """Return log(1 + exp(x)), exact to float64 and safe from overflow: above 40 it is x itself."""
    return F.softplus(x, threshold=40.0)


def bank_scores(anchors: Tensor, bank: Tensor, rows: Tensor) -> Tensor:
    """Return the product of each anchor with its own rows of a bank: (B, N), with gradient for the anchors.

    Args:
        anchors: (B, D).
        bank: (M, D).
        rows: (B, N), rows of the bank.
    """
    return BankScores.apply(anchors, bank, rows, len(bank) <= GATHERED_ROW_COST * rows.shape[1])


class BankScores(torch.autograd.Function):
    """`bank_scores`, both ways; no (B, N, D) tensor is ever made and none is kept for the backward pass.

    whole: one product of the anchors with the whole bank, of which the rows' scores are picked; backward the same
    way round. Otherwise each anchor's rows are gathered in turn, (N, D) at a time, and gathered again for backward.
    """

    @staticmethod
    def forward(ctx: Any, anchors: Tensor, bank: Tensor, rows: Tensor, whole: bool) -> Tensor:  # noqa: ANN401, D102
        ctx.save_for_backward(bank, rows)
        ctx.whole = whole
        if whole:
            return (anchors @ bank.T).gather(1, rows)
        return torch.stack([bank.index_select(0, own) @ anchor for anchor, own in zip(anchors, rows, strict=True)])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:  # noqa: ANN401, D102
        bank, rows = ctx.saved_tensors
        if ctx.whole:
            weights = grad.new_zeros(len(rows), len(bank)).scatter_add_(1, rows, grad)
            return weights @ bank, None, None, None
        return F.embedding_bag(rows, bank, per_sample_weights=grad.contiguous(), mode="sum"), None, None, None
