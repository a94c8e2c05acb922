"""timm's networks train as students and as teachers, with methods that read logits, maps and embeddings."""

import pytest
import timm
import torch

from bench.models import build, shapes
from bench.models.timm_network import TimmNetwork
from bench.types import Batch, DataInfo
from methods import catalog
from tests.few import short_or_whole
from tests.models.test_timm import FAMILIES, SIZE
from tests.train.conftest import cell

METHODS = ["kd", "dkd", "at", "crd", "ofa"]
INDICES = [0, 1, 2, 3]
CLASSES = 7
TARGETS = torch.arange(20) % CLASSES


@pytest.fixture(scope="module")
def small():
    """Return a network of the project with four stages, as many as ViT has."""
    torch.manual_seed(0)
    return build("resnet8", num_classes=CLASSES)


def network_of(family):
    torch.manual_seed(0)
    model = timm.create_model(family, num_classes=CLASSES, **FAMILIES[family][0])
    return TimmNetwork(model, image_size=SIZE)


def step(student, teacher, name):
    """Return why a method cannot serve a pair, or None after one step of the student's gradient."""
    of_student, of_teacher = (shapes(one, kind, 3, *SIZE) for one, kind in ((student, "student"), (teacher, "teacher")))
    cls = catalog()[name].load()
    if (reason := cls.inapplicable(of_student, of_teacher)) is not None:
        return reason
    settings = {"n_negatives": 8} if name == "crd" else {}
    method = cls(of_student, of_teacher, DataInfo(len(TARGETS), CLASSES, TARGETS), **settings)
    images = torch.randn(len(INDICES), 3, *SIZE, generator=torch.Generator().manual_seed(1))
    batch = Batch(images, images, TARGETS[INDICES], torch.tensor(INDICES))
    student.train().zero_grad()
    with torch.no_grad():
        taught = teacher.eval().features(images)
    loss = method.loss(student.features(images), taught, batch)
    loss.backward()
    assert loss.isfinite()
    assert any(one.grad is not None and one.grad.count_nonzero() for one in student.parameters())
    return None


@pytest.mark.parametrize("family", FAMILIES)
def test_a_network_of_timm_takes_a_step_as_student_and_as_teacher(family, small):
    network = network_of(family)
    stages = len(FAMILIES[family][1])
    for student, teacher in ((network, small), (small, network)):
        reasons = {name: step(student, teacher, name) for name in METHODS}
        assert {reasons[name] for name in ("kd", "dkd", "crd", "ofa")} == {None}
        assert (reasons["at"] is None) == (stages == 4), reasons["at"]


@pytest.mark.parametrize(
    ("teacher", "student"),
    [
        ("timm.test_vit", "timm.test_resnet"),
        *(pytest.param(f"timm.{one}", "resnet8", marks=pytest.mark.slow) for one in FAMILIES),
        *(pytest.param("resnet8", f"timm.{one}", marks=pytest.mark.slow) for one in FAMILIES),
    ],
)
def test_a_suite_trains_networks_of_timm(bench, teacher, student):
    methods = ["kd", "at"] if short_or_whole(True, False) else [*METHODS[:3], {"method": "crd", "n_negatives": 16}]
    # a batch of the last two images, as with 16, makes DenseNet diverge
    training = {"epochs": 1, "batch_size": 25, "milestones": [], "initial_epochs": 0}
    suite = bench(pairs=[{"teacher": teacher, "student": student}], methods=methods, training=training)
    plan, store, _ = suite.run()
    for label in ("teacher", "none", "KD"):
        assert store.record(cell(plan, label).runs[0].id)["metrics"]["top1"] >= 0
