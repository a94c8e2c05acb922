import math
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import normalize
from torch.testing import assert_close

from bench.types import DataInfo
from methods import banks
from tests.methods.samples import DATA, STUDENT, TEACHER, batch, build, features, shapes
from tests.methods.test_banks import Largest
from tests.methods.test_crd import slow_direction

POINT = shapes("point", [(3, 8), (7, 1)], embedding=7)  # whose last map is one position of the embedding's channels


def unit(vector):
    return vector / vector.norm()


def slow(distiller, student, indices, stage, temperature):
    """Return the loss of the first batch, one position after the other; the bank is no part of the way back."""
    weight, bias = distiller.student_head.weight[:, :, 0, 0], distiller.student_head.bias
    anchors, owners = [], []
    for place, one in enumerate(student.stages[stage]):
        for row in range(one.shape[1]):
            for column in range(one.shape[2]):
                anchors.append(unit(weight @ one[:, row, column] + bias))
                owners.append(place)
    negatives = distiller.draw_negatives(indices).tolist()
    of_owner = [indices[place] for place in owners], [negatives[place] for place in owners]
    return slow_direction(anchors, distiller.teacher_bank, *of_owner, temperature, "crd")


def with_draw_held(**parameters):
    """Return a distiller that draws the same negatives whenever it is asked."""
    distiller = build("crd_local", **parameters)
    drawn = distiller.draw_negatives(torch.arange(DATA.n))
    distiller.draw_negatives = lambda indices: drawn[indices]
    return distiller


# the objective


@pytest.mark.parametrize("n_negatives", [7, 50])  # of 39: distinct, or with some twice
@pytest.mark.parametrize(("stage", "temperature"), [(-1, 0.1), (2, 0.5)])
def test_local_crd_is_the_mean_over_positions_of_crds_objective(
    student, teacher, batch, stage, temperature, n_negatives
):
    distiller = with_draw_held(stage=stage, temperature=temperature, n_negatives=n_negatives, dim=16)
    found = distiller.loss(student, teacher, batch)
    expected = slow(distiller, student, batch.indices, stage, temperature)
    assert_close(found, expected)
    trained = [student.stages[stage], distiller.student_head.weight, distiller.student_head.bias]
    assert_close(torch.autograd.grad(found, trained), torch.autograd.grad(expected, trained))


def test_a_map_of_one_position_gives_crds_direction_of_student_anchors():
    student, teacher, one = features(POINT, 1, trains=True), features(TEACHER, 2), batch([3, 14, 15, 9, 26, 5])
    student = replace(student, embedding=student.stages[-1].flatten(1))
    crd = build("crd", POINT, n_negatives=7, negatives="other_sample")
    local = build("crd_local", POINT, n_negatives=7)
    local.student_head.weight.data = crd.student_head.weight.data[:, :, None, None]
    local.student_head.bias.data = crd.student_head.bias.data
    local.teacher_bank.copy_(crd.teacher_bank)
    losses = []
    for distiller in (crd, local):
        torch.manual_seed(1)
        distiller.loss(student, teacher, one)
        losses.append(math.log(7) - distiller.observed()[0])
    assert_close(losses[0], losses[1])


@pytest.mark.parametrize("n_negatives", [7, 50])
def test_z_is_set_by_the_first_batch_and_kept(student, teacher, batch, n_negatives):
    distiller = with_draw_held(n_negatives=n_negatives)
    assert distiller.log_z.isinf().all()
    distiller.loss(student, teacher, batch)
    first = distiller.log_z.clone()
    anchors = normalize(distiller.student_head(student.stages[-1]).flatten(2), dim=1)
    rows = torch.cat([batch.indices[:, None], distiller.draw_negatives(batch.indices)], dim=1)
    scores = torch.einsum("bdp,bnd->bpn", anchors, distiller.teacher_bank[rows]) / 0.1
    assert_close(first.exp()[0], (DATA.n * scores.exp().mean()).detach())
    distiller.loss(features(STUDENT, seed=8), teacher, batch)
    assert distiller.log_z.equal(first)


def test_the_critics_value_is_log_n_less_the_loss(student, teacher, batch):
    distiller = build("crd_local", n_negatives=7)
    loss = distiller.loss(student, teacher, batch)
    (value,) = distiller.observed()
    assert len(distiller.observes) == 1
    assert_close(value, math.log(7) - loss.detach())
    assert not value.requires_grad


