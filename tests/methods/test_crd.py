import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from threading import Barrier

import pytest
import torch
from scipy import stats
from torch.nn.functional import cross_entropy
from torch.testing import assert_close

from bench.types import Batch, DataInfo
from tests.methods.samples import CLASSES, DATA, STUDENT, TEACHER, build, features

LABELS = DATA.targets
ANCHORS = torch.tensor([3, 14, 15, 9, 26, 5])


# the draw


def test_negatives_are_distinct_and_of_another_class():
    drawn = build("crd", n_negatives=20).draw_negatives(ANCHORS)
    assert drawn.shape == (6, 20)
    assert drawn.dtype == torch.int64
    assert all(len(row.unique()) == 20 for row in drawn)
    assert (LABELS[drawn] != LABELS[ANCHORS, None]).all()


def test_negatives_may_be_the_whole_pool():
    drawn = build("crd", n_negatives=32).draw_negatives(ANCHORS)
    for anchor, row in zip(ANCHORS, drawn, strict=True):
        assert row.sort().values.equal((LABELS[anchor] != LABELS).nonzero()[:, 0])


def test_negatives_repeat_only_where_more_are_asked_for_than_there_are():
    drawn = build("crd", n_negatives=500).draw_negatives(ANCHORS)
    assert drawn.shape == (6, 500)
    assert (LABELS[drawn] != LABELS[ANCHORS, None]).all()
    assert all(len(row.unique()) == 32 for row in drawn)  # each of the 32 is missed with odds of 1 in 10 million


def test_each_anchor_repeats_by_the_size_of_its_own_pool():
    lopsided = DataInfo(40, 2, (torch.arange(40) >= 10).long())  # 10 samples of class 0, 30 of class 1
    drawn = build("crd", data=lopsided, n_negatives=20).draw_negatives(torch.tensor([0, 39]))
    assert len(drawn[0].unique()) == 20
    assert drawn[0].min() >= 10
    assert len(drawn[1].unique()) <= 10
    assert drawn[1].max() < 10


@pytest.mark.parametrize("policy", ["other_class", "other_sample"])
def test_negatives_are_uniform_over_the_pool(policy):
    distiller = build("crd", n_negatives=8, negatives=policy)
    anchor = torch.full((4000,), 17)
    torch.manual_seed(3)
    counts = distiller.draw_negatives(anchor).flatten().bincount(minlength=40).double()
    pool = (LABELS[17] != LABELS) if policy == "other_class" else (torch.arange(40) != 17)
    assert counts[~pool].sum() == 0
    size, mean = int(pool.sum()), 4000 * 8 / int(pool.sum())
    spread = ((counts[pool] - mean) ** 2 / mean).sum() * (size - 1) / (size - 8)  # distinct draws vary less
    assert 1e-3 < stats.chi2.sf(spread.item(), size - 1) < 1 - 1e-3


def test_negatives_are_uniform_with_replacement_too():
    distiller = build("crd", n_negatives=64)
    torch.manual_seed(4)
    counts = distiller.draw_negatives(torch.full((500,), 17)).flatten().bincount(minlength=40)[LABELS[17] != LABELS]
    assert stats.chisquare(counts).pvalue > 1e-3


def test_negatives_of_other_sample_leave_out_the_anchor_alone():
    drawn = build("crd", n_negatives=39, negatives="other_sample").draw_negatives(ANCHORS)
    for anchor, row in zip(ANCHORS, drawn, strict=True):
        assert row.sort().values.equal(torch.arange(40)[torch.arange(40) != anchor])


def test_the_draw_follows_torchs_generator():
    distiller = build("crd", n_negatives=20)
    torch.manual_seed(1)
    first = distiller.draw_negatives(ANCHORS)
    assert not distiller.draw_negatives(ANCHORS).equal(first)
    torch.manual_seed(1)
    assert distiller.draw_negatives(ANCHORS).equal(first)


def test_the_draw_does_not_depend_on_how_many_anchors_are_drawn_at_once():
    for n in (20, 500):  # without and with replacement
        whole, parts = build("crd", n_negatives=n), build("crd", n_negatives=n)
        parts.entries_at_once = 80  # two anchors
        drawn = []
        for distiller in (whole, parts):
            torch.manual_seed(2)
            drawn.append(distiller.draw_negatives(ANCHORS))
        assert drawn[0].equal(drawn[1])


