"""Trained networks are evaluated: linear probes, fine-tuning, and suites that ask for them."""

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from skimage.measure import block_reduce
from sklearn.linear_model import LogisticRegression

from bench.data import images
from bench.data.views import ViewTransform
from bench.models.base import Network
from bench.plan.status import run_status
from bench.report.conditions import conditions
from bench.store import Failure, Store
from bench.train.logistic import PENALTIES
from bench.train.networks import backbone_data, build_network
from bench.types import RequestError
from tests.few import short_or_whole
from tests.train.conftest import CPU, OFTEN, Bench, Silent, document, rows, weights

DATA = {"name": "digits", "resize": 32, "train_per_class": 5, "augment": "none"}
TRAINING = {"epochs": 2, "batch_size": 16, "milestones": [1], "evaluate_every": 2}


def transfer(**changes: object) -> dict:
    """Return a suite that evaluates the networks of `tiny.yaml`."""
    return {
        "title": "evaluated",
        "task": "transfer",
        "from": {"suite": "tiny"},
        "evaluations": [{"data": DATA, "training": TRAINING}],
    } | changes


@pytest.fixture
def evaluating(tmp_path):
    """Return a way to make a transfer suite beside a tiny one: `evaluating(evaluations=[...])`."""

    def make(source: dict | None = None, **changes: object) -> Bench:
        (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(document(**(source or {}))))
        return Bench(tmp_path, transfer(**changes), name="evaluated")

    return make


def cells(plan, label: str) -> dict:
    """Return a row's runs by the metric that tables show first."""
    return {next(iter(cell.metrics)): cell.runs for cell in plan.cells if cell.label == label}


def source_of(run, store) -> Network:
    """Return the network that a run evaluates."""
    network = build_network(run.student, backbone_data(run))
    network.load_state_dict(load_file(store.folder(run.source) / "student.safetensors"))
    return network


def everything(run, store, split: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return all images of a split of a run's data, 0 to train and 1 to test, as the network sees them, and labels."""
    part = images.load_data(run.data, store.root, CPU, workers=0)[split]
    stored = next(part.images.batches([torch.arange(len(part))]))
    return ViewTransform(run.data, CPU)(stored), part.targets


@pytest.mark.usefixtures("few")
def test_probes_find_the_weights_of_scikit_learns_logistic_regression(evaluating):
    per_class, weight_decay = short_or_whole(2, 5), 0.05
    n = 10 * per_class
    training = {"epochs": 120, "batch_size": n, "lr": 0.5, "milestones": [100], "evaluate_every": 120}
    data = DATA | {"train_per_class": per_class}
    probe = {"data": data, "training": training | {"weight_decay": weight_decay}}
    suite = evaluating(evaluations=[probe, probe | {"stages": [3], "most_values": 300}])
    plan, store, _ = suite.run(only=["none"])

    def read(run, split: int) -> tuple[np.ndarray, torch.Tensor]:
        view, targets = everything(run, store, split)
        with torch.no_grad():
            found = source_of(run, store).eval().features(view)
        values = found.embedding.double().numpy()
        if run.head.stage is not None:  # 64 maps of 8x8, averaged over 2x2 cells of 4x4: 256 values
            values = block_reduce(found.stages[3].double().numpy(), (1, 1, 4, 4), np.mean).reshape(len(targets), -1)
        return np.hstack([values, np.ones((len(targets), 1))]), targets  # the bias, decayed as all else

    for metric in ("embedding_top1", "stage3_top1"):
        run = cells(plan, "none")[metric][0]
        theirs = LogisticRegression(C=1 / (weight_decay * n), fit_intercept=False, tol=1e-10, max_iter=10_000)
        theirs.fit(*read(run, 0))
        ours = load_file(store.folder(run.id) / "student.safetensors")
        found = np.hstack([ours["classifier.weight"], ours["classifier.bias"][:, None]])
        np.testing.assert_allclose(found, theirs.coef_, atol=2e-3)
        view, targets = read(run, 1)
        accuracy, one = 100 * theirs.score(view, targets), 100 / len(targets)
        assert store.record(run.id)["metrics"]["top1"] == pytest.approx(accuracy, abs=3.5 * one)  # 3 at the edge


@pytest.mark.usefixtures("few")
def test_a_logistic_regression_is_scikit_learns_with_the_penalty_that_dev_images_prefer(evaluating):
    suite = evaluating(evaluations=[{"kind": "logistic", "data": DATA | {"dev_per_class": 2}}])
    plan, store, _ = suite.run(only=["none"])
    (run,) = cells(plan, "none")["top1"]
    splits = images.load_all(run.data, store.root, CPU, workers=0)
    assert (run.schedule, len(splits.train), len(splits.dev)) == (None, 30, 20)

    def read(part) -> tuple[np.ndarray, torch.Tensor]:
        with torch.no_grad():
            view = ViewTransform(run.data, CPU)(next(part.images.batches([torch.arange(len(part))])))
            return source_of(run, store).eval().features(view).embedding.double().numpy(), part.targets

    (x, y), (x_dev, y_dev) = read(splits.train), read(splits.dev)
    mean, scale = x.mean(axis=0), x.std(axis=0, ddof=1)
    record = store.record(run.id)
    accuracy = {}
    for l2 in PENALTIES:
        theirs = LogisticRegression(C=1 / (l2 * len(x)), tol=1e-9, max_iter=10_000).fit((x - mean) / scale, y)
        accuracy[l2] = 100 * theirs.score((x_dev - mean) / scale, y_dev)
        if l2 == record["l2"]:
            wanted = theirs.coef_ / scale
            head = load_file(store.folder(run.id) / "student.safetensors")["classifier.weight"]
            np.testing.assert_allclose(head, wanted, atol=1e-3 * np.abs(wanted).max())
    one_image = 100 / len(x_dev)  # may stand on the edge
    assert record["metrics"]["dev_top1"] == pytest.approx(accuracy[record["l2"]], abs=one_image + 0.01)
    assert accuracy[record["l2"]] >= max(accuracy.values()) - one_image - 0.01


def test_the_row_none_is_fine_tuned_at_its_own_learning_rate(evaluating):
    tune = {"kind": "finetune", "data": DATA, "training": TRAINING | {"lr": 0.01}, "none_lr": 0.2}
    plan = evaluating(evaluations=[tune]).plan()
    rates = {cell.label: {run.training.lr for run in cell.runs} for cell in plan.cells}
    assert rates == {"teacher": {0.01}, "none": {0.2}, "KD": {0.01}}
    assert "(learning rate 0.01, none 0.2, batch size 16" in conditions(plan)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"kind": "logistic", "training": TRAINING}, "logistic is fitted by a solver"),
        ({"kind": "probe", "none_lr": 0.1}, "'none_lr' is for evaluations that train the whole network"),
        ({"kind": "probe", "data": DATA | {"dev_per_class": 1}}, "or of kind: logistic"),
    ],
    ids=str,
)
def test_an_evaluation_takes_only_the_keys_of_its_kind(changes, said, evaluating):
    with pytest.raises(RequestError, match=said):
        evaluating(evaluations=[{"data": DATA} | changes]).plan()


