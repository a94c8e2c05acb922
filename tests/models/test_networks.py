"""What holds for every registered network, whatever its structure."""

import copy
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

from bench.data.choice import MIN_SIZE
from bench.models import NETWORKS, build, shapes
from bench.types import RequestError

# One of each structure; the others differ from them in depth or width alone.
FAMILIES = ("resnet8", "resnet8x4", "ResNet50", "wrn_16_1", "wrn_16_2", "vgg8", "vgg11", "MobileNetV2", "ShuffleV1")
FAMILIES += ("ShuffleV2", "conv5")
ALL = [name if name in FAMILIES else pytest.param(name, marks=pytest.mark.slow) for name in NETWORKS]


def built(name, num_classes=10, in_channels=3):
    torch.manual_seed(0)
    return build(name, num_classes=num_classes, in_channels=in_channels)


def images(batch=2, channels=3, height=32, width=32):
    return torch.randn(batch, channels, height, width, generator=torch.Generator().manual_seed(1))


def all_tensors(features):
    return [*features.stages, *features.preactivations, features.embedding, features.logits]


def test_importing_the_registry_imports_no_torch():
    code = "import sys, bench.models; assert 'resnet20' in bench.models.NETWORKS; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", FAMILIES)
def test_every_network_takes_images_of_the_smallest_size(name):
    with torch.device("meta"):
        network = built(name)
    assert min(min(height, width) for _, height, width in shapes(network, name, 3, MIN_SIZE, MIN_SIZE).stages) >= 1


@pytest.mark.parametrize("name", FAMILIES)
def test_the_last_stage_depends_on_every_trunk_parameter_and_on_no_other(name):
    network = built(name)
    features = network.features(images())
    features.stages[-1].square().sum().backward()
    reached = {parameter for parameter in network.parameters() if parameter.grad is not None}
    assert reached == {parameter for module in network.trunk() for parameter in module.parameters()}


@pytest.mark.parametrize("name", FAMILIES)
def test_the_classifier_and_what_follows_the_last_stage_are_reached_from_the_logits(name):
    network = built(name)
    network(images()).square().sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


