"""Networks against the golden files: the published names and shapes, and numbers computed in float64."""

import json
from pathlib import Path

import pytest
import torch

from bench.models import NETWORKS, build
from tests.conftest import OWN_GOLDENS
from tests.models.test_networks import FAMILIES
from tests.parity.reference import draw, fill

OUR_OWN = {"conv5"}  # networks that nobody published numbers of


def pytest_generate_tests(metafunc):
    """One case per network of every models*.json in the folder that --golden names; in short, one of each structure."""
    if "golden" not in metafunc.fixturenames:
        return
    computes = metafunc.function is test_a_network_reproduces_its_golden_features
    cases = []
    for path in sorted(Path(metafunc.config.getoption("--golden")).glob("models*.json")):
        content = json.loads(path.read_text())
        cases += [
            pytest.param(
                name,
                content["input"],
                golden,
                id=f"{path.stem}-{name}",
                marks=[pytest.mark.slow] if computes and name not in FAMILIES else [],
            )
            for name, golden in content["models"].items()
        ]
    metafunc.parametrize(("name", "source", "golden"), cases)


def built(name, source):
    return build(name, num_classes=source["num_classes"], in_channels=source["shape"][1])


def check_numbers(what, tensor, golden):
    """Compare a tensor with its golden summary, to 1e-9 relative or 1e-12 absolute, whichever is wider."""
    found = {"mean": tensor.mean().item(), "std": tensor.std().item(), "first": tensor.flatten()[:4].tolist()}
    assert list(tensor.shape) == golden["shape"], what
    for key, value in found.items():
        assert value == pytest.approx(golden[key], rel=1e-9, abs=1e-12), f"{what}: {key}"


def test_a_network_has_the_published_names_and_shapes_in_order(name, source, golden):
    with torch.device("meta"):
        network = built(name, source)
    assert sum(parameter.numel() for parameter in network.parameters()) == golden["parameters"]
    found = [(key, list(tensor.shape)) for key, tensor in network.state_dict().items()]
    assert found == list(golden["state_dict"].items())


def test_a_network_reproduces_its_golden_features(name, source, golden):
    dtype = getattr(torch, source["dtype"])
    network = fill(built(name, source).to(dtype)).train(source["mode"] == "train")
    with torch.no_grad():
        features = network.features(draw(source["seed"], *source["shape"]).to(dtype), preactivations=True)
    for kind, found in (("features", features.stages), ("preact_features", features.preactivations)):
        found = (*found, features.embedding)
        assert len(found) == len(golden[kind])
        for index, (tensor, expected) in enumerate(zip(found, golden[kind], strict=True)):
            check_numbers(f"{kind}[{index}]", tensor, expected)
    check_numbers("logits", features.logits, golden["logits"])


@pytest.mark.parametrize("network", sorted(NETWORKS.keys() - OUR_OWN))
def test_every_published_network_has_a_golden(network):
    goldens = [json.loads(path.read_text())["models"] for path in OWN_GOLDENS.glob("models*.json")]
    assert any(network in models for models in goldens)


def test_the_summaries_state_the_golden_parameter_counts():
    models = json.loads((OWN_GOLDENS / "models.json").read_text())["models"]
    for name in NETWORKS.keys() - OUR_OWN:
        assert NETWORKS[name].summary.endswith(f"; {models[name]['parameters'] / 1e6:.2f} M parameters"), name
