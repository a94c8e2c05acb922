"""Teachers: trained here, read from a checkpoint, of other architecture and data; and what follows when one fails."""

import hashlib
import shutil
import sys
import threading

import pytest
import torch
import torchvision
from safetensors.torch import load_file, save

from bench.cli import main
from bench.data.images import load_data
from bench.data.views import ViewTransform
from bench.launch.launcher import Launcher
from bench.launch.preparation import fetch_data
from bench.models import own
from bench.report.frame import results_frame
from bench.store import WEIGHTS, Store
from bench.terminal.show import describe
from bench.train.networks import build_network
from bench.types import RequestError
from tests.few import short_or_whole
from tests.train.conftest import FIFTY, Silent, cell, rows, weights

HOOKED = {"network": "torchvision.resnet18", "stages": ["relu", "layer1", "layer2", "layer3", "layer4"]}


FEW_EPOCHS = short_or_whole({"epochs": 1, "milestones": [1]}, {"epochs": 2, "milestones": [1]})
FEW_EPOCHS |= {"batch_size": 16, "initial_epochs": 1}


@pytest.fixture
def trained(bench, tiny):
    """Return (suite factory, store, id of a teacher that was trained here)."""
    return bench, tiny.store(), cell(tiny.plan(), "teacher").runs[0].id


LEAVER = """
import sys, traceback
import torch
from torch import nn
from bench.models import register_network


class Leaves(nn.Module):
    def forward(self, x):
        if any(one.name == "record_untrained" for one in traceback.extract_stack()):
            sys.exit(0)
        return x


@register_network("leaver")
def leaver(num_classes, in_channels):
    convolution, pool = nn.Conv2d(in_channels, 4, 3, padding=1), nn.MaxPool2d(2)
    return nn.Sequential(Leaves(), convolution, pool, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, num_classes))
"""


def published(store, run_id: str, path) -> None:
    """Write a run's weights as published checkpoints hold them."""
    state = load_file(store.folder(run_id) / WEIGHTS)
    torch.save({"model": {f"module.{name}": value for name, value in state.items()}, "epoch": 240}, path)


def teacher(**settings: object) -> list[dict]:
    return [{"teacher": {"network": "resnet14", **settings}, "student": "resnet8"}]


def test_a_checkpoint_teaches_what_the_run_that_made_it_teaches(trained, tmp_path):
    bench, store, run_id = trained
    published(store, run_id, tmp_path / "teacher.pth")
    accuracy = round(store.record(run_id)["metrics"]["top1"], 1)
    suite = bench(methods=["kd"], pairs=teacher(checkpoint="teacher.pth", accuracy=accuracy))
    plan, again, observer = suite.run("read")
    read = cell(plan, "teacher").runs[0]
    assert again.record(read.id)["metrics"] == store.record(run_id)["metrics"]
    assert read.id not in observer.epochs  # evaluated, not trained
    one = {run.id for run in cell(plan, "KD").runs}
    other = {run.id for run in cell(bench(methods=["kd"]).plan(), "KD").runs}
    assert weights(again, one.pop()) == weights(store, other.pop())


def test_a_checkpoint_that_misses_its_accuracy_is_refused_before_anything_is_written(trained, tmp_path):
    bench, store, run_id = trained
    published(store, run_id, tmp_path / "teacher.pth")
    wrong = store.record(run_id)["metrics"]["top1"] + 0.2
    suite = bench(methods=["kd"], pairs=teacher(checkpoint="teacher.pth", accuracy=wrong))
    with pytest.raises(RequestError, match=r"pairs\[0\].teacher.accuracy: .*teacher.pth reaches"):
        suite.run("refused")
    assert not (tmp_path / "refused").exists()


