"""An exported student is used without this project, and computes what the stored network does."""

import re

import onnxruntime
import pytest
import torch
from torch.testing import assert_close

from bench.launch.inputs import stored_network
from bench.models import NETWORKS, build
from bench.models.base import Network
from bench.share.export import export, onnx_graph
from bench.store import Store
from bench.types import Features, RequestError
from tests.few import use_few_digits
from tests.train.conftest import Bench, cell, document


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    """Return the run of KD with seed 1, and the folder to which its student was exported."""
    plan, store = trained.plan(), Store(trained.folder / "results")
    (run,) = (run for run in plan.runs.values() if run.terms and run.seed == 1)
    folder = tmp_path_factory.mktemp("exported") / "student"
    assert export(store, run.id, folder) == sorted(folder.iterdir(), key=lambda path: path.suffix, reverse=True)
    return run, folder


def test_the_exported_weights_are_those_of_the_run(trained, exported):
    run, folder = exported
    assert (folder / "student.safetensors").read_bytes() == Store(trained.folder / "results").weights(run.id)


def test_the_code_of_the_model_card_gives_the_logits_of_the_student(trained, exported, monkeypatch):
    run, folder = exported
    images = torch.rand(5, 3, 32, 32)
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    monkeypatch.chdir(folder)
    variables = {"images": images.numpy()}
    exec(code, variables)
    with torch.no_grad():
        expected = stored_network(run, Store(trained.folder / "results")).eval()(images)
    assert_close(torch.from_numpy(variables["logits"]), expected, atol=1e-5, rtol=1e-5)


def test_the_model_card_has_pair_method_data_and_the_metrics_of_all_seeds(trained, exported):
    plan, store = trained.plan(), Store(trained.folder / "results")
    run, folder = exported
    text = (folder / "README.md").read_text()
    found = [store.record(one.id)["metrics"]["top1"] for one in plan.runs.values() if one.terms == run.terms != ()]
    mean, std = torch.tensor(found).mean().item(), torch.tensor(found).std().item()
    assert f"| {store.record(run.id)['metrics']['top1']:.2f} | {mean:.2f} ± {std:.2f} | 2 |" in text
    assert "# resnet8 on digits, distilled from resnet8" in text
    assert "kd (weight 0.9)" in text


def test_a_run_that_is_not_done_and_a_folder_with_files_are_refused(trained, exported, tmp_path):
    store = Store(trained.folder / "results")
    run, folder = exported
    with pytest.raises(RequestError, match="is not an empty folder"):
        export(store, run.id, folder)
    with pytest.raises(RequestError, match="only a finished run has a student"):
        export(store, run.but(seed=7).id, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_student_that_reuses_its_teachers_classifier_is_exported_with_it(tmp_path):
    suite = Bench(tmp_path, document(methods=["simkd"], training={"epochs": 1, "batch_size": 16, "milestones": [1]}))
    with pytest.MonkeyPatch.context() as patch:
        use_few_digits(patch)
        plan, store, _ = suite.run(only=["SimKD"])
    run = cell(plan, "SimKD").runs[0]
    images = torch.rand(5, 3, *run.data.size)
    export(store, run.id, tmp_path / "student")
    session = onnxruntime.InferenceSession(tmp_path / "student" / "student.onnx")
    (logits,) = session.run(None, {"images": images.numpy()})
    with torch.no_grad():
        assert_close(torch.from_numpy(logits), stored_network(run, store).eval()(images), atol=1e-4, rtol=1e-4)


class Noisy(Network):
    """Gives other logits each time."""

    def features(self, x: torch.Tensor, preactivations: bool = False) -> Features:
        pooled = x.mean(dim=(2, 3))
        return Features(stages=(x,), preactivations=(), embedding=pooled, logits=pooled + torch.randn_like(pooled))


def test_a_graph_that_does_not_compute_the_logits_of_the_student_is_not_written(exported):
    run, _ = exported
    with pytest.raises(RequestError, match="differ from the student's"):
        onnx_graph(Noisy().eval(), run)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_the_graph_of_every_network_computes_its_logits(name, exported):
    run, _ = exported
    graph = onnx_graph(build(name, num_classes=run.data.classes).eval(), run)
    assert onnxruntime.InferenceSession(graph).get_inputs()[0].name == "images"