def test_a_student_comes_nearer_to_its_teachers_rows(student, teacher, batch):
    distiller = build("crd_local", n_negatives=20)
    trained = [student.stages[-1], *distiller.student_head.parameters()]
    optimizer = torch.optim.SGD(trained, lr=0.5)
    losses = []
    for _ in range(20):
        loss = distiller.loss(student, teacher, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        distiller.after_step(lambda rows: rows)
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize(("m", "n_negatives"), [(5000, 700), (600, 700)])
def test_a_step_makes_no_tensor_above_the_bound(student, teacher, batch, monkeypatch, m, n_negatives):
    bound = 8_000  # of one sample's 64 positions the scores are 44,800 or 38,400 entries, the rows drawn 11,200
    monkeypatch.setattr(banks, "ENTRIES_AT_ONCE", bound)
    data = DataInfo(m, 1, None)
    distiller = build("crd_local", data=data, stage=1, dim=16, n_negatives=n_negatives)
    with Largest() as largest:
        distiller.loss(student, teacher, batch).backward()
        distiller.after_step(lambda rows: rows)
    assert bound / 2 <= largest.entries <= bound


# the negatives


def test_negatives_leave_out_the_sample_alone(batch):
    drawn = build("crd_local", n_negatives=39).draw_negatives(batch.indices)
    for index, row in zip(batch.indices, drawn, strict=True):
        assert row.sort().values.equal(torch.arange(40)[torch.arange(40) != index])


def test_negatives_of_another_class_are_of_another_class(batch):
    drawn = build("crd_local", n_negatives=32, negatives="other_class").draw_negatives(batch.indices)
    for index, row in zip(batch.indices, drawn, strict=True):
        assert row.sort().values.equal((DATA.targets != DATA.targets[index]).nonzero()[:, 0])


def test_local_crd_needs_no_labels(student, teacher, batch):
    distiller = build("crd_local", data=replace(DATA, targets=None))
    distiller.loss(student, teacher, replace(batch, targets=None)).backward()
    distiller.after_step(lambda rows: rows)
    assert student.stages[-1].grad.isfinite().all()


# the bank


@pytest.mark.parametrize("momentum", [0.0, 0.5, 1.0])
def test_visited_rows_move_towards_the_teachers_embeddings_and_others_stay(student, teacher, batch, momentum):
    distiller = build("crd_local", bank_momentum=momentum)
    before = distiller.teacher_bank.clone()
    distiller.loss(student, teacher, batch).backward()
    assert distiller.teacher_bank.equal(before)
    distiller.after_step(lambda rows: rows)
    for index, embedding in zip(batch.indices, teacher.embedding, strict=True):
        moved = momentum * before[index] + (1 - momentum) * unit(distiller.teacher_head(embedding))
        assert_close(distiller.teacher_bank[index], unit(moved))
    others = torch.ones(40, dtype=torch.bool).scatter(0, batch.indices, False)
    assert distiller.teacher_bank[others].equal(before[others])


def test_two_processes_end_a_step_with_the_same_bank_and_z(student, teacher, batch):
    first, second = build("crd_local"), build("crd_local")
    first.loss(student, teacher, batch)
    second.loss(features(STUDENT, seed=8), features(TEACHER, seed=9), replace(batch, indices=batch.indices + 1))
    of_first, of_second = (*first.visited, first.log_z[None].clone()), (*second.visited, second.log_z[None].clone())
    joined = [torch.cat(pair) for pair in zip(of_first, of_second, strict=True)]
    for process in (first, second):
        rows = iter(joined)  # each process calls gather in the same order
        process.after_step(lambda _, rows=rows: next(rows))
    assert all(map(torch.equal, first.buffers(), second.buffers()))


def test_a_step_without_a_loss_leaves_the_bank(student, teacher, batch):
    distiller = build("crd_local")
    distiller.loss(student, teacher, batch)
    distiller.after_step(lambda rows: rows)
    bank = distiller.teacher_bank.clone()
    distiller.after_step(lambda rows: rows)
    assert distiller.teacher_bank.equal(bank)


def test_the_convolution_trains_and_the_teachers_head_stays(student, teacher, batch):
    distiller = build("crd_local")
    distiller.loss(student, teacher, batch).backward()
    assert all(parameter.grad.count_nonzero() for parameter in distiller.student_head.parameters())
    assert not any(parameter.requires_grad for parameter in distiller.teacher_head.parameters())


def test_a_checkpoint_holds_heads_bank_and_z_alone():
    heads = {f"{side}_head.{part}" for side in ("student", "teacher") for part in ("weight", "bias")}
    assert set(build("crd_local").state_dict()) == heads | {"teacher_bank", "log_z"}


# what cannot work


@pytest.mark.parametrize("stage", [4, -5])
def test_local_crd_says_which_stages_there_are(stage):
    with pytest.raises(ValueError, match=f"stage={stage}: resnet8 has stages 0 to 3, local CRD reads stage {stage}"):
        build("crd_local", stage=stage)


def test_local_crd_says_what_works_without_labels():
    with pytest.raises(ValueError, match="without labels use negatives=other_sample"):
        build("crd_local", data=replace(DATA, targets=None), negatives="other_class")
