"""The sums over memory banks of CRD's losses, computed in pieces, so that memory stays bounded.

S sides are scored at once, each against its own bank: anchors (S, B, D), S banks (M, D), score = <anchor, row>.
The gradient of a sum with respect to the anchors is computed in the forward pass and kept for the backward pass. Scores
are discarded after each piece, so memory is bounded by `entries_at_once`, not by the size of the banks. None of the
functions is twice differentiable.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

ENTRIES_AT_ONCE = 2**22  # entries of the largest tensor, 16 MB in float32; affects results by rounding only
GATHERED_ROW_COST = 8  # reading one row at random costs as much as this many rows of a product with the bank
FAR = 1e30  # further than any score, but finite

Banks = tuple[Tensor, ...]


@dataclass(frozen=True)
class Piece:
    """How the scores (b, K) of a slice of the anchors are computed and summed."""

    anchors: slice

    def scores(self, anchors: Tensor, bank: Tensor) -> Tensor:
        """Return the scores of the piece's anchors (b, D)."""
        raise NotImplementedError

    def counted(self, values: Tensor) -> Tensor:
        """Return the values, one per score, with those of scores that do not count set to 0, in place."""
        return values

    def log_sum(self, scores: Tensor) -> Tensor:
        """Return log sum exp(score) of each anchor, (b,); overwrites the scores."""
        top = scores.amax(dim=1, keepdim=True)
        return top[:, 0] + self.counted(_exp(scores.sub_(top))).sum(dim=1).log()

    def weighted_rows(self, weights: Tensor, bank: Tensor) -> Tensor:
        """Return the sum of each anchor's rows, weighted by one weight per score: (b, D); overwrites the weights."""
        raise NotImplementedError


@dataclass(frozen=True)
class Picked(Piece):
    """Each anchor's own rows (b, N), which may repeat, picked from products with the whole bank."""

    rows: Tensor

    def scores(self, anchors: Tensor, bank: Tensor) -> Tensor:
        return (anchors @ bank.T).gather(1, self.rows)

    def weighted_rows(self, weights: Tensor, bank: Tensor) -> Tensor:
        return weights.new_zeros(len(weights), len(bank)).scatter_add_(1, self.rows, weights) @ bank


@dataclass(frozen=True)
class Gathered(Piece):
    """Each anchor's own rows (b, N), which may repeat, gathered for one anchor at a time."""

    rows: Tensor

    def scores(self, anchors: Tensor, bank: Tensor) -> Tensor:
        scores = anchors.new_empty(self.rows.shape)
        gathered = bank.new_empty(self.rows.shape[1], bank.shape[1])  # reused: one per anchor would fragment memory
        for anchor, own, out in zip(anchors, self.rows, scores, strict=True):
            torch.index_select(bank, 0, own, out=gathered)
            torch.mv(gathered, anchor, out=out)
        return scores

    def weighted_rows(self, weights: Tensor, bank: Tensor) -> Tensor:
        return F.embedding_bag(self.rows, bank, per_sample_weights=weights, mode="sum")


@dataclass(frozen=True)
class Shared(Piece):
    """The same rows (K) for all anchors."""

    rows: Tensor | slice

    def scores(self, anchors: Tensor, bank: Tensor) -> Tensor:
        return anchors @ bank[self.rows].T

    def weighted_rows(self, weights: Tensor, bank: Tensor) -> Tensor:
        return weights @ bank[self.rows]


@dataclass(frozen=True)
class Masked(Shared):
    """The same rows (K) for all anchors; the mask (b, K) states how often each score counts."""

    mask: Tensor

    def counted(self, values: Tensor) -> Tensor:
        return values.mul_(self.mask)

    def log_sum(self, scores: Tensor) -> Tensor:
        away = self.mask.clamp(max=1).sub_(1).mul_(FAR)  # finite, so that the result is -inf if no score counts
        return super().log_sum(scores.add_(away))

    def weighted_rows(self, weights: Tensor, bank: Tensor) -> Tensor:
        return super().weighted_rows(self.counted(weights), bank)


Pieces = Callable[[], Iterator[Piece]]