def test_anchors_of_one_class_draw_independently():
    drawn = build("crd", n_negatives=20).draw_negatives(torch.tensor([0, 5, 10, 15]))
    assert len({tuple(row.sort().values.tolist()) for row in drawn}) == 4


def test_a_fraction_keeps_a_fixed_share_of_each_classs_pool():
    distiller = build("crd", n_negatives=10, negatives_fraction=0.3)
    assert distiller.kept.sum(dim=1).tolist() == [10] * CLASSES  # 0.3 of 32, rounded up
    pools = [distiller.draw_negatives(ANCHORS).sort().values for _ in range(5)]
    assert all(pool.equal(pools[0]) for pool in pools)
    assert (LABELS[pools[0]] != LABELS[ANCHORS, None]).all()
    assert pools[0][0].equal(distiller.kept[LABELS[ANCHORS[0]]].nonzero()[:, 0])


def test_a_fraction_is_rounded_up_from_its_decimal_value():
    hundred = DataInfo(101, 2, (torch.arange(101) < 1).long())
    assert build("crd", data=hundred, negatives_fraction=0.07).kept[1].sum() == 7


def test_positives_of_same_class_are_any_of_the_class(student, teacher, batch):
    distiller = build("crd", positives="same_class")
    torch.manual_seed(5)
    drawn = torch.stack([distiller.same_class.draw_member(ANCHORS) for _ in range(2000)])
    assert (LABELS[drawn] == LABELS[ANCHORS]).all()
    assert stats.chisquare(drawn.flatten().bincount(minlength=40)[LABELS[3] == LABELS]).pvalue > 1e-3
    assert distiller.loss(student, teacher, batch).isfinite()


# the objective


def heads(distiller, student, teacher):
    z_s, z_t = distiller.student_head(student.embedding), distiller.teacher_head(teacher.embedding)
    return z_s / z_s.norm(dim=1, keepdim=True), z_t / z_t.norm(dim=1, keepdim=True)


def slow_direction(anchors, bank, indices, negatives, temperature, objective):
    """Return one direction's loss on the first batch, one anchor at a time; `negatives` is a list of rows."""
    score = [
        [(a @ bank[j] / temperature).exp() for j in [i, *row]]
        for a, i, row in zip(anchors, indices, negatives, strict=True)
    ]
    flat = [value for row in score for value in row]
    z = (len(bank) * sum(flat) / len(flat)).detach()
    total = 0.0
    for row in score:
        if objective == "infonce":
            total -= (row[0] / sum(row)).log()
            continue
        share = (len(row) - 1) / len(bank)
        total -= (row[0] / z / (row[0] / z + share + 1e-7)).log()
        total -= sum((share / (q / z + share + 1e-7)).log() for q in row[1:])
    return total / len(anchors)


def slow(distiller, student, teacher, indices, negatives, temperature, objective="crd"):
    z_s, z_t = heads(distiller, student, teacher)
    return slow_direction(z_s, distiller.teacher_bank, indices, negatives, temperature, objective) + slow_direction(
        z_t, distiller.student_bank, indices, negatives, temperature, objective
    )


@pytest.mark.parametrize("objective", ["crd", "infonce"])
@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_crd_is_the_objective_of_drawn_negatives_in_both_directions(student, teacher, batch, objective, temperature):
    distiller = build("crd", n_negatives=7, objective=objective, temperature=temperature)
    negatives = distiller.draw_negatives(batch.indices)
    distiller.draw_negatives = lambda indices: negatives
    expected = slow(distiller, student, teacher, batch.indices, negatives.tolist(), temperature, objective)
    assert_close(distiller.loss(student, teacher, batch), expected)


@pytest.mark.parametrize("objective", ["crd", "infonce"])
def test_all_takes_every_sample_of_another_class(student, teacher, batch, objective):
    lopsided = replace(DATA, targets=torch.arange(40).sqrt().long())  # classes of 1, 3, 5, 7, 9, 11 and 4 samples
    distiller = build("crd", data=lopsided, negatives="all", objective=objective)
    pools = [(lopsided.targets != lopsided.targets[i]).nonzero()[:, 0].tolist() for i in batch.indices]
    expected = slow(distiller, student, teacher, batch.indices, pools, 0.1, objective)
    assert_close(distiller.loss(student, teacher, batch), expected)


