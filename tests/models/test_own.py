"""Networks of users' files: registered in a plug-in, or named MODULE:FACTORY, and checked in words."""

import re

import pytest
import torch
import yaml

from bench.models import build, known, own
from bench.models.contract import problems
from bench.models.own import add_networks
from bench.plan.status import run_status, to_train_again
from bench.suite.pairs import NetworkChoice
from bench.terminal.listing import entries, entry_of
from bench.types import RequestError
from bench.workflow import planned
from tests.train.conftest import Bench, cell, document

pytestmark = pytest.mark.usefixtures("forgets_networks")
NETWORK = """
from torch import nn

from bench.models import register_network
from bench.models.base import Network
from bench.types import Features


@register_network("{name}")
class Tiny(Network):
    def __init__(self, num_classes, in_channels):
        super().__init__()
        self.stem = nn.Conv2d(in_channels, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.classifier = nn.Linear(4, num_classes)

    def features(self, x, preactivations=False):
        before = self.norm(self.stem(x))
        stage = before.relu()
        embedding = stage.mean(dim=(2, 3))
        return Features((stage,), (before,) if preactivations else (), embedding, self.classifier(embedding))

    def trunk(self):
        return [self.stem, self.norm]
"""
PLAIN = """
from torch import nn

from bench.models import register_network


@register_network("plain")
def plain(num_classes, in_channels):
    convolution, pool = nn.Conv2d(in_channels, 4, 3, padding=1), nn.MaxPool2d(2)
    return nn.Sequential(convolution, pool, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, num_classes))
"""


@pytest.fixture
def written(tmp_path):
    """Return a way to write a file of networks that are known then."""

    def write(text, name="tiny.py"):
        path = tmp_path / name
        path.write_text(text)
        add_networks([path], ["resnet8"])
        return path

    return write


def test_a_registered_network_is_built_by_its_name(written):
    path = written(NETWORK.format(name="tiny"))
    assert known()["tiny"] == f"from {path}"
    assert build("tiny", num_classes=5, in_channels=1)(torch.zeros(2, 1, 8, 8)).shape == (2, 5)


def test_a_plain_module_has_the_stages_at_which_the_resolution_changes(written):
    written(PLAIN)
    network = build("plain", num_classes=5)
    assert [stage.shape for stage in network.features(torch.zeros(2, 3, 8, 8)).stages] == [(2, 4, 8, 8), (2, 4, 4, 4)]


def test_each_network_of_a_file_with_several_is_built(written):
    written(PLAIN + PLAIN.replace("plain", "other"))
    assert [type(build(name, num_classes=5).network).__name__ for name in ("plain", "other")] == ["Sequential"] * 2


def test_a_network_of_an_installed_module_is_named_by_module_and_factory():
    network = NetworkChoice.model_validate("torchvision.models:squeezenet1_1").network
    assert own.file_of(network)[1] == "torchvision.models"
    assert callable(own.factory_of(network))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (NETWORK.format(name="resnet8"), "the network name 'resnet8' is taken"),
        (NETWORK.format(name="a.b"), "line 9: write the name as plain text without '.' and ':'"),
        ("def f(:", "cannot be read as a method file or one of networks"),
    ],
)
def test_a_file_whose_networks_cannot_be_known_is_refused(written, text, reason):
    with pytest.raises(RequestError, match=reason):
        written(text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("import no_such_module\n" + NETWORK.format(name="tiny"), "cannot be imported: ModuleNotFoundError"),
        (
            PLAIN.replace("in_channels", "channels"),
            "its factory, called with num_classes and in_channels, raises TypeError",
        ),
        (PLAIN.replace("return nn.Seq", "return 3  # nn.Seq"), "its factory returns a int, not an nn.Module"),
        ("import sys\n" + PLAIN + "\n\nsys.exit(0)\n", "tiny.py cannot be imported: SystemExit: 0"),
        (
            PLAIN.replace("return nn.Seq", "raise SystemExit(0)  # "),
            "its factory, called with .*, raises SystemExit: 0",
        ),
    ],
)
def test_a_network_that_cannot_be_built_is_refused_by_name(written, text, reason):
    path = written(text)
    with pytest.raises(RequestError, match=reason):
        build(next(name for name, file in own.FILES.items() if file == path), num_classes=5)


def wrong(written, *changes):
    """Return what is said of the tiny network after a change of its text."""
    text = NETWORK.format(name="tiny")
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    written(text)
    torch.manual_seed(0)
    return "\n".join(problems(lambda: build("tiny", num_classes=5), 5, 3, 8, 8))


