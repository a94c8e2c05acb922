import json
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn.functional import conv2d, gelu, layer_norm
from torch.testing import assert_close

from methods.ofa import TokenHead, term
from tests.conftest import OWN_GOLDENS
from tests.methods.samples import STUDENT, TEACHER, TOKENS, build, features, shapes

GOLDEN = json.loads((OWN_GOLDENS / "ofa.json").read_text())
WIDE = shapes("resnet18", [(3, 16), (4, 8), (5, 4), (6, 2), (7, 1)], embedding=7)  # a stem and four stages
MIXER = replace(TOKENS, network="mixer", has_class_tokens=False)


def slow_term(logits, teacher, targets, epsilon, temperature):
    total = 0.0
    for row, taught, target in zip(logits, teacher, targets, strict=True):
        own, wanted = ((z / temperature).exp() / (z / temperature).exp().sum() for z in (row, taught))
        for k in range(len(row)):
            y = float(k == target)
            total -= ((wanted[k] + y) ** epsilon - y) * own[k].log()
    return total / len(logits)


def slow_head(head, maps, halvings):
    """Compute a CNN student's head from its weights: the blocks, the mean over positions, the linear layer."""
    layers = iter(head)
    for _ in range(halvings):
        for stride in (2, 1):
            depthwise, pointwise, norm, _ = (next(layers) for _ in range(4))
            assert (depthwise.groups, depthwise.stride) == (maps.shape[1], (stride, stride))
            planes = zip(maps.split(1, dim=1), depthwise.weight.split(1), strict=True)
            maps = torch.cat([conv2d(plane, kernel, stride=stride, padding=1) for plane, kernel in planes], dim=1)
            maps = torch.einsum("oc,bchw->bohw", pointwise.weight[:, :, 0, 0], maps)
            mean, var = maps.mean((0, 2, 3), keepdim=True), maps.var((0, 2, 3), unbiased=False, keepdim=True)
            maps = ((maps - mean) / (var + norm.eps).sqrt()).clamp(min=0)
    if not halvings:
        maps = torch.einsum("oc,bchw->bohw", next(layers).weight[:, :, 0, 0], maps)
    linear = head[-1]
    return maps.mean((2, 3)) @ linear.weight.T + linear.bias


@pytest.mark.parametrize("case", GOLDEN["terms"], ids=lambda case: f"e{case['epsilon']}-t{case['temperature']}")
def test_ofas_term_has_the_worked_numbers(case):
    sides = (torch.tensor(GOLDEN[f"{side}_logits"], dtype=torch.float64) for side in ("student", "teacher"))
    found = term(*sides, torch.tensor(GOLDEN["targets"]), case["epsilon"], case["temperature"])
    assert_close(found.item(), case["term"], rtol=1e-12, atol=0)


@pytest.mark.parametrize("settings", [{}, {"epsilon": 1.5, "temperature": 4.0, "head_weight": 0.5}])
def test_ofa_is_the_students_term_and_that_of_a_head_for_each_of_four_stages(settings, teacher, batch):
    student = features(WIDE, seed=1)
    used = {"epsilon": 1.0, "temperature": 1.0, "head_weight": 1.0} | settings
    distiller = build("ofa", WIDE, TEACHER, **settings)
    given = teacher.logits, batch.targets, used["epsilon"], used["temperature"]
    logits = [slow_head(distiller.heads[i], student.stages[1 + i], halvings=3 - i) for i in range(4)]
    output, heads = slow_term(student.logits, *given), sum(slow_term(one, *given) for one in logits)
    assert_close(distiller.loss(student, teacher, batch), output + used["head_weight"] * heads)
    assert_close(list(distiller.observed()), [output, heads])


def test_a_cnns_heads_double_the_channels_and_end_in_the_wider_embedding():
    distiller = build("ofa", WIDE, TEACHER)
    widths = [[layer.out_channels for layer in head if isinstance(layer, nn.Conv2d)] for head in distiller.heads]
    assert [one[3::4] for one in widths] == [[8, 16, 9], [10, 9], [9], []]
    assert widths[3] == [9]
    assert all(head[-1].in_features == 9 for head in distiller.heads)