def test_infonce_is_softmax_cross_entropy_of_the_positive(student, teacher, batch):
    distiller = build("crd", objective="infonce", n_negatives=7)
    negatives = distiller.draw_negatives(batch.indices)
    distiller.draw_negatives = lambda indices: negatives
    rows = torch.cat([batch.indices[:, None], negatives], dim=1)
    z_s, z_t = heads(distiller, student, teacher)
    logits = [
        (anchors[:, None] * bank[rows]).sum(2) / 0.1
        for anchors, bank in ((z_s, distiller.teacher_bank), (z_t, distiller.student_bank))
    ]
    first = torch.zeros(6, dtype=torch.int64)
    assert_close(
        distiller.loss(student, teacher, batch), cross_entropy(logits[0], first) + cross_entropy(logits[1], first)
    )


@pytest.mark.parametrize("objective", ["crd", "infonce"])
def test_the_critics_values_are_log_n_less_each_directions_loss(student, teacher, batch, objective):
    distiller = build("crd", n_negatives=7, objective=objective)
    loss = distiller.loss(student, teacher, batch)
    values = torch.stack(tuple(distiller.observed()))
    assert len(values) == len(distiller.observes) == 2
    assert_close(2 * math.log(7) - values.sum(), loss.detach())
    assert not values.requires_grad


def test_a_critic_that_knows_nothing_has_the_value_of_chance(student, teacher, batch):
    """InfoNCE of equal scores: log(N + 1) by loss, so log N less it is a little below 0."""
    distiller = build("crd", n_negatives=7, objective="infonce", temperature=1e9)
    distiller.loss(student, teacher, batch)
    assert_close(torch.stack(tuple(distiller.observed())), torch.full((2,), math.log(7 / 8), dtype=torch.float64))


def test_all_equals_a_draw_of_the_whole_pool(student, teacher, batch):
    drawn, everything = build("crd", n_negatives=32), build("crd", negatives="all")
    assert_close(drawn.loss(student, teacher, batch), everything.loss(student, teacher, batch))


def test_z_is_set_by_the_first_batch_and_kept(student, teacher, batch):
    distiller = build("crd", n_negatives=7)
    assert distiller.log_z.isinf().all()
    distiller.loss(student, teacher, batch)
    first = distiller.log_z.clone()
    assert first.isfinite().all()
    distiller.loss(features(STUDENT, seed=8), teacher, batch)
    assert distiller.log_z.equal(first)


@pytest.mark.parametrize("objective", ["crd", "infonce"])
def test_extreme_scores_do_not_overflow_in_float32(student, teacher, batch, objective):
    distiller = build("crd", temperature=0.001, objective=objective).float()
    low_s, low_t = (replace(side, embedding=side.embedding.float().detach()) for side in (student, teacher))
    low_s.embedding.requires_grad_()
    loss = distiller.loss(low_s, low_t, batch)
    loss.backward()
    assert loss.isfinite()
    assert low_s.embedding.grad.isfinite().all()


# the banks


def test_banks_start_uniform_with_rows_near_unit_length():
    bank = build("crd", data=DataInfo(500, 2, torch.arange(500) % 2)).student_bank
    bound = 1 / math.sqrt(128 / 3)
    assert stats.kstest(bank.flatten().numpy(), stats.uniform(-bound, 2 * bound).cdf).pvalue > 1e-3
    assert_close(bank.square().sum(dim=1).mean().item(), 1.0, rtol=0.02, atol=0)


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_visited_rows_move_towards_the_embeddings_and_others_stay(student, teacher, batch, momentum):
    distiller = build("crd", bank_momentum=momentum)
    before = distiller.student_bank.clone(), distiller.teacher_bank.clone()
    distiller.loss(student, teacher, batch).backward()
    assert distiller.student_bank.equal(before[0])  # the backward pass needs it as it was
    distiller.after_step()
    others = torch.ones(40, dtype=torch.bool).scatter(0, batch.indices, False)
    banks = distiller.student_bank, distiller.teacher_bank
    for bank, old, z in zip(banks, before, heads(distiller, student, teacher), strict=True):
        moved = momentum * old[batch.indices] + (1 - momentum) * z
        assert_close(bank[batch.indices], moved / moved.norm(dim=1, keepdim=True))
        assert bank[others].equal(old[others])