def test_a_checkpoint_that_has_changed_since_the_plan_is_refused(trained, tmp_path):
    bench, store, run_id = trained
    published(store, run_id, tmp_path / "teacher.pth")
    work = bench(methods=["kd"], pairs=teacher(checkpoint="teacher.pth")).work("refused")
    state = torch.load(tmp_path / "teacher.pth", weights_only=True)
    torch.save(state | {"epoch": 1}, tmp_path / "teacher.pth")
    with pytest.raises(RequestError, match=r"teacher.pth: has changed since the suite was planned"):
        Launcher(work).run(Silent())
    assert not (tmp_path / "refused").exists()


def test_a_checkpoints_run_and_its_students_can_be_shown(trained, tmp_path):
    bench, store, run_id = trained
    published(store, run_id, tmp_path / "teacher.pth")
    plan, again, _ = bench(methods=["kd"], pairs=teacher(checkpoint="teacher.pth")).run("read")
    for label in ("teacher", "KD"):
        described = "\n".join(map(str, describe(again, cell(plan, label).runs[0].id)))
        assert f"checkpoint: {tmp_path}/teacher.pth" in described


def test_two_accuracies_of_one_checkpoint_are_refused(trained, tmp_path):
    bench, store, run_id = trained
    published(store, run_id, tmp_path / "teacher.pth")
    pairs = teacher(checkpoint="teacher.pth", accuracy=50.0) + teacher(checkpoint="teacher.pth", accuracy=60.0)
    pairs[1]["student"] = "resnet14"
    with pytest.raises(RequestError, match=r"pairs\[1\].teacher.accuracy: 60.0, but .*pairs\[0\].teacher says 50.0"):
        bench(pairs=pairs).plan()


def test_an_accuracy_is_checked_on_a_finished_suite_too(trained, tmp_path, monkeypatch, capsys):
    bench, store, run_id = trained
    published(store, run_id, tmp_path / "teacher.pth")
    bench(methods=["kd"], pairs=teacher(checkpoint="teacher.pth")).run("read")
    suite = bench(methods=["kd"], pairs=teacher(checkpoint="teacher.pth", accuracy=99.9))
    monkeypatch.setattr(sys, "argv", ["run_suite.py", str(suite.path), "--results", str(tmp_path / "read")])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    assert "the suite says 99.9 %" in capsys.readouterr().err


def test_an_import_whose_process_died_is_taken_over(trained, tmp_path):
    bench, store, run_id = trained
    published(store, run_id, tmp_path / "teacher.pth")
    suite = bench(methods=["kd"], pairs=teacher(checkpoint="teacher.pth"))
    importing = cell(suite.plan(), "teacher").runs[0].id
    other = Store(tmp_path / "read")
    assert other.claim(importing)
    threading.Timer(1.0, other.release, [importing]).start()
    plan, again, _ = suite.run("read", poll_s=0.1)
    assert {again.state(run) for run in plan.runs} == {"done"}


def test_a_torchvision_network_that_cannot_take_the_images_is_refused(bench, tmp_path):
    small = {"network": "torchvision.alexnet", "stages": ["features.0", "features.3"]}
    with pytest.raises(RequestError, match=r"torchvision\.alexnet cannot take images of 32x32"):
        bench(data=FIFTY, pairs=[{"teacher": "resnet14", "student": small}]).run("refused")
    assert not (tmp_path / "refused").exists()


def test_a_checkpoint_already_evaluated_is_not_evaluated_again(trained, tmp_path):
    bench, store, run_id = trained
    published(store, run_id, tmp_path / "teacher.pth")
    suite = bench(methods=["kd"], pairs=teacher(checkpoint="teacher.pth"))
    plan, again, _ = suite.run("read")
    record = again.folder(cell(plan, "teacher").runs[0].id) / "record.json"
    before = record.stat().st_mtime_ns
    suite.run("read")
    assert record.stat().st_mtime_ns == before


@pytest.mark.parametrize("loss", ["gone", "cut short"])
def test_a_teacher_whose_weights_cannot_be_read_is_found_before_anything_is_written(trained, tmp_path, loss):
    bench, whole, run_id = trained
    suite, store = bench(methods=["kd"]), Store(tmp_path / "results")
    shutil.copytree(whole.folder(run_id), store.folder(run_id))
    path = store.folder(run_id) / WEIGHTS
    content = path.read_bytes()
    path.unlink()
    if loss == "cut short":
        path.write_bytes(content[:-7])
    before = sorted(store.root.rglob("*"))
    with pytest.raises(RequestError, match="the run is then trained again"):
        suite.run()
    assert sorted(store.root.rglob("*")) == before


