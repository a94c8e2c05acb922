import math
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import normalize
from torch.testing import assert_close

from bench.types import DataInfo
from tests.methods.samples import DATA, STUDENT, TEACHER, batch, build, features, shapes
from tests.methods.test_banks import Largest
from tests.methods.test_crd import slow_direction

POINT = shapes("point", [(3, 8), (7, 1)], embedding=7)  # whose last map is one position of the embedding's channels


def unit(vector):
    return vector / vector.norm()


def slow_local(distiller, student, positives, negatives, stage, temperature, objective):
    """Return the local term of the first batch, one position after the other; the bank is no part of the way back."""
    weight, bias = distiller.local_head.weight[:, :, 0, 0], distiller.local_head.bias
    anchors, owners = [], []
    for place, one in enumerate(student.stages[stage]):
        for row in range(one.shape[1]):
            for column in range(one.shape[2]):
                anchors.append(unit(weight @ one[:, row, column] + bias))
                owners.append(place)
    of_owner = [positives[place] for place in owners], [negatives[place] for place in owners]
    return slow_direction(anchors, distiller.teacher_bank, *of_owner, temperature, objective)


def pair(**parameters):
    """Return CRD and local CRD of the same weights and banks, drawing the same negatives whenever they are asked."""
    stage = {"stage": parameters.pop("stage")} if "stage" in parameters else {}
    parameters = {"negatives": "other_sample"} | parameters
    crd, local = build("crd", **parameters), build("crd_local", **stage, **parameters)
    drawn = crd.draw_negatives(torch.arange(DATA.n))
    for distiller in (crd, local):
        distiller.draw_negatives = lambda indices: drawn[indices]
    return crd, local


# the objective


@pytest.mark.parametrize("objective", ["crd", "infonce"])
@pytest.mark.parametrize("n_negatives", [7, 50])  # of 39: distinct, or with some twice
@pytest.mark.parametrize(("stage", "temperature"), [(-1, 0.1), (2, 0.5)])
def test_local_crd_is_crd_and_the_mean_over_positions_of_its_objective(
    student, teacher, batch, stage, temperature, n_negatives, objective
):
    shared = {"temperature": temperature, "n_negatives": n_negatives, "objective": objective, "dim": 16}
    crd, local = pair(stage=stage, **shared)
    found = local.loss(student, teacher, batch)
    negatives = local.draw_negatives(batch.indices).tolist()
    term = slow_local(local, student, batch.indices, negatives, stage, temperature, objective)
    expected = crd.loss(student, teacher, batch) + term
    assert_close(found, expected)
    theirs = [student.stages[stage], student.embedding, *local.local_head.parameters()]
    heads = [[*one.student_head.parameters(), *one.teacher_head.parameters()] for one in (crd, local)]
    assert_close(torch.autograd.grad(found, [*theirs, *heads[1]]), torch.autograd.grad(expected, [*theirs, *heads[0]]))


@pytest.mark.parametrize("objective", ["crd", "infonce"])
def test_all_takes_every_sample_of_another_class_for_positions_too(student, teacher, batch, objective):
    lopsided = replace(DATA, targets=torch.arange(40).sqrt().long())  # classes of 1, 3, 5, 7, 9, 11 and 4 samples
    crd, local = (build(name, data=lopsided, negatives="all", objective=objective) for name in ("crd", "crd_local"))
    pools = [(lopsided.targets != lopsided.targets[i]).nonzero()[:, 0].tolist() for i in batch.indices]
    term = slow_local(local, student, batch.indices, pools, -1, 0.1, objective)
    assert_close(local.loss(student, teacher, batch), crd.loss(student, teacher, batch) + term)


def test_positions_have_the_positive_that_is_drawn_for_their_sample(student, teacher, batch):
    local = build("crd_local", n_negatives=7, positives="same_class")
    partners = local.partners(batch.indices)
    assert not partners.positives.equal(batch.indices)
    found = local.sides(student, teacher, partners)[2]
    negatives = partners.negatives.tolist()
    assert_close(found, slow_local(local, student, partners.positives, negatives, -1, 0.1, "crd"))


@pytest.mark.parametrize("n_negatives", [7, 50])
@pytest.mark.parametrize("objective", ["crd", "infonce"])
def test_a_map_of_one_position_gives_the_direction_of_student_anchors(n_negatives, objective):
    student, teacher, one = features(POINT, 1, trains=True), features(TEACHER, 2), batch([3, 14, 15, 9, 26, 5])
    student = replace(student, embedding=student.stages[-1].flatten(1))
    local = build("crd_local", POINT, n_negatives=n_negatives, objective=objective)
    local.local_head.weight.data = local.student_head.weight.data[:, :, None, None]
    local.local_head.bias.data = local.student_head.bias.data
    for _ in range(2):
        of_student, _, of_positions = local.sides(student, teacher, local.partners(one.indices))
        assert_close(of_student, of_positions)
        local.after_step()


