"""Networks from elsewhere, read through hooks on modules that are named."""

import copy
import pickle

import pytest
import torch
import torchvision
from torch import nn

from bench.models import build, shapes, torchvision_stages
from bench.models.hooked import HookedNetwork
from bench.models.resolution import stages_by_resolution
from bench.models.torchvision_network import torchvision_network
from bench.models.weights import load_weights
from bench.spec import DataSpec, NetworkSpec
from bench.train.networks import network_shapes
from bench.types import RequestError

STAGES = ["relu", "layer1", "layer2", "layer3", "layer4"]


@pytest.fixture
def plain():
    torch.manual_seed(0)
    return torchvision.models.resnet18(num_classes=10)


@pytest.fixture
def hooked(plain):
    return HookedNetwork(copy.deepcopy(plain), STAGES)


@pytest.fixture
def images():
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


class Small(nn.Module):
    """A network that changes its maps in place, drops its embedding in place and has parts that take no part."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.relu = nn.ReLU(inplace=True)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Sequential(nn.Dropout(0.5, inplace=True), nn.Linear(4, 5))
        self.idle = nn.Conv2d(1, 1, 1)
        self.tokens = nn.Flatten(2)

    def forward(self, x):
        x = self.relu(self.conv(x))
        self.tokens(x)
        return self.head(self.pool(x).flatten(1))


def registered_hooks(network):
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in network.modules())


@pytest.mark.parametrize("training", [True, False])
def test_a_hooked_network_gives_the_logits_of_the_plain_one(training, plain, hooked, images):
    assert torch.equal(hooked.train(training)(images), plain.train(training)(images))


def test_a_hooked_network_built_by_name_gives_the_logits_of_the_plain_one(plain, images):
    torch.manual_seed(0)
    network = build("torchvision.resnet18", num_classes=10, stages=STAGES)
    assert torch.equal(network.eval()(images), plain.eval()(images))


def test_the_stages_are_the_outputs_of_the_named_modules(plain, hooked, images):
    stem = plain.eval().relu(plain.bn1(plain.conv1(images)))
    first = plain.layer1(plain.maxpool(stem))
    features = hooked.eval().features(images)
    assert torch.equal(features.stages[0], stem)
    assert torch.equal(features.stages[1], first)


def test_shapes_of_a_hooked_network(hooked):
    found = shapes(hooked, "torchvision.resnet18", 3, 64, 96)
    assert found.stages == ((64, 32, 48), (64, 16, 24), (128, 8, 12), (256, 4, 6), (512, 2, 3))
    assert found.preactivations == found.stages
    assert (found.embedding, found.classes) == (512, 10)


@pytest.mark.parametrize(  # with 384 pixels, all dimensions of Swin's first maps are 96
    ("name", "pixels"), [("swin_t", 64), ("swin_t", 384), ("convnext_tiny", 64), ("resnet18", 64)]
)
def test_maps_have_their_channels_first_wherever_the_network_has_them(name, pixels):
    stages = ["layer1", "layer2"] if name == "resnet18" else ["features.1", "features.3"]
    channels = 64 if name == "resnet18" else 96
    with torch.device("meta"):
        network = build(f"torchvision.{name}", num_classes=7, stages=stages)
    found = shapes(network, name, 3, pixels, pixels)
    high = pixels // 4
    assert found.stages == ((channels, high, high), (2 * channels, high // 2, high // 2))
    assert found.of_tokens == (name == "swin_t")


def test_permuted_maps_are_those_of_the_network():
    torch.manual_seed(0)
    network = build("torchvision.swin_t", num_classes=7, stages=["features.1.0.norm2", "permute"]).eval()
    features = network.features(torch.randn(2, 3, 64, 64))
    assert all(module.training is False for module in network.modules())
    assert torch.equal(network.network.avgpool(features.stages[1]).flatten(1), features.embedding)
    centred = features.stages[0].mean(dim=1)  # a norm's output has mean 0 over the channels
    assert torch.allclose(centred, torch.zeros_like(centred), atol=1e-5)


def test_shapes_of_a_hooked_network_without_memory():
    with torch.device("meta"):
        network = build("torchvision.mobilenet_v2", num_classes=7, stages=["features.0", "features.3", "features.18"])
    found = shapes(network, "torchvision.mobilenet_v2", 3, 32, 32)
    assert found.stages == ((32, 16, 16), (24, 8, 8), (1280, 1, 1))


def test_the_embedding_is_the_input_of_the_classifier_found(hooked, images):
    features = hooked.eval().features(images)
    assert torch.equal(hooked.network.fc(features.embedding), features.logits)
    assert features.classifier.weight is hooked.network.fc.weight


def test_a_classifier_that_is_not_the_last_linear_layer_is_not_given(plain, images):
    network = nn.Sequential(plain, nn.ReLU(), nn.Linear(10, 7))
    features = HookedNetwork(network, ["0.layer1"], classifier="0.fc").features(images)
    assert features.classifier is None


def test_the_stages_stand_in_for_preactivations_that_are_not_named(hooked, images):
    features = hooked.eval().features(images, preactivations=True)
    assert all(one is other for one, other in zip(features.stages, features.preactivations, strict=True))


def test_named_preactivations_are_read_before_a_relu_in_place(images):
    torch.manual_seed(0)
    network = HookedNetwork(Small(), ["relu"], preactivations=["conv"])
    features = network.features(images, preactivations=True)
    assert features.preactivations[0].min() < 0
    assert torch.equal(features.preactivations[0].relu(), features.stages[0])


def test_asking_for_preactivations_changes_no_other_bit(plain, images):
    before = ["bn1", "layer1.1.bn2", "layer2.1.bn2", "layer3.1.bn2", "layer4.1.bn2"]
    one, other = (HookedNetwork(copy.deepcopy(plain), STAGES, preactivations=before) for _ in range(2))
    without, with_them = one.features(images), other.features(images, preactivations=True)
    assert all(torch.equal(a, b) for a, b in zip(without.stages, with_them.stages, strict=True))
    assert torch.equal(without.logits, with_them.logits)
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def test_the_embedding_is_read_before_a_dropout_in_place(images):
    torch.manual_seed(0)
    features = HookedNetwork(Small(), ["relu"], classifier="head").features(images)
    assert torch.equal(features.embedding, features.stages[0].mean((2, 3), keepdim=True).flatten(1))


def test_gradients_flow_through_a_stage_and_past_it(hooked, images):
    features = hooked.features(images)
    features.stages[1].square().sum().backward(retain_graph=True)
    assert hooked.network.conv1.weight.grad is not None
    assert hooked.network.layer2[0].conv1.weight.grad is None
    features.logits.square().sum().backward()
    assert all(parameter.grad is not None for parameter in hooked.parameters())


def test_the_last_stage_depends_on_every_trunk_parameter_and_on_no_other(hooked, images):
    hooked.features(images).stages[-1].square().sum().backward()
    reached = {parameter for parameter in hooked.parameters() if parameter.grad is not None}
    assert reached == {parameter for module in hooked.trunk() for parameter in module.parameters()}


def test_the_trunk_ends_with_the_child_that_holds_the_last_stage(plain):
    network = HookedNetwork(plain, ["relu", "layer1", "layer2.0"])
    assert network.trunk() == [plain.conv1, plain.bn1, plain.relu, plain.maxpool, plain.layer1, plain.layer2]


def test_no_hook_and_no_tensor_is_left_after_a_call(hooked, images):
    names = set(vars(hooked))
    hooked.features(images)
    assert registered_hooks(hooked) == 0
    assert set(vars(hooked)) == names


def test_no_hook_is_left_after_a_failed_call(hooked):
    with pytest.raises(RuntimeError):
        hooked.features(torch.zeros(2, 5, 64, 64))
    assert registered_hooks(hooked) == 0


def test_the_state_dict_has_the_names_of_the_wrapped_network(plain, hooked):
    assert list(hooked.state_dict()) == list(plain.state_dict())


def test_a_state_dict_goes_from_the_plain_network_to_the_hooked_and_back(plain, hooked):
    torch.manual_seed(3)
    other = torchvision.models.resnet18(num_classes=10)
    hooked.load_state_dict(other.state_dict())
    plain.load_state_dict(hooked.state_dict())
    assert all(torch.equal(tensor, plain.state_dict()[key]) for key, tensor in other.state_dict().items())


def test_a_hooked_network_inside_another_module_saves_and_loads(hooked):
    pair = nn.ModuleDict({"teacher": nn.Linear(2, 2), "student": hooked})
    twin = copy.deepcopy(pair)
    nn.init.zeros_(twin["student"].network.fc.weight)
    twin.load_state_dict(pair.state_dict())
    assert "student.fc.weight" in pair.state_dict()
    assert torch.equal(twin["student"].network.fc.weight, hooked.network.fc.weight)


def test_a_published_checkpoint_is_loaded_into_a_hooked_network(plain, tmp_path):
    torch.save(plain.state_dict(), tmp_path / "resnet18.pth")
    network = build("torchvision.resnet18", num_classes=10, stages=STAGES)
    load_weights(network, tmp_path / "resnet18.pth")
    assert torch.equal(network.network.fc.weight, plain.fc.weight)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda network: pickle.loads(pickle.dumps(network))])
def test_a_copy_shares_nothing_and_computes_the_same(copied, hooked, images):
    twin = copied(hooked.eval())
    assert torch.equal(twin(images), hooked(images))
    nn.init.zeros_(twin.network.fc.weight)
    assert hooked.network.fc.weight.any()
    assert list(twin.state_dict()) == list(hooked.state_dict())


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "densenet121"])
def test_images_may_have_any_number_of_channels(name):
    stages = {"resnet18": ["layer4"]}.get(name, ["features"])
    network = build(f"torchvision.{name}", num_classes=3, in_channels=1, stages=stages).eval()
    assert network(torch.zeros(2, 1, 32, 32)).shape == (2, 3)


def test_a_network_with_auxiliary_heads_trains_without_them():
    network = build("torchvision.googlenet", num_classes=10, stages=["conv1", "inception3b", "inception5b"]).train()
    assert network.features(torch.zeros(2, 3, 64, 64)).logits.shape == (2, 10)


def test_an_unknown_torchvision_network_is_refused_with_the_nearest_one():
    with pytest.raises(RequestError, match=r"'torchvision.resnet19'\. Did you mean 'resnet1\d+'\? Known: alexnet"):
        build("torchvision.resnet19", num_classes=10, stages=STAGES)


def meta(name):
    with torch.device("meta"):
        return torchvision_network(name, num_classes=7, in_channels=3)


@pytest.mark.parametrize(  # one per way in which its networks are made of modules
    "name",
    ["alexnet", "resnet18", "shufflenet_v2_x1_0", "mnasnet0_5", "regnet_x_400mf", "mobilenet_v3_small", "swin_t"],
)
def test_the_stages_written_down_are_those_by_resolution(name):
    assert stages_by_resolution(meta(name)) == torchvision_stages.stages_of(f"torchvision.{name}")


@pytest.mark.slow
def test_the_stages_of_every_network_of_torchvision_are_written_down(tmp_path):
    torchvision_stages.write_stages(tmp_path / "stages.json")
    assert (tmp_path / "stages.json").read_text() == torchvision_stages.FILE.read_text()


@pytest.mark.parametrize(
    ("name", "stages"),
    [
        ("resnet50", ("relu", "layer1", "layer2", "layer3", "layer4")),
        ("densenet121", ("features.relu0", *(f"features.denseblock{n}" for n in (1, 2, 3)), "features.norm5")),
        ("mobilenet_v2", tuple(f"features.{n}" for n in (1, 3, 6, 13, 18))),
        ("inception_v3", ("Conv2d_2b_3x3", "Conv2d_4a_3x3", "Mixed_5d", "Mixed_6e", "Mixed_7c")),
        ("swin_t", ("features.1", "features.3", "features.5", "permute")),
    ],
)
def test_a_stage_is_the_last_output_at_its_resolution(name, stages):
    assert torchvision_stages.stages_of(f"torchvision.{name}") == stages


def test_a_network_built_without_stages_has_those_by_resolution():
    with torch.device("meta"):
        network = build("torchvision.resnet18", num_classes=10)
    assert network.stage_paths == tuple(STAGES)


class OneSize(nn.Module):
    """A network that takes images of 8 x 8 pixels only, with maps (B, H, W, C) of 4 channels, and a norm over them."""

    def __init__(self, channels=4):
        super().__init__()
        self.conv = nn.Conv2d(3, channels, 1)
        self.norm = nn.LayerNorm(channels)
        self.fc = nn.Linear(8 * 8 * channels, 5)

    def forward(self, x):
        return self.fc(self.norm(self.conv(x).permute(0, 2, 3, 1)).flatten(1))


def test_a_network_of_one_size_of_images_needs_its_stages_named():
    with pytest.raises(RequestError, match="stages: it does not take images of both 192x256 and 256x352"):
        HookedNetwork(OneSize())


def test_maps_of_a_network_of_one_size_are_read_by_their_sides():
    features = HookedNetwork(OneSize(), ["conv", "norm"]).features(torch.zeros(2, 3, 8, 8))
    assert [stage.shape for stage in features.stages] == [(2, 4, 8, 8), (2, 4, 8, 8)]


def test_maps_that_can_be_read_in_two_ways_are_refused_with_both():
    network = HookedNetwork(OneSize(channels=8), ["norm"])
    with pytest.raises(RequestError, match="either 8 channels of 8x8, or 8 channels of 8x8"):
        network.features(torch.zeros(2, 3, 8, 8))


def test_an_unknown_module_is_refused_with_the_nearest_one():
    with pytest.raises(
        RequestError, match=r"'torchvision.resnet18': the network has no module 'layer5'\. Did you mean"
    ):
        build("torchvision.resnet18", num_classes=10, stages=["layer1", "layer5"])


def test_an_unknown_part_of_a_module_is_refused_with_the_parts_there_are():
    with pytest.raises(RequestError, match=r"no module 'layer1\.2'\. .*Known: layer1\.0, layer1\.1$"):
        build("torchvision.resnet18", num_classes=10, stages=["layer1.2"])


def test_preactivations_that_do_not_match_the_stages_are_refused():
    with pytest.raises(RequestError, match="preactivations: 2 modules for 1 stages; name one for each stage, or none"):
        HookedNetwork(Small(), ["relu"], preactivations=["conv", "relu"])


def test_a_network_without_a_linear_layer_must_name_its_classifier():
    with pytest.raises(RequestError, match=r"classifier: the network has no nn\.Linear"):
        HookedNetwork(nn.Sequential(nn.Conv2d(3, 4, 3)), ["0"])


def test_a_module_that_takes_no_part_is_named(images):
    with pytest.raises(RequestError, match="modules that take no part in the forward pass: idle"):
        HookedNetwork(Small(), ["conv", "idle"]).features(images)


def test_stages_in_another_order_than_the_networks_are_refused(plain, images):
    with pytest.raises(RequestError, match=r"another order: name layer1, layer2$"):
        HookedNetwork(plain, ["layer2", "layer1"]).features(images)


def test_a_stage_that_is_no_map_is_refused(images):
    with pytest.raises(RequestError, match=r"module 'tokens' gives \(2, 4, 3844\); a stage is maps"):
        HookedNetwork(Small(), ["tokens"]).features(images)


def test_a_classifier_whose_input_is_a_map_is_refused(images):
    with pytest.raises(RequestError, match=r"the classifier 'pool' gets \(2, 4, 62, 62\); an embedding is"):
        HookedNetwork(Small(), ["relu"], classifier="pool").features(images)


def test_a_network_that_gives_more_than_logits_is_refused(images):
    class Two(Small):
        def forward(self, x):
            return super().forward(x), x

    with pytest.raises(RequestError, match="the network gives tuple; logits are one tensor"):
        HookedNetwork(Two(), ["relu"]).features(images)


def test_asking_for_shapes_leaves_the_random_numbers_as_they_were():
    data = DataSpec(name="digits", classes=10, size=(64, 64), mean=(0.0,), std=(1.0,), augment="none")
    before = torch.get_rng_state()
    network_shapes(NetworkSpec(network="torchvision.regnet_y_400mf"), data)  # built on the CPU, not without content
    assert torch.equal(torch.get_rng_state(), before)
