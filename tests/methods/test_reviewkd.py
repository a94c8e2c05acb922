import pytest
import torch
from torch.nn.functional import adaptive_avg_pool2d, batch_norm, conv2d, interpolate
from torch.testing import assert_close

from methods.reviewkd import pyramid_loss
from tests.methods.samples import STUDENT, TEACHER, build, shapes


def normed(x):
    return batch_norm(x, None, None, training=True)


def slow(distiller, student, teacher):
    """Return each level's loss, the deepest first, from the parameters alone."""
    maps = [*student.stages[1:], student.embedding[:, :, None, None]]
    wanted = [*teacher.preactivations[1:], teacher.embedding[:, :, None, None]]
    losses, fused = [], None
    for level, s, t in list(zip(distiller.levels, maps, wanted, strict=True))[::-1]:
        x = normed(conv2d(s, level.inward[0].weight))
        if fused is not None:
            other = interpolate(fused, x.shape[2:])
            both = conv2d(torch.cat([x, other], 1), level.attention[0].weight, level.attention[0].bias).sigmoid()
            x = both[:, :1] * x + both[:, 1:] * other
        fused = interpolate(x, t.shape[2:])
        out = normed(conv2d(fused, level.outward[0].weight, padding=1))
        squares, weight, count = ((out - t) ** 2).mean(), 1.0, 1.0
        for k in (4, 2, 1):
            if k < t.shape[2]:
                weight /= 2
                count += weight
                squares += weight * ((adaptive_avg_pool2d(out, k) - adaptive_avg_pool2d(t, k)) ** 2).mean()
        losses.append(squares / count)
    return losses


def test_reviewkd_fuses_each_level_with_the_ones_below(student, teacher, batch):
    distiller = build("reviewkd")
    expected = slow(distiller, student, teacher)
    assert_close(distiller.loss(student, teacher, batch), sum(expected))
    assert_close([*distiller.observed()], [one.detach() for one in expected[::-1]])


@pytest.mark.parametrize(("height", "weights"), [(8, [1, 0.5, 0.25, 0.125]), (4, [1, 0.5, 0.25]), (1, [1])])
def test_reviewkds_pyramid_weighs_only_the_sizes_below_the_teachers(height, weights):
    ones = torch.ones(2, 3, height, height)
    scaled = pyramid_loss(3 * ones, ones)
    assert_close(scaled, torch.tensor(4.0))  # every size differs by 2
    noise = torch.randn(2, 3, height, height, dtype=torch.float64)
    sizes = [k for k in (4, 2, 1) if k < height]
    parts = [noise.square().mean(), *(adaptive_avg_pool2d(noise, k).square().mean() for k in sizes)]
    expected = sum(w * part for w, part in zip(weights, parts, strict=True)) / sum(weights)
    assert_close(pyramid_loss(noise, torch.zeros_like(noise)), expected)


def test_reviewkd_has_no_more_than_512_channels_in_the_middle():
    wide = shapes("vgg8", [(3, 8), (4, 8), (5, 4), (6, 2)], embedding=700)
    assert build("reviewkd", wide, TEACHER).levels[-1].inward[0].weight.shape == (512, 700, 1, 1)
    assert build("reviewkd", STUDENT, TEACHER).levels[-1].inward[0].weight.shape == (7, 7, 1, 1)


def test_reviewkd_needs_the_teachers_pre_activations():
    bare = shapes("torchvision.resnet34", [(3, 8), (4, 8), (5, 4), (6, 2)], embedding=7)
    bare = type(bare)(bare.network, bare.stages, (), bare.embedding, bare.classes)
    distiller = build("reviewkd")
    assert "torchvision.resnet34 gives no pre-activations" in distiller.inapplicable(STUDENT, bare)
    assert distiller.inapplicable(bare, TEACHER) is None