def test_a_checkpoint_with_nan_in_it_is_refused(trained, tmp_path):
    bench, store, run_id = trained
    state = load_file(store.folder(run_id) / WEIGHTS)
    state["conv1.weight"][0] = float("nan")
    torch.save(state, tmp_path / "teacher.pth")
    with pytest.raises(RequestError, match=r"weights that are not finite: conv1\.weight"):
        bench(methods=["kd"], pairs=teacher(checkpoint="teacher.pth")).run("refused")
    assert not (tmp_path / "refused").exists()


def test_a_checkpoint_with_logits_that_are_not_finite_is_refused(trained, tmp_path):
    bench, store, run_id = trained
    state = load_file(store.folder(run_id) / WEIGHTS)
    torch.save(state | {"fc.weight": torch.full_like(state["fc.weight"], 3e38)}, tmp_path / "teacher.pth")
    said = r"teacher\.pth: the logits of the network on the test images are not finite\. Name other weights"
    with pytest.raises(RequestError, match=rf"pairs\[0\]\.teacher: .*{said}"):
        bench(methods=["kd"], pairs=teacher(checkpoint="teacher.pth")).run("refused")
    assert not (tmp_path / "refused").exists()


def test_several_teachers_whose_common_logits_are_not_finite_fail(bench, tmp_path):
    suite = bench(pairs=[{"teachers": {"network": "resnet8", "n": 2}, "student": "resnet8"}], training=FEW_EPOCHS)
    plan, store, _ = suite.run(only=["teacher"])
    (together,) = cell(plan, "teacher").runs
    member = together.teachers[0]
    state = load_file(store.folder(member) / WEIGHTS)
    store.write(member, WEIGHTS, save(state | {"fc.weight": torch.full_like(state["fc.weight"], 3e38)}))
    store.amend(member, {}, [WEIGHTS])
    shutil.rmtree(store.folder(together.id))
    suite.run(only=["teacher"])
    failure = store.failure(together.id)
    assert (failure.status, failure.reason) == ("failed", "the logits of the network on the test images are not finite")


def test_a_layer_that_one_pair_lacks_is_a_dash_there(bench):
    pairs = [{"teacher": "resnet14", "student": "resnet8"}, {"teacher": "vgg8", "student": "resnet8"}]
    deep = {"method": "fitnet", "layer": 4, "label": "deep"}
    plan, store, _ = bench(methods=[deep], pairs=pairs, training=FEW_EPOCHS).run(only=["deep"])
    found = {one.label: one for one in results_frame(plan, store).primary}["deep"]
    assert (found.status, found.reason[:40]) == ("inapplicable", "resnet8 has stages 0 to 3, FitNet reads ")


ONE_EPOCH = {"training": {"epochs": 1, "batch_size": 25, "milestones": [1], "initial_epochs": 1}}


@pytest.mark.parametrize(
    ("methods", "settings"),
    [(["ab"], {"training": FEW_EPOCHS}), pytest.param(["at", "ab", "ft"], ONE_EPOCH, marks=pytest.mark.slow)],
    ids=["ab", "all"],
)
def test_a_torchvision_classifier_teaches_and_learns_through_named_stages(bench, methods, settings):
    plan, store, _ = bench(methods=methods, pairs=[{"teacher": HOOKED, "student": HOOKED}], **settings).run()
    assert {one.status for one in results_frame(plan, store).primary} == {"done"}
    run = cell(plan, "AB").runs[0]
    assert set(load_file(store.folder(run.id) / WEIGHTS)) == set(build_network(run.student, run.data).state_dict())