@pytest.mark.parametrize("name", FAMILIES)
def test_asking_for_preactivations_changes_no_other_bit(name):
    plain, asked = built(name), built(name)
    without, with_them = plain.features(images()), asked.features(images(), preactivations=True)
    assert without.preactivations == ()
    assert len(with_them.preactivations) == len(with_them.stages)
    for one, other in zip(without.stages, with_them.stages, strict=True):
        assert torch.equal(one, other)
    assert torch.equal(without.embedding, with_them.embedding)
    assert torch.equal(without.logits, with_them.logits)
    for one, other in zip(plain.state_dict().values(), asked.state_dict().values(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_statistics_of_every_norm_move_once_in_a_forward_pass(name):
    network = built(name)
    network.features(images(), preactivations=True)
    counts = [counter.item() for key, counter in network.state_dict().items() if key.endswith("num_batches_tracked")]
    assert set(counts) == {1}


@pytest.mark.parametrize("name", FAMILIES)
def test_the_embedding_is_the_mean_of_the_final_map(name):
    features = built(name).features(images())
    assert torch.equal(features.final.mean(dim=(2, 3)), features.embedding)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_classifier_makes_the_logits_of_the_embedding(name):
    features = built(name).features(images())
    assert_close(F.linear(features.embedding, features.classifier.weight, features.classifier.bias), features.logits)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_norms_make_the_preactivations(name):
    network, outputs = built(name), {}
    for norm in network.norms():
        norm.register_forward_hook(lambda module, _, output: outputs.update({module: output.detach()}))
    features = network.features(images(), preactivations=True)
    pairs = zip(network.norms(), features.preactivations[1:], strict=bool(network.norms()))
    for norm, preactivation in pairs:
        residual = name.startswith("res") or name in ("ResNet50", "MobileNetV2")  # they add a shortcut
        assert outputs[norm].shape == preactivation.shape
        assert residual or torch.equal(outputs[norm], preactivation)
    assert [one.weight for one in features.norms] == [norm.weight for norm in network.norms()]
    assert bool(features.norms) == (name not in ("ShuffleV1", "ShuffleV2"))


@pytest.mark.parametrize("name", FAMILIES)
def test_the_embedding_is_the_input_of_the_classifier(name):
    network = built(name).eval()
    classifier = [module for module in network.modules() if isinstance(module, nn.Linear)][-1]
    features = network.features(images())
    assert torch.equal(classifier(features.embedding), features.logits)
    assert torch.equal(network(images()), features.logits)


@pytest.mark.parametrize("name", FAMILIES)
def test_nothing_that_is_returned_is_changed_by_what_follows(name):
    network = built(name)
    for tensor in all_tensors(network.features(images(), preactivations=True)):
        assert tensor._version == 0  # torch counts a tensor's changes in place


@pytest.mark.parametrize("name", ["resnet8", "ResNet50", "ShuffleV1", "conv5"])
def test_a_stage_is_the_relu_of_its_preactivation(name):
    features = built(name).features(images(), preactivations=True)
    for stage, before in zip(features.stages[1:], features.preactivations[1:], strict=True):
        assert before.min() < 0
        assert torch.equal(stage, before.relu())


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize(
    ("height", "width"),
    [(32, 48), (33, 35), *(pytest.param(*size, marks=pytest.mark.slow) for size in ((48, 32), (64, 64), (96, 96)))],
)
def test_any_image_size_gives_one_row_an_image(name, height, width):
    network = built(name).eval()
    with torch.no_grad():
        features = network.features(images(2, 3, height, width), preactivations=True)
    assert features.logits.shape == (2, 10)
    assert features.embedding.ndim == 2
    assert [s.shape for s in features.stages] == [p.shape for p in features.preactivations]
    assert all(torch.isfinite(tensor).all() for tensor in all_tensors(features))


@pytest.mark.parametrize("name", ["resnet8", "vgg8", "ShuffleV1", "conv5"])
def test_the_embedding_is_the_mean_of_the_last_stage_over_all_positions(name):
    features = built(name).eval().features(images(2, 3, 64, 96))
    assert_close(features.embedding, features.stages[-1].flatten(2).mean(2))


@pytest.mark.parametrize("channels", [1, 2, 4])
@pytest.mark.parametrize("name", FAMILIES)
def test_images_may_have_any_number_of_channels(name, channels):
    network = built(name, num_classes=7, in_channels=channels).eval()
    assert network(images(2, channels)).shape == (2, 7)


@pytest.mark.parametrize(
    ("height", "sizes"), [(32, [32, 16, 8, 4, 4]), (64, [64, 32, 16, 8, 4]), (96, [96, 48, 24, 12, 12])]
)
def test_vgg_pools_a_fourth_time_at_height_64_only(height, sizes):
    found = shapes(built("vgg8"), "vgg8", 3, height, 32)
    assert [stage[1] for stage in found.stages] == sizes


@pytest.mark.parametrize(
    ("height", "width", "sizes"),
    [
        (32, 32, [(32, 32), (16, 16), (8, 8), (4, 4), (4, 4)]),
        (240, 320, [(240, 320), (120, 160), (60, 80), (30, 40), (30, 40)]),
    ],
)
def test_conv5_halves_its_maps_three_times(height, width, sizes):
    with torch.device("meta"):
        network = build("conv5", num_classes=10, in_channels=1)
    found = shapes(network, "conv5", 1, height, width)
    assert [stage[1:] for stage in found.stages] == sizes


def test_conv5s_summary_states_its_parameters():
    parameters = sum(p.numel() for p in build("conv5", num_classes=100).parameters())
    assert NETWORKS["conv5"].summary.endswith(f"; {parameters / 1e6:.2f} M parameters")


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("name", ALL)
def test_every_network_takes_luminance_and_chrominance(name, channels):
    with torch.device("meta"):
        network = build(name, num_classes=10, in_channels=channels)
    convolution = next(module for module in network.modules() if isinstance(module, nn.Conv2d))
    assert convolution.in_channels == channels
    assert shapes(network, name, channels, 32, 32).classes == 10


@pytest.mark.parametrize("name", ALL)
def test_shapes_of_a_network_without_memory_are_those_of_its_features(name):
    with torch.device("meta"):
        network = build(name, num_classes=10)
    found = shapes(network, name, 3, 32, 32)
    features = network.features(images().to("meta"), preactivations=True)
    assert found.network == name
    assert [(2, *stage) for stage in found.stages] == [tuple(stage.shape) for stage in features.stages]
    assert [(2, *stage) for stage in found.preactivations] == [tuple(p.shape) for p in features.preactivations]
    assert (2, found.embedding) == features.embedding.shape
    assert found.classes == 10


def test_shapes_leaves_modes_statistics_and_gradients_as_they_were():
    network = built("wrn_16_1").train()
    network.block1.eval()  # a frozen part stays in eval mode
    modes = [module.training for module in network.modules()]
    before = copy.deepcopy(network.state_dict())
    random = torch.get_rng_state()
    shapes(network, "wrn_16_1", 3, 32, 48)
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(before[key], tensor) for key, tensor in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert torch.equal(random, torch.get_rng_state())


@pytest.mark.parametrize("name", ["resnet8x4", "ResNet50", "wrn_16_2", "vgg11", "MobileNetV2", "conv5"])
def test_convolutions_start_with_the_published_spread(name):
    for module in built(name).modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 10_000:
            expected = (2 / (module.kernel_size[0] ** 2 * module.out_channels)) ** 0.5
            assert module.weight.std().item() == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize("name", ["ShuffleV1", "ShuffleV2"])
def test_shufflenets_start_as_pytorch_draws_them(name):
    for module in built(name).modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 10_000:
            fan_in = module.weight[0].numel()
            assert module.weight.std().item() == pytest.approx((1 / (3 * fan_in)) ** 0.5, rel=0.03)


@pytest.mark.parametrize("name", ["vgg8", "MobileNetV2", "conv5"])
def test_classifiers_of_vgg_mobilenet_and_conv5_start_small(name):
    classifier = [module for module in built(name, num_classes=100).modules() if isinstance(module, nn.Linear)][-1]
    assert classifier.weight.std().item() == pytest.approx(0.01, rel=0.03)
    assert not classifier.bias.any()


def test_a_wide_resnet_starts_with_a_zero_bias():
    assert not built("wrn_16_1").fc.bias.any()


def test_the_same_seed_draws_the_same_weights():
    one, other = built("resnet8").state_dict(), built("resnet8").state_dict()
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_an_unknown_name_is_refused_with_the_nearest_one():
    with pytest.raises(RequestError, match=r"unknown network 'wrn_40_22'\. Did you mean 'wrn_40_2'\? Known: "):
        build("wrn_40_22", num_classes=10)


def test_a_name_in_the_wrong_case_is_understood():
    with pytest.raises(RequestError, match="Did you mean 'ResNet50'"):
        build("resnet50", num_classes=10)


def test_stages_of_a_registered_network_cannot_be_named():
    with pytest.raises(RequestError, match="network 'resnet8': its stages, classifier and pre-activations are fixed"):
        build("resnet8", num_classes=10, stages=["layer1"])