def test_nothing_is_said_of_a_network_that_keeps_to_the_contract(written):
    assert wrong(written) == ""


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("(before,) if preactivations else ()", "()", "preactivations: 0 for 1 stages"),
        ("stage.mean(dim=(2, 3))", "stage.mean(dim=3)", "features: raises RuntimeError: mat1 and mat2 shapes"),
        ("Linear(4, num_classes)", "Linear(4, 1000)", r"logits: of shape \(3, 1000\); they are \(B, num_classes\)"),
        ("Features((stage,)", "Features((stage.flatten(2),)", r"stages\[0\]: of shape \(3, 4, 64\); maps are"),
        (
            "self.classifier(embedding))",
            "self.classifier(embedding), of_tokens=True, class_tokens=(stage,))",
            "class_tokens: return one",
        ),
        (
            "self.classifier(embedding))",
            "self.classifier(embedding), class_tokens=(embedding,))",
            "class_tokens: return one",
        ),
        ("(before,)", "(before / 0,)", "a feature is not finite"),
        ("before.relu()", "nn.functional.dropout(before.relu())", "two passes in eval mode differ"),
        ("nn.BatchNorm2d(4)", "nn.BatchNorm2d(4, track_running_stats=False)", "depend on the other images"),
        ("[self.stem, self.norm]", "[self.stem]", "trunk: leaves out norm.weight"),
        ("[self.stem, self.norm]", "[self]", "trunk: has classifier.weight"),
    ],
)
def test_the_author_is_told_what_is_wrong(written, old, new, said):
    assert re.search(said, wrong(written, (old, new)))


def test_a_network_without_a_trunk_is_told_in_words(written):
    assert "trunk: is missing" in wrong(written, ("def trunk", "def stem_of"))


def test_a_later_stage_must_not_be_larger(written):
    stages = ("(stage,), (before,)", "(stage[..., ::2], stage), (before, before)")
    assert "a later stage is larger than the one before it" in wrong(written, stages)


def test_a_suite_trains_a_users_network_and_trains_it_again_when_its_file_has_changed(tmp_path, written):
    path = written(NETWORK.format(name="tiny"))
    bench = Bench(tmp_path, document(pairs=[{"teacher": "resnet8", "student": "tiny"}], methods=["kd"]), [path])
    plan, store, _ = bench.run()
    run = cell(plan, "KD").runs[0]
    assert run_status(run, plan, store) == ("done", "")
    path.write_text(path.read_text().replace("before.relu()", "before.relu() * 2"))
    changed = bench.plan()
    assert run_status(run, changed, store)[0] == "stale"
    assert run.id in to_train_again(list(changed.runs.values()), changed, store)
    assert cell(plan, "teacher").runs[0].id not in to_train_again(list(changed.runs.values()), changed, store)


def test_a_suite_file_names_its_plugins(tmp_path):
    (tmp_path / "tiny.py").write_text(NETWORK.format(name="tiny"))
    path = tmp_path / "mine.yaml"
    suite = document(pairs=[{"teacher": "resnet8", "student": "tiny"}], plugins=["tiny.py"])
    path.write_text(yaml.safe_dump(suite))
    plan, _, _ = planned(path, (), tmp_path / "results")
    assert plan.code["network tiny"].path == tmp_path / "tiny.py"
    assert plan.plugins == []  # the command line names none


def test_a_network_is_listed_with_its_shapes_or_with_what_is_wrong(tmp_path):
    path = tmp_path / "tiny.py"
    path.write_text(NETWORK.format(name="tiny"))
    assert entry_of(entries("models", [path]), "models", "tiny")["stages"] == [[4, 32, 32]]
    path.write_text(NETWORK.format(name="tiny").replace("Linear(4, num_classes)", "Linear(4, 9)"))
    own.FACTORIES.clear()
    with pytest.raises(RequestError, match="tiny: logits: of shape"):
        entry_of(entries("models", [path]), "models", "tiny")


@pytest.mark.parametrize(
    ("name", "stage"), [("torchvision.resnet18", ("layer4", [512, 7, 7])), ("timm.test_vit", ("5", [64, 14, 14]))]
)
def test_a_network_of_a_library_is_listed_with_its_stages(name, stage):
    entry = entry_of(entries("models", []), "models", name)
    assert (entry["names"][-1], entry["stages"][-1]) == stage
