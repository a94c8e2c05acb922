from functools import partial

import pytest
import torch
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bench.types import DataInfo
from methods import _banks
from methods._banks import drawn_pieces, log_sum, log_sum_value, masked_pieces, shared_pieces, softplus_sum
from tests.methods.samples import build

B, D, N = 4, 5, 6
DRAWN_FROM = {"whole": 30, "gathered": 70}  # samples in a bank, on either side of the cost rule for N = 6


class Case:
    """Anchors, two banks and pieces of a kind, with the scores of each anchor listed in full."""

    def __init__(self, kind):
        torch.manual_seed(0)
        self.m = DRAWN_FROM.get(kind, 30)
        self.anchors = torch.randn(2, B, D, dtype=torch.float64, requires_grad=True)
        self.banks = tuple(torch.randn(2, self.m, D, dtype=torch.float64))
        if kind == "masked":
            mask = torch.rand(B, self.m, dtype=torch.float64).round()
            self.pieces = partial(masked_pieces, lambda columns: mask[:, columns], B, self.m)
            self.rows = [row.nonzero()[:, 0] for row in mask]
        elif kind == "counted":
            times = torch.randint(3, (B, self.m)).double()
            self.pieces = partial(masked_pieces, lambda columns: times[:, columns], B, self.m)
            self.rows = [torch.arange(self.m).repeat_interleave(row.long()) for row in times]
        elif kind == "shared":
            own = torch.randint(self.m, (2, N))
            own[0, 1] = own[0, 0]  # drawn twice
            self.pieces = partial(shared_pieces, own, B // 2, D)
            self.rows = own.repeat_interleave(B // 2, dim=0)
        else:
            self.rows = torch.randint(self.m, (B, N))
            self.rows[0, 1] = self.rows[0, 0]  # drawn twice
            self.pieces = partial(drawn_pieces, self.rows, self.m, D)

    def slow(self, of_scores):
        """Return a function of each anchor's scores: (2, B)."""
        sides = zip(self.anchors, self.banks, strict=True)
        return torch.stack(
            [
                torch.stack([of_scores(bank[r] @ a) for a, r in zip(side, self.rows, strict=True)])
                for side, bank in sides
            ]
        )


@pytest.fixture(params=["whole", "gathered", "masked", "counted", "shared"])
def case(request):
    return Case(request.param)


def test_the_kinds_of_pieces_are_what_they_are_called():
    whole, gathered = (next(Case(kind).pieces()) for kind in ("whole", "gathered"))
    assert isinstance(whole, _banks.Picked)
    assert isinstance(gathered, _banks.Gathered)


def test_softplus_sum_adds_log_1_plus_exp_over_each_anchors_scores(case):
    expected = case.slow(lambda scores: (scores - 0.5).exp().log1p().sum())
    shift = torch.full((2, B), 0.5, dtype=torch.float64)
    assert_close(softplus_sum(case.anchors, case.banks, case.pieces, shift), expected)
    assert torch.autograd.gradcheck(lambda a: softplus_sum(a, case.banks, case.pieces, shift), case.anchors)


def test_log_sum_is_the_logarithm_of_the_sum_of_exp_over_each_anchors_scores(case):
    expected = case.slow(lambda scores: scores.exp().sum().log())
    assert_close(log_sum(case.anchors, case.banks, case.pieces), expected)
    assert_close(log_sum_value(case.anchors, case.banks, case.pieces), expected.detach())
    assert torch.autograd.gradcheck(lambda a: log_sum(a, case.banks, case.pieces), case.anchors)


@pytest.mark.parametrize("scale", [1e3, -1e3])
def test_sums_of_far_scores_neither_overflow_nor_vanish(case, scale):
    anchors, shift = scale * case.anchors, torch.zeros(2, B, dtype=torch.float64)
    scores = case.slow(lambda scores: (scale * scores).relu().sum())
    assert_close(softplus_sum(anchors, case.banks, case.pieces, shift), scores)
    assert_close(log_sum(anchors, case.banks, case.pieces), case.slow(lambda scores: (scale * scores).logsumexp(dim=0)))


@pytest.mark.parametrize("entries", [1, 7, 20])
@pytest.mark.parametrize("total", [log_sum, partial(softplus_sum, shift=torch.zeros(2, B, dtype=torch.float64))])
def test_small_pieces_give_the_same_as_one(case, total, entries):
    found = []
    small_pieces = partial(case.pieces, entries_at_once=entries)
    for pieces in (case.pieces, small_pieces):
        sums = total(case.anchors, case.banks, pieces)
        found.append((sums, *torch.autograd.grad(sums.square().sum(), case.anchors)))
    assert len(list(small_pieces())) > 1
    assert_close(found[0], found[1])


class Largest(TorchDispatchMode):
    """Counts the entries of the largest tensor that an operation makes anew."""

    entries = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **(kwargs or {}))
        given = {t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        for made in tree_leaves(result):
            if isinstance(made, torch.Tensor) and made.untyped_storage().data_ptr() not in given:
                self.entries = max(self.entries, made.numel())
        return result


@pytest.mark.parametrize("objective", ["crd", "infonce"])
@pytest.mark.parametrize("negatives", [{"n_negatives": 700}, {"n_negatives": 600}, {"negatives": "all"}])
def test_a_step_of_crd_makes_no_tensor_above_the_bound(student, teacher, batch, objective, negatives):
    m, bound = 5000, 10_000  # six anchors' scores with the whole bank are 30,000 entries, the bank's own are 80,000
    data = DataInfo(m, 5, torch.arange(m) % 5)
    distiller = build("crd", data=data, dim=16, objective=objective, **negatives)
    distiller.entries_at_once = bound
    with Largest() as largest:
        distiller.loss(student, teacher, batch).backward()
        distiller.after_step()
    assert bound / 3 <= largest.entries <= bound