def drawn_pieces(rows: Tensor, n_samples: int, dim: int, entries_at_once: int = ENTRIES_AT_ONCE) -> Iterator[Piece]:
    """Yield pieces that score each anchor with its own rows (B, N) of banks (M, D); rows may repeat."""
    if n_samples <= GATHERED_ROW_COST * rows.shape[1]:
        for anchors in _blocks(len(rows), entries_at_once // n_samples):
            yield Picked(anchors, rows[anchors])
    else:
        for part in rows.split(max(1, entries_at_once // dim), dim=1):
            for anchors in _blocks(len(rows), entries_at_once // part.shape[1]):
                yield Gathered(anchors, part[anchors])


def shared_pieces(rows: Tensor, each: int, dim: int, entries_at_once: int = ENTRIES_AT_ONCE) -> Iterator[Piece]:
    """Yield pieces that score `each` consecutive anchors per sample with the sample's rows (B, N), of D = `dim`."""
    for sample, own in enumerate(rows):
        for part in own.split(max(1, entries_at_once // dim)):
            for block in _blocks(each, entries_at_once // len(part)):
                yield Shared(slice(sample * each + block.start, sample * each + block.stop), part)


def masked_pieces(
    mask: Callable[[slice], Tensor], b: int, n_samples: int, entries_at_once: int = ENTRIES_AT_ONCE
) -> Iterator[Piece]:
    """Yield pieces that score b anchors with all M rows, each counted as often as the columns of a (b, M) mask say."""
    for rows in _blocks(n_samples, entries_at_once // (2 * b)):  # the scores and the mask
        yield Masked(slice(None), rows, mask(rows))


def _blocks(n: int, size: int) -> Iterator[slice]:
    size = max(1, size)
    return (slice(start, min(start + size, n)) for start in range(0, n, size))


def softplus_sum(anchors: Tensor, banks: Banks, pieces: Pieces, shift: Tensor) -> Tensor:
    """Return sum log(1 + exp(score - shift)) of each anchor, with shift (S, B) constant: (S, B)."""
    return SoftplusSum.apply(anchors, banks, pieces, shift)


def log_sum(anchors: Tensor, banks: Banks, pieces: Pieces) -> Tensor:
    """Return log sum exp(score) of each anchor: (S, B)."""
    return LogSum.apply(anchors, banks, pieces)


@torch.no_grad()
def log_sum_value(anchors: Tensor, banks: Banks, pieces: Pieces) -> Tensor:
    """Return what `log_sum` returns, without a gradient."""
    total = torch.full_like(anchors[..., 0], -torch.inf)
    for side, piece, _, scores in _scored(anchors, banks, pieces):
        here = total[side, piece.anchors]
        here.copy_(torch.logaddexp(here, piece.log_sum(scores)))
    return total


class AnchorSum(torch.autograd.Function):
    """A sum over each anchor's scores, the first argument, whose gradient `forward` has saved; others have none."""

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        (slope,) = ctx.saved_tensors
        return grad[..., None] * slope, *[None] * (len(ctx.needs_input_grad) - 1)


class SoftplusSum(AnchorSum):
    """The gradient of an anchor is the sum of sigmoid(score - shift) * row."""

    @staticmethod
    def forward(ctx: Any, anchors: Tensor, banks: Banks, pieces: Pieces, shift: Tensor) -> Tensor:  # noqa: ANN401
        total, slope = torch.zeros_like(shift), torch.zeros_like(anchors)
        for side, piece, bank, scores in _scored(anchors, banks, pieces):
            x = scores.sub_(shift[side, piece.anchors, None])
            total[side, piece.anchors] += piece.counted(F.softplus(x, threshold=40.0)).sum(dim=1)  # above 40, it is x
            slope[side, piece.anchors] += piece.weighted_rows(x.sigmoid_(), bank)
        ctx.save_for_backward(slope)
        return total


class LogSum(AnchorSum):
    """The gradient of an anchor is the sum of exp(score - log sum) * row."""

    @staticmethod
    def forward(ctx: Any, anchors: Tensor, banks: Banks, pieces: Pieces) -> Tensor:  # noqa: ANN401
        total, slope = log_sum_value(anchors, banks, pieces), torch.zeros_like(anchors)
        for side, piece, bank, scores in _scored(anchors, banks, pieces):
            weights = _exp(scores.sub_(total[side, piece.anchors, None]))
            slope[side, piece.anchors] += piece.weighted_rows(weights, bank)
        ctx.save_for_backward(slope)
        return total


def _scored(anchors: Tensor, banks: Banks, pieces: Pieces) -> Iterator[tuple[int, Piece, Tensor, Tensor]]:
    """Yield (side, piece, bank, scores) for every piece and side."""
    for piece in pieces():
        for side, bank in enumerate(banks):
            yield side, piece, bank, piece.scores(anchors[side, piece.anchors], bank)


def _exp(x: Tensor) -> Tensor:
    """Return exp(x) of x <= 0 in place, at least e^-80: below that, a CPU takes twenty times as long."""
    return x.clamp_(min=-80, max=0).exp_()