def test_a_step_of_fine_tuning_is_one_written_by_hand(evaluating):
    still = TRAINING | {"lr": 1e-30, "weight_decay": 0.0, "epochs": 1, "batch_size": 50}
    stepping = still | {"lr": 0.1, "weight_decay": 0.01}
    tune = {"kind": "finetune", "data": DATA}
    suite = evaluating(
        evaluations=[tune | {"name": "a", "training": still}, tune | {"name": "b", "training": stepping}]
    )
    plan, store, _ = suite.run(only=["none"])
    start, run = (cells(plan, "none")[f"{name}_top1"][0] for name in "ab")
    head = load_file(store.folder(start.id) / "student.safetensors")
    network, classifier = source_of(run, store).train(), torch.nn.Linear(64, 10)
    classifier.load_state_dict({name: head[f"classifier.{name}"] for name in ("weight", "bias")})
    view, targets = everything(run, store, 0)
    torch.nn.functional.cross_entropy(classifier(network.features(view).embedding), targets).backward()
    named = {f"backbone.{name}": p for name, p in network.named_parameters() if p.grad is not None}
    named |= {f"classifier.{name}": p for name, p in classifier.named_parameters()}
    tuned = load_file(store.folder(run.id) / "student.safetensors")
    for name, parameter in named.items():
        stepped = parameter - 0.1 * (parameter.grad + 0.01 * parameter)
        torch.testing.assert_close(tuned[name], stepped.detach(), rtol=1e-4, atol=1e-5)  # float32
    assert torch.equal(tuned["backbone.fc.weight"], network.fc.weight)  # its own classifier has no part in it


def test_what_is_evaluated_is_trained_first_and_not_again(evaluating):
    suite = evaluating()
    plan, store, observer = suite.run(only=["KD"])
    run = cells(plan, "KD")["top1"][0]
    order = [members[0] for members in observer.cohorts]
    assert order.index(run.source) < order.index(run.id)
    assert store.record(run.id)["source_sha256"]
    _, _, again = suite.run(only=["KD"])
    assert again.epochs == {}


def test_probes_of_one_network_train_together_as_each_alone(evaluating):
    stages = {"data": DATA, "stages": [0, 3], "training": TRAINING}
    suite = evaluating(evaluations=[stages, {"data": DATA, "training": TRAINING}])
    plan, store, observer = suite.run(only=["none"])
    runs = [runs[0].id for runs in cells(plan, "none").values()]
    assert sorted(cells(plan, "none")) == ["embedding_top1", "stage0_top1", "stage3_top1"]
    assert sorted(runs) == sorted(observer.cohorts[-1])
    alone = evaluating(evaluations=[stages | {"stages": [3]}])
    plan, elsewhere, _ = alone.run("elsewhere", only=["none"])
    run = cells(plan, "none")["stage3_top1"][0].id
    assert weights(elsewhere, run) == weights(store, run)