def test_a_step_without_a_loss_leaves_the_banks(student, teacher, batch):
    distiller = build("crd")
    distiller.loss(student, teacher, batch)
    distiller.after_step()
    bank = distiller.student_bank.clone()
    distiller.after_step()
    assert distiller.student_bank.equal(bank)


class Meeting:
    """Joins the rows of two processes, which here are threads."""

    def __init__(self) -> None:
        self.given: dict[int, torch.Tensor] = {}
        self.barrier = Barrier(2, timeout=10)

    def gather(self, rank, rows):
        self.given[rank] = rows
        self.barrier.wait()
        joined = torch.cat([self.given[0], self.given[1]])
        self.barrier.wait()
        return joined


@pytest.mark.parametrize("name", ["crd", "crd_local"])
def test_two_processes_end_a_step_with_the_banks_and_z_of_one_that_sees_the_whole_batch(name):
    whole, *processes = (build(name, negatives="all") for _ in range(3))  # without a draw
    student, teacher = features(STUDENT, seed=8), features(TEACHER, seed=9)
    indices, meeting = torch.tensor([3, 14, 15, 9, 26, 5]), Meeting()

    def step(distiller, part):
        own, other = (
            replace(of, embedding=of.embedding[part], stages=tuple(stage[part] for stage in of.stages))
            for of in (student, teacher)
        )
        distiller.loss(own, other, Batch(own.logits, own.logits, None, indices[part]))
        distiller.after_step()

    step(whole, slice(None))
    for rank, process in enumerate(processes):
        process.gather = partial(meeting.gather, rank)
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(step, processes, (slice(4), slice(4, None))))
    for process in processes:
        assert_close(process.state_dict(), whole.state_dict())
    assert all(map(torch.equal, processes[0].buffers(), processes[1].buffers()))


def test_gradients_reach_both_heads_and_no_bank(student, teacher, batch):
    distiller = build("crd")
    distiller.loss(student, teacher, batch).backward()
    assert all(parameter.grad.count_nonzero() for parameter in distiller.parameters())
    assert not any(buffer.requires_grad for buffer in distiller.buffers())


def test_a_checkpoint_holds_banks_and_z_but_nothing_that_data_or_seed_say():
    state = build("crd", negatives_fraction=0.5).state_dict()
    heads = {f"{side}_head.{part}" for side in ("student", "teacher") for part in ("weight", "bias")}
    assert set(state) == heads | {"student_bank", "teacher_bank", "log_z"}


# what cannot work


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"negatives_fraction": 1.5}, "negatives_fraction=1.5 must lie above 0 and at most at 1"),
        ({"negatives_fraction": 0.0}, "negatives_fraction=0.0"),
        ({"negatives_fraction": 0.5, "negatives": "other_sample"}, "leave it at 1"),
        ({"bank_momentum": 1.1}, "bank_momentum=1.1 must lie between 0 and 1"),
    ],
)
def test_crd_refuses_values_that_cannot_work(parameters, message):
    with pytest.raises(ValueError, match=message):
        build("crd", **parameters)


@pytest.mark.parametrize(
    "parameters", [{}, {"negatives": "all"}, {"negatives": "other_sample", "positives": "same_class"}]
)
def test_crd_says_what_works_without_labels(parameters):
    with pytest.raises(ValueError, match="without labels use negatives=other_sample and positives=same_sample"):
        build("crd", data=replace(DATA, targets=None), **parameters)


def test_crd_works_without_labels_on_other_samples(student, teacher, batch):
    given, without = (build("crd", data=data, negatives="other_sample") for data in (DATA, replace(DATA, targets=None)))
    for _ in range(2):  # the second step scores what the first has moved
        found = []
        for distiller, one in ((given, batch), (without, replace(batch, targets=None))):
            torch.manual_seed(1)
            loss = distiller.loss(student, teacher, one)
            found.append((loss, *torch.autograd.grad(loss, [student.embedding, *distiller.parameters()])))
            distiller.after_step()
        assert_close(found[0], found[1], rtol=0, atol=0)
    assert all(map(torch.equal, given.buffers(), without.buffers()))


def test_crd_refuses_data_of_one_class():
    with pytest.raises(ValueError, match="all 40 training samples are of one class"):
        build("crd", data=replace(DATA, targets=torch.zeros(40, dtype=torch.int64)))
