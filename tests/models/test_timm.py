"""timm's networks give timm's own features: stages, embedding and logits, at small sizes and with random weights."""

import pytest
import timm
import torch

from bench.models import build, timm_names
from bench.models.timm_network import TimmNetwork
from bench.suite.pairs import NetworkChoice, TeacherChoice
from bench.types import RequestError

SIZE = (32, 32)  # pixels
FAMILIES = {  # the settings that make them small, the stages by resolution, whether the embedding is a map's mean
    "test_resnet": ({}, [0, 1, 2, 3, 4], True),
    "regnetx_002": ({}, [0, 1, 2, 3, 4], True),
    "test_efficientnet": ({}, [0, 1, 2, 3, 4], True),
    "mobilenetv3_small_050": ({}, [0, 1, 2, 3, 4], False),
    "test_convnext": ({}, [0, 1, 2, 3], False),
    "densenet121": ({"block_config": (2, 2, 2, 2), "growth_rate": 8}, [0, 1, 2, 3, 4], True),
    "vgg11": ({"mlp_ratio": 0.01}, [0, 1, 2, 3, 4, 5], False),
    "test_vit": ({"img_size": SIZE}, [1, 2, 3, 5], False),
    "deit_tiny_distilled_patch16_224": ({"img_size": SIZE, "embed_dim": 24, "depth": 4}, [0, 1, 2, 3], False),
    "swin_tiny_patch4_window7_224": (
        {"img_size": SIZE, "embed_dim": 16, "depths": (1, 1, 2, 1), "num_heads": (1, 2, 2, 4)},
        [0, 1, 2, 3],
        True,
    ),
    "test_maxvit": ({"img_size": SIZE}, [0, 1, 2, 3, 4], True),
    "mixer_s16_224": ({"img_size": SIZE}, [1, 3, 5, 7], True),
}


OF_TOKENS = {"test_vit", "deit_tiny_distilled_patch16_224", "swin_tiny_patch4_window7_224", "mixer_s16_224"}


def images(channels=3):
    return torch.randn(2, channels, *SIZE, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", FAMILIES)
def test_the_features_are_timms_own(name):
    settings, stages, is_mean = FAMILIES[name]
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=7, **settings).eval()
    network = TimmNetwork(model).eval()
    with torch.no_grad():
        features = network.features(images())
        last, maps = model.forward_intermediates(images(), indices=stages)
        embedding, logits = model.forward_head(last, pre_logits=True), model(images())
    assert network.indices == stages
    assert features.of_tokens == (name in OF_TOKENS)
    for found, wanted in zip(features.stages, maps, strict=True):
        assert torch.allclose(found, wanted, rtol=0, atol=1e-6)
    assert torch.allclose(features.logits, logits, rtol=0, atol=1e-6)
    if embedding.ndim == 2:
        assert torch.allclose(features.embedding, embedding, rtol=0, atol=1e-6)
    assert (network.linear_classifier() is None) == (features.classifier is None)
    if features.classifier is not None:
        weight, bias = features.classifier.weight, features.classifier.bias
        assert torch.allclose(features.embedding @ weight.T + bias, logits, rtol=0, atol=1e-5)
    assert (features.final is not None) is is_mean
    if is_mean:
        assert torch.allclose(features.final.mean(dim=(2, 3)), features.embedding, rtol=0, atol=1e-5)


def test_tokens_become_a_map_next_to_the_class_token():
    torch.manual_seed(0)
    network = build("timm.test_vit", num_classes=7, image_size=SIZE).eval()
    tokens = []
    network.network.blocks[-1].register_forward_hook(lambda _, __, output: tokens.append(output))
    features = network.features(images())
    assert torch.equal(features.stages[-1].flatten(2).transpose(1, 2), tokens[0][:, 1:])
    assert torch.equal(features.class_tokens[-1], tokens[0][:, 0])
    assert len(features.class_tokens) == len(features.stages)


def test_a_network_that_pools_its_tokens_has_no_class_token():
    network = TimmNetwork(timm.create_model("mixer_s16_224", num_classes=7, img_size=SIZE))
    assert network.features(images()).class_tokens == ()


def test_a_network_takes_the_channels_the_classes_and_the_size_that_are_asked_for():
    network = build("timm.test_vit", num_classes=7, in_channels=1, image_size=(48, 32), stages=[0, 5])
    features = network.features(torch.zeros(2, 1, 48, 32))
    assert [stage.shape[-2:] for stage in features.stages] == [(3, 2), (3, 2)]
    assert features.logits.shape == (2, 7)


def test_the_state_dict_has_timms_names():
    network = build("timm.test_resnet", num_classes=7)
    model = timm.create_model("test_resnet", num_classes=7)
    assert list(network.state_dict()) == list(model.state_dict())
    network.load_state_dict(model.state_dict())
    assert torch.equal(network.network.fc.weight, model.fc.weight)


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_the_trunk_is_what_the_last_stage_depends_on(name):
    network = build(f"timm.{name}", num_classes=7, image_size=SIZE)
    network.features(images()).stages[-1].square().sum().backward()
    within = {parameter for module in network.trunk() for parameter in module.parameters()}
    own = {network.network.cls_token, network.network.pos_embed} if name == "test_vit" else set()
    assert within | own == {parameter for parameter in network.parameters() if parameter.grad is not None}


def test_an_unknown_network_of_timm_is_refused_with_the_nearest_one():
    with pytest.raises(RequestError, match=r"unknown network 'timm.resnet19'\. Did you mean 'resnet"):
        build("timm.resnet19", num_classes=7)


@pytest.mark.parametrize(
    ("stages", "reason"), [([0, 5], "there is no 5: timm gives 0 to 4"), ([2, 1], "name each once, in ascending order")]
)
def test_stages_that_timm_does_not_give_are_refused(stages, reason):
    with pytest.raises(RequestError, match=f"timm.test_resnet': stages: .*{reason}"):
        build("timm.test_resnet", num_classes=7, stages=stages)


def test_a_suite_without_the_extra_is_told_how_to_install_it(monkeypatch):
    monkeypatch.setattr(timm_names, "find_spec", lambda name: None)
    timm_names.stages_of.cache_clear()
    with pytest.raises(ValueError, match=r"network 'timm.resnet18' needs the package timm.*\[timm\]"):
        NetworkChoice.model_validate("timm.resnet18")


def test_the_stages_of_a_bare_name_are_part_of_the_specification():
    assert NetworkChoice.model_validate("timm.test_resnet").spec.stages == (0, 1, 2, 3, 4)


def test_pretrained_weights_are_named_by_timms_tag():
    assert TeacherChoice.model_validate({"network": "timm.test_resnet", "pretrained": True}).weights == "r160_in1k"


def test_weights_that_timm_does_not_publish_are_refused():
    with pytest.raises(ValueError, match=r"timm publishes no 'r161_in1k' for test_resnet\. Did you mean 'r160_in1k'"):
        TeacherChoice.model_validate({"network": "timm.test_resnet", "weights": "r161_in1k"})