def test_fine_tuning_begins_with_the_weights_that_were_trained(evaluating):
    still = TRAINING | {"lr": 1e-30, "weight_decay": 0.0, "epochs": 1}
    plan, store, _ = evaluating(evaluations=[{"kind": "finetune", "data": DATA, "training": still}]).run(only=["none"])
    run = cells(plan, "none")["top1"][0]
    source = load_file(store.folder(run.source) / "student.safetensors")
    tuned = load_file(store.folder(run.id) / "student.safetensors")
    assert all(torch.equal(tuned[f"backbone.{name}"], value) for name, value in source.items() if "weight" in name)


def test_an_interrupted_fine_tuning_goes_on_to_the_same_bits(evaluating):
    suite = evaluating(evaluations=[{"kind": "finetune", "data": DATA, "training": TRAINING}], **OFTEN)
    plan, store, _ = suite.run(only=["none"])
    run = cells(plan, "none")["top1"][0]

    class Interrupting(Silent):
        def step(self, lanes, step, steps):
            if lanes[0].spec.id == run.id and lanes[0].clock.epoch == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        suite.run("again", only=["none"], observer=Interrupting())
    _, again, observer = suite.run("again", only=["none"])
    assert observer.epochs == {run.id: 1}
    assert weights(again, run.id) == weights(store, run.id)
    assert rows(again, run.id) == rows(store, run.id)


def test_a_networks_probe_fails_with_it_and_says_so(evaluating, tmp_path):
    plan = evaluating().plan()
    run = cells(plan, "KD")["top1"][0]
    store = Store(tmp_path / "results")
    store.begin(plan.runs[run.source])
    store.fail(run.source, Failure("diverged", "the loss is not finite"))
    assert run_status(run, plan, store) == (
        "diverged",
        f"its training resnet8 diverged: the loss is not finite (run {run.source})",
    )


def test_pairs_methods_and_seeds_are_chosen_by_name(evaluating):
    source = {"methods": ["kd", "at", "sp"], "seeds": 3, "pairs": [{"teacher": "resnet14", "student": "resnet8"}]}
    source["pairs"].append({"teacher": "resnet20", "student": "resnet8"})
    chosen = {"suite": "tiny", "pairs": ["resnet20->*"], "methods": ["kd", "S*"], "seeds": [2, 3]}
    plan = evaluating(source, **{"from": chosen}).plan()
    assert [cell.label for cell in plan.cells] == ["teacher", "none", "KD", "SP"]
    assert {cell.pair for cell in plan.cells} == {"resnet20->resnet8"}
    assert [run.seed for run in cells(plan, "KD")["top1"]] == [2, 3]


def test_what_evaluates_a_network_is_told_from_what_trains_it(evaluating):
    plan = evaluating().plan()
    probe = next(run for cell in plan.cells if cell.label == "KD" for run in cell.runs)
    assert [plan.titles[run][1] for run in (probe.source, probe.id)] == ["KD", "KD probe"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"from": {"suite": "tin"}}, r"evaluated\.yaml: from\.suite: .*tin\.yaml: there is no such file\. Did you"),
        ({"from": {"suite": "../tiny"}}, r"from\.suite: found \"../tiny\""),
        (
            {"from": {"suite": "tiny", "methods": ["kdd"]}},
            r"from\.methods: .*tiny\.yaml has no 'kdd'\. Did you mean 'KD'",
        ),
        ({"from": {"suite": "evaluated"}}, r"evaluated\.yaml is a suite of task transfer"),
        ({"evaluations": [{"data": DATA, "stages": [4]}]}, r"resnet8 has no stage 4: it has 4, counted from 0"),
        ({"evaluations": [{"data": DATA}, {"data": DATA}]}, r"evaluations\[1\]: embedding_top1 twice"),
        (
            {"evaluations": [{"data": DATA, "kind": "finetune", "stages": [1]}]},
            r"'stages' is for kind: probe or logistic; finetune reads",
        ),
        ({"evaluations": [{"data": DATA, "stage": [1]}]}, r"unknown key 'stage'\. Did you mean 'stages'"),
        ({"evaluation": []}, r"unknown key 'evaluation'\. Did you mean 'evaluations'"),
    ],
)
def test_a_wrong_transfer_suite_is_refused_with_the_reason(evaluating, changes, message):
    with pytest.raises(RequestError, match=message):
        evaluating(**changes).run(only=["none"])


@pytest.mark.usefixtures("few")
def test_a_probe_of_a_student_with_its_teachers_classifier_reads_what_that_classifier_reads(evaluating):
    suite = evaluating(source={"methods": ["simkd"], "pairs": [{"teacher": "resnet8x4", "student": "resnet8"}]})
    plan, store, _ = suite.run(only=["SimKD"])
    (run, *_) = next(cell.runs for cell in plan.cells if cell.label == "SimKD")
    assert run_status(run, plan, store)[0] == "done"
    probe = load_file(store.folder(run.id) / "student.safetensors")
    assert probe["classifier.weight"].shape == (10, 256)  # the teacher's embedding; the student's own has 64