def test_a_student_with_fewer_stages_has_a_head_for_each():
    assert len(build("ofa", shapes("two", [(3, 8), (4, 4)], embedding=7), TEACHER).heads) == 2


@pytest.mark.parametrize("of", [TOKENS, MIXER], ids=lambda of: of.network)
def test_a_head_of_tokens_predicts_from_the_class_token_or_from_the_mean_without_one(of):
    distiller, student = build("ofa", of, TEACHER), features(of, seed=1)
    for place, (head, logits) in enumerate(zip(distiller.heads, distiller.logits(student), strict=True)):
        assert len(head.blocks) == max(3 - place, 1)
        tokens = student.stages[place].flatten(2).transpose(1, 2)
        if of.has_class_tokens:
            tokens = torch.cat([student.class_tokens[place][:, None], tokens], dim=1)
        for block in head.blocks:
            tokens = slow_block(block, tokens)
        read = tokens[:, 0] if of.has_class_tokens else tokens.mean(dim=1)
        assert_close(logits, read @ head.classifier.weight.T)


def slow_block(block, tokens):
    """Compute a transformer block with 4 heads from its weights."""
    q, k, v = (layer_norm(tokens, (8,)) @ block.self_attn.in_proj_weight.T).chunk(3, dim=-1)
    mixed = []
    for part in range(4):
        own = slice(2 * part, 2 * part + 2)
        scores = q[..., own] @ k[..., own].transpose(1, 2) / 2**0.5
        mixed.append(scores.softmax(dim=-1) @ v[..., own])
    tokens = tokens + torch.cat(mixed, dim=-1) @ block.self_attn.out_proj.weight.T
    hidden = layer_norm(tokens, (8,)) @ block.linear1.weight.T
    return tokens + gelu(hidden) @ block.linear2.weight.T


@pytest.mark.parametrize(("side", "merges"), [(2, 0), (7, 0), (13, 0), (14, 1), (15, 1), (28, 2), (56, 3)])
def test_tokens_are_merged_until_their_grid_is_near_7(side, merges):
    head = TokenHead((4, side, side), 1, 5)
    assert len(head.merges) == merges
    assert head(torch.randn(2, 4, side, side)).shape == (2, 5)


def test_merging_reads_2x2_neighbours():
    head = TokenHead((4, 14, 14), 1, 5)
    grid = torch.randn(1, 4, 14, 14, requires_grad=True)
    merged = []
    head.blocks.register_forward_pre_hook(lambda _, given: merged.append(given[0]))
    head(grid)
    merged[0][0, 7 + 2].sum().backward()  # row 1, column 2 of 7
    touched = grid.grad[0].abs().sum(dim=0).nonzero().tolist()
    assert touched == [[2, 4], [2, 5], [3, 4], [3, 5]]


def test_ofas_heads_start_with_the_authors_weights():
    torch.manual_seed(0)
    head = build("ofa", shapes("wide", [(32, 8), (64, 4)], embedding=512), TEACHER).heads[0]
    assert_close(head[1].weight.std().item(), (2 / 32) ** 0.5, rtol=0.1, atol=0)  # by fan-out
    assert_close(head[-1].weight.std().item(), 0.02, rtol=0.1, atol=0)
    block = build("ofa", replace(TOKENS, stages=((64, 2, 2),)), TEACHER).heads[0].blocks[0]
    for weight in (block.self_attn.in_proj_weight, block.self_attn.out_proj.weight, block.linear1.weight):
        assert_close(weight.std().item(), 0.02, rtol=0.1, atol=0)
    assert not block.linear1.bias.any()


def test_ofa_says_that_classes_or_widths_do_not_fit():
    other = shapes("more", [(3, 8)], embedding=7, classes=11)
    distiller = build("ofa")
    assert "resnet8 has 5 classes, more 11" in distiller.inapplicable(STUDENT, other)
    uneven = replace(TOKENS, stages=((6, 4, 4),))
    assert "vit has tokens of width 6" in distiller.inapplicable(uneven, TEACHER)
    assert distiller.inapplicable(replace(uneven, of_tokens=False), TEACHER) is None