def test_a_method_that_cannot_serve_a_pair_gets_a_reason_and_no_training(bench):
    pairs = [{"teacher": "wrn_16_2", "student": "wrn_16_1"}]
    plan, store, observer = bench(methods=["fsp", "kd"], pairs=pairs, training=FEW_EPOCHS).run()
    fsp = next(one for one in results_frame(plan, store).primary if one.label == "FSP")
    assert (fsp.status, "FSP needs equal ones" in fsp.reason) == ("inapplicable", True)
    assert fsp.cell.runs[0].id not in observer.epochs


def test_a_teacher_that_diverges_is_the_reason_in_its_students_cells(bench):
    hot = {"epochs": 2, "batch_size": 16, "milestones": [1], "lr": 1e30}
    plan, store, _ = bench(methods=["kd", "pkt"], teacher_training=hot).run()
    found = {one.label: one for one in results_frame(plan, store).primary}
    assert found["teacher"].status == "diverged"
    assert found["none"].status == "done"
    for label in ("KD", "PKT"):
        assert found[label].status == "diverged"
        assert "its teacher resnet14 diverged: the loss is not finite in epoch 1" in found[label].reason


@pytest.mark.usefixtures("few", "forgets_networks")
def test_an_ensemble_whose_users_network_exits_fails_alone(bench, tmp_path):
    path = tmp_path / "leaver.py"
    path.write_text(LEAVER)
    own.add_networks([path], [])
    suite = bench([path], methods=["kd"], pairs=[{"teachers": ["resnet14", "leaver"], "student": "resnet8"}])
    plan, store, _ = suite.run(only=["teacher"])
    (together,) = cell(plan, "teacher").runs
    assert all(store.record(name) is not None for name in together.teachers)
    assert "SystemExit: 0 (" in store.failure(together.id).reason


@pytest.mark.usefixtures("few")
def test_an_ensembles_row_is_the_accuracy_of_its_members_mean_probability(bench, tmp_path):
    suite = bench(methods=["kd"], pairs=[{"teachers": {"network": "resnet14", "n": 2}, "student": "resnet8"}])
    plan, store, observer = suite.run(only=["teacher"])
    (together,) = cell(plan, "teacher").runs
    assert set(together.teachers) <= set(observer.epochs)
    _, test = load_data(together.data, tmp_path, torch.device("cpu"), workers=0)
    images = ViewTransform(together.data, torch.device("cpu"))(test.images.images)
    mean = torch.zeros(len(test), 10)
    for name in together.teachers:
        network = build_network(plan.runs[name].student, plan.runs[name].data).eval()
        network.load_state_dict(load_file(store.folder(name) / WEIGHTS))
        with torch.no_grad():
            mean += network(images).softmax(dim=1) / 2
    wanted = 100 * (mean.argmax(dim=1) == test.targets).double().mean().item()
    one_image = 100 / len(test)  # may round over
    assert store.record(together.id)["metrics"]["top1"] == pytest.approx(wanted, abs=one_image + 0.01)


def test_an_ensembles_terms_are_the_sum_or_the_mean_of_its_members(bench):
    pairs = [{"teachers": {"network": "resnet14", "n": 2}, "student": "resnet8"}]
    methods = [
        {"method": "kd", "label": "sum"},
        {"method": "kd", "weight": 0.45, "label": "half"},
        {"method": "kd", "combine": "mean", "label": "mean"},
        {"method": "kd", "combine": "one", "label": "one"},
        {"method": "kd", "combine": "probabilities", "label": "ensemble"},
    ]
    plan, store, _ = bench(methods=methods, pairs=pairs, training=FEW_EPOCHS).run()
    ends = {label: weights(store, cell(plan, label).runs[0].id) for label in [one["label"] for one in methods]}
    assert ends["mean"] == ends["half"]
    assert len(set(ends.values())) == 4  # what else is combined, trains otherwise
    assert {one.status for one in results_frame(plan, store).primary} == {"done"}


