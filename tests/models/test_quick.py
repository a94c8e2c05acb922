"""Networks whose weights nobody needs are built quickly: as shapes alone, or with weights that repeat."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from bench.models import build, shapes
from bench.models.quick import DRAWN, QuickDraws, without_content


@pytest.mark.parametrize("name", ["resnet8", "vgg8", "MobileNetV2", "torchvision.densenet121", "timm.test_vit"])
def test_a_network_without_content_has_the_shapes_of_one_with_content(name):
    with without_content():
        network = build(name, num_classes=7, image_size=(32, 32))
        found = shapes(network, name, 3, 32, 32)
    assert all(value.is_meta for value in network.state_dict().values())
    assert found == shapes(build(name, num_classes=7, image_size=(32, 32)), name, 3, 32, 32)


def test_a_norm_that_does_not_fit_its_maps_is_refused_without_content():
    with without_content(), pytest.raises(RuntimeError, match="4"):
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(4))(torch.zeros(2, 3, 9, 9))


def test_a_norm_without_content_keeps_its_statistics_for_the_backward_pass():
    with without_content():
        layer = nn.BatchNorm2d(8)
        layer(torch.zeros(2, 8, 9, 9)).sum().backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.shape == (8,)


def test_quick_draws_have_the_spread_of_whole_ones():
    torch.manual_seed(0)
    with QuickDraws():
        normal, uniform = torch.empty(400, 500).normal_(1, 2), torch.empty(400, 500).uniform_(-1, 1)
    assert_close(torch.stack([normal.mean(), normal.std()]), torch.tensor([1.0, 2.0]), rtol=0, atol=0.05)
    assert_close(torch.stack([uniform.mean(), uniform.std()]), torch.tensor([0, 3**-0.5]), rtol=0, atol=0.05)
    assert len(normal.unique(dim=0)) == 400  # no row repeats


def test_a_small_tensor_is_drawn_as_without_quick_draws():
    torch.manual_seed(0)
    with QuickDraws():
        quick = nn.init.kaiming_normal_(torch.empty(DRAWN // 9, 9))
    torch.manual_seed(0)
    assert torch.equal(quick, nn.init.kaiming_normal_(torch.empty(DRAWN // 9, 9)))