@pytest.mark.parametrize("n_negatives", [7, 50])
def test_positions_have_a_z_of_their_own_that_the_first_batch_sets(student, teacher, batch, n_negatives):
    crd, local = pair(n_negatives=n_negatives)
    assert local.log_z.isinf().all()
    for distiller in (crd, local):
        distiller.loss(student, teacher, batch)
    first = local.log_z.clone()
    assert first[:2].equal(crd.log_z)
    anchors = normalize(local.local_head(student.stages[-1]).flatten(2), dim=1)
    rows = torch.cat([batch.indices[:, None], local.draw_negatives(batch.indices)], dim=1)
    scores = torch.einsum("bdp,bnd->bpn", anchors, local.teacher_bank[rows]) / 0.1
    assert_close(first[2].exp(), (DATA.n * scores.exp().mean()).detach())
    local.loss(features(STUDENT, seed=8), teacher, batch)
    assert local.log_z.equal(first)


def test_the_critics_values_are_crds_and_that_of_positions(student, teacher, batch):
    crd, local = pair(n_negatives=7)
    losses = [distiller.loss(student, teacher, batch).detach() for distiller in (crd, local)]
    values = torch.stack(tuple(local.observed()))
    assert local.observes == (*crd.observes, "critic_local")
    assert_close(values[:2], torch.stack(tuple(crd.observed())))
    assert_close(values[2], math.log(7) - (losses[1] - losses[0]))
    assert not values.requires_grad


def test_training_brings_every_loss_down(student, teacher, batch):
    distiller = build("crd_local", n_negatives=20)
    optimizer = torch.optim.SGD([student.stages[-1], student.embedding, *distiller.parameters()], lr=0.5)
    found = []
    for _ in range(20):
        sides = distiller.sides(student, teacher, distiller.partners(batch.indices))
        optimizer.zero_grad()
        sides.sum().backward()
        optimizer.step()
        distiller.after_step()
        found.append(sides.detach())
    assert (found[-1] < 0.8 * found[0]).all()


@pytest.mark.parametrize(("m", "negatives"), [(5000, {}), (600, {}), (5000, {"negatives": "all"})])
def test_a_step_makes_no_tensor_above_the_bound(student, teacher, batch, m, negatives):
    bound = 8_000  # of one sample's 64 positions the scores are 38,400 entries or more, the rows drawn 11,200
    distiller = build(
        "crd_local", data=DataInfo(m, 5, torch.arange(m) % 5), stage=1, dim=16, n_negatives=700, **negatives
    )
    distiller.entries_at_once = bound
    with Largest() as largest:
        distiller.loss(student, teacher, batch).backward()
        distiller.after_step()
    assert bound / 2 <= largest.entries <= bound


# the negatives and the banks


def test_local_crd_needs_no_labels(student, teacher, batch):
    distiller = build("crd_local", data=replace(DATA, targets=None))
    distiller.loss(student, teacher, replace(batch, targets=None)).backward()
    distiller.after_step()
    assert student.stages[-1].grad.isfinite().all()


def test_positions_share_the_draw_of_their_sample(student, teacher, batch):
    distiller = build("crd_local", n_negatives=7)
    asked = []
    draw = distiller.draw_negatives
    distiller.draw_negatives = lambda indices: asked.append(indices) or draw(indices)
    distiller.loss(student, teacher, batch)
    assert len(asked) == 1
    assert asked[0].equal(batch.indices)


def test_banks_move_as_crds_do(student, teacher, batch):
    crd, local = pair(n_negatives=7)
    for distiller in (crd, local):
        distiller.loss(student, teacher, batch).backward()
        distiller.after_step()
    assert local.student_bank.equal(crd.student_bank)
    assert local.teacher_bank.equal(crd.teacher_bank)


def test_gradients_reach_every_head_and_no_bank(student, teacher, batch):
    distiller = build("crd_local")
    distiller.loss(student, teacher, batch).backward()
    assert {name.split(".")[0] for name, _ in distiller.named_parameters()} == {
        "student_head",
        "teacher_head",
        "local_head",
    }
    assert all(parameter.grad.count_nonzero() for parameter in distiller.parameters())
    assert not any(buffer.requires_grad for buffer in distiller.buffers())


# what cannot work


@pytest.mark.parametrize("stage", [4, -5])
def test_local_crd_says_which_stages_there_are(stage):
    with pytest.raises(ValueError, match=f"stage={stage}: resnet8 has stages 0 to 3, local CRD reads stage {stage}"):
        build("crd_local", stage=stage)


def test_local_crd_refuses_what_crd_refuses():
    with pytest.raises(ValueError, match="without labels use negatives=other_sample"):
        build("crd_local", data=replace(DATA, targets=None), negatives="other_class")