def test_teacher_data_trains_the_teacher_alone(bench, tiny):
    more = {"name": "digits", "resize": short_or_whole(16, 32), "train_per_class": 20}
    plan, store, _ = bench(methods=["kd"], teacher_data=more).run()
    plain, other = tiny.store(), tiny.plan()
    assert cell(plan, "teacher").runs[0].id != cell(other, "teacher").runs[0].id
    assert rows(store, cell(plan, "none").runs[0].id) == rows(plain, cell(other, "none").runs[0].id)


def test_paired_teacher_seeds_give_every_seed_its_own_teacher(bench):
    plan, store, _ = bench(methods=["kd"], seeds=2, teacher_seeds="paired", training=FEW_EPOCHS).run(only=["KD"])
    first, second = cell(plan, "teacher").runs
    assert weights(store, first.id) != weights(store, second.id)
    assert [run.teachers for run in cell(plan, "KD").runs] == [(first.id,), (second.id,)]


@pytest.fixture
def publisher(tmp_path, monkeypatch):
    """Return the file in which somebody publishes weights for torchvision's resnet18 under the name DIGITS_V1."""
    torch.manual_seed(0)
    state, plain = torchvision.models.resnet18(num_classes=10).state_dict(), tmp_path / "plain.pth"
    torch.save(state, plain)
    file = tmp_path / f"resnet18-{hashlib.sha256(plain.read_bytes()).hexdigest()[:8]}.pth"
    plain.rename(file)

    class Published(torchvision.models.WeightsEnum):
        DIGITS_V1 = torchvision.models.Weights(url=file.as_uri(), transforms=None, meta={})

    monkeypatch.setattr(torchvision.models, "get_model_weights", lambda name: Published)
    return file


def test_weights_that_torchvision_publishes_are_fetched_once_and_used_as_they_are(publisher, bench, tmp_path):
    suite = bench(pairs=[{"teacher": HOOKED | {"weights": "DIGITS_V1"}, "student": "resnet8"}])
    plan, store, observer = suite.run(only=["teacher"])
    run = cell(plan, "teacher").runs[0]
    ours, theirs = load_file(store.folder(run.id) / "student.safetensors"), torch.load(publisher, weights_only=True)
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())
    assert observer.epochs == {}
    fetched = tmp_path / "data" / "weights" / publisher.name
    assert fetched.read_bytes() == publisher.read_bytes()
    publisher.unlink()
    suite.run("elsewhere", only=["teacher"])  # from the file that was fetched


def test_published_weights_that_cannot_be_had_are_named_with_their_place(publisher, bench, tmp_path):
    suite = bench(pairs=[{"teacher": HOOKED | {"weights": "DIGITS_V1"}, "student": "resnet8"}])
    address = publisher.as_uri()
    publisher.unlink()
    with pytest.raises(RequestError, match=f"looked for .*{publisher.name} and did not find it, and {address} cannot"):
        suite.run(only=["teacher"])
    place = tmp_path / "data" / "weights" / publisher.name
    place.write_bytes(b"another file")
    with pytest.raises(RequestError, match="is not what torchvision publishes: its sha256 does not begin with"):
        suite.run(only=["teacher"])
    assert not (tmp_path / "results").exists()


def test_weights_of_a_name_that_is_not_published_are_refused_with_the_nearest(publisher, bench):
    suite = bench(pairs=[{"teacher": HOOKED | {"weights": "DIGITS_V2"}, "student": "resnet8"}])
    with pytest.raises(RequestError, match=r"publishes no 'DIGITS_V2' for resnet18\. Did you mean 'DIGITS_V1'"):
        suite.run(only=["teacher"])


def test_published_weights_are_fetched_with_the_data_before_jobs_that_may_lack_a_network_begin(
    publisher, bench, tmp_path
):
    plan = bench(pairs=[{"teacher": HOOKED | {"weights": "DIGITS_V1"}, "student": "resnet8"}]).plan()
    fetch_data(list(plan.runs.values()), tmp_path / "data")
    assert (tmp_path / "data" / "weights" / publisher.name).read_bytes() == publisher.read_bytes()
