"""Mutual learning: two networks train together, each the other's teacher, and give two rows of the table."""

import copy
import re
from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
import yaml
from safetensors.torch import load_file
from torch import Tensor, nn

from bench.data import images
from bench.data.batches import TrainingData
from bench.launch.preparation import unserved
from bench.plan import Plan, cohorts
from bench.plan.repeat import ENTRY, suite_files
from bench.report.frame import results_frame
from bench.report.markdown import to_markdown
from bench.store import Store
from bench.suite import load
from bench.train.build import build_lane
from bench.train.epoch import train_epoch
from bench.train.evaluation import evaluate
from bench.train.lane import Lane
from bench.train.networks import build_network
from bench.types import Batch, RequestError
from tests.few import short_or_whole
from tests.train.conftest import CPU, FIFTY, Bench, cell, document, rows, weights

DML = {"method": "kd", "weight": 1.0, "task_weight": 1.0, "temperature": 2.0, "label": "DML"}
CRD = {"method": "crd", "n_negatives": 16, "kd": 1.0, "label": "CRD+KD"}
TWINS = [{"teacher": "resnet8", "student": "resnet8"}]
LISTENS = """
from methods.base import Distiller, register


@register("listens", weight=1.0)
class Listens(Distiller):
    def __init__(self, student, teacher, data, *, how: str = "teacher"):
        super().__init__(student, teacher, data)
        self.breaks = student.network == "resnet14" and how
        self.steps = 0

    def loss(self, student, teacher, batch):
        self.steps += 1
        if self.breaks == "raise" and self.steps == 3:
            raise RuntimeError("broken on purpose")
        broken = self.breaks == "nan" and self.steps == 4  # the epoch's last: the other network never hears of it
        return teacher.logits.square().sum() + student.logits.sum() * (float("nan") if broken else 0.0)

    @classmethod
    def inapplicable(cls, student, teacher, how):
        return "it is too deep" if how == "refuse" and student.network == "resnet14" else None
"""


@pytest.fixture
def mutual(bench):
    """Return a way to make a mutual suite: `mutual(methods=[DML])`."""
    return lambda **changes: bench(**{"task": "mutual", "methods": [DML], "data": FIFTY, **changes})


@pytest.fixture
def listens(tmp_path):
    """Return a plugin whose loss is its teacher's logits, squared; `how` says what it does to a resnet14."""
    path = tmp_path / "listens.py"
    path.write_text(LISTENS)
    return path


def lane_of(suite: Bench, label: str = "DML") -> tuple[Lane, TrainingData]:
    """Return a row's lane at its start, and its training set."""
    run = cell(suite.plan(), label).runs[0]
    train, _ = images.load_data(run.data, suite.folder, CPU, workers=0)
    data = TrainingData(run.data, train, CPU, run.data)
    lane = build_lane(run, {}, data.info, suite.methods, CPU)
    assert lane.learners.keys() == {"student", "peer"}
    return lane, data


def batches(lane: Lane, data: TrainingData, first: int = 0) -> list[Batch]:
    return list(data.epoch(lane.spec.seed, *lane.clock, lane.schedule.batch_size, first))


def parameters(network: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in network.parameters()]


def assert_equal(some: Sequence[Tensor], others: Sequence[Tensor]) -> None:
    assert all(torch.equal(one, other) for one, other in zip(some, others, strict=True))


def test_steps_are_those_written_by_hand(mutual):
    training = {"epochs": 2, "batch_size": 16, "lr": 0.05, "weight_decay": 1e-3, "milestones": []}
    lane, data = lane_of(mutual(training=training, lr_by_network={"resnet14": 0.01}))
    student, peer = copy.deepcopy(lane.student), copy.deepcopy(lane.networks["peer"])
    optimizers = [
        torch.optim.SGD(network.parameters(), lr=lr, momentum=0.9, weight_decay=1e-3)
        for network, lr in ((student, 0.05), (peer, 0.01))
    ]
    lane.begin_epoch()
    for number, batch in enumerate(batches(lane, data)[:3]):
        lane.step(batch, {}, number)
        logits = [network.train()(batch.images) for network in (student, peer)]
        for optimizer, own, other in zip(optimizers, logits, logits[::-1], strict=True):
            wanted = (other.detach() / 2).softmax(dim=1)
            kd = 4 * (wanted * (wanted.log() - (own / 2).log_softmax(dim=1))).sum(dim=1).mean()
            optimizer.zero_grad()
            (F.cross_entropy(own, batch.targets) + kd).backward()
        for optimizer in optimizers:
            optimizer.step()
    for ours, by_hand in ((lane.student, student), (lane.networks["peer"], peer)):
        for one, other in zip(ours.parameters(), by_hand.parameters(), strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


def test_no_gradient_reaches_the_network_that_is_listened_to(mutual, listens):
    training = {"epochs": 2, "batch_size": 16, "milestones": [], "weight_decay": 0.0}
    methods = [{"method": "listens", "task_weight": 0.0, "label": "L"}]
    lane, data = lane_of(mutual(methods=methods, plugins=[listens], training=training), "L")
    before = [parameters(network) for network in lane.networks.values()]
    lane.begin_epoch()
    lane.step(batches(lane, data)[0], {}, 0)
    for network, old in zip(lane.networks.values(), before, strict=True):
        assert_equal(parameters(network), old)


def test_networks_start_as_they_would_alone(mutual):
    lane, _ = lane_of(mutual())
    for name, network in lane.networks.items():
        alone = build_network(getattr(lane.spec, name), lane.spec.data, lane.spec.seed)
        assert_equal(parameters(network), parameters(alone))


def test_two_equal_networks_do_not_start_equal(mutual):
    lane, data = lane_of(mutual(pairs=TWINS))
    alone = build_network(lane.spec.student, lane.spec.data, lane.spec.seed)
    assert_equal(parameters(lane.student), parameters(alone))
    view = batches(lane, data)[0].images
    assert not torch.allclose(lane.student(view), lane.networks["peer"](view), atol=0.01)


def test_adapters_of_the_two_directions_do_not_start_equal(mutual):
    lane, _ = lane_of(mutual(pairs=TWINS, methods=[CRD]), "CRD+KD")
    own, peers = (learner.terms[0].distiller for learner in lane.learners.values())
    assert not torch.equal(own.student_head.weight, peers.student_head.weight)
    assert not torch.equal(own.student_bank, peers.student_bank)


def test_a_lane_goes_on_from_a_checkpoint_within_an_epoch_with_the_same_bits(mutual):
    suite = mutual(methods=[CRD])
    lane, data = lane_of(suite, "CRD+KD")
    lane.begin_epoch()
    for number, batch in enumerate(batches(lane, data)):
        if number == 2:
            saved = lane.checkpoint()
        lane.step(batch, {}, number)
    again, _ = lane_of(suite, "CRD+KD")
    again.restore(again.opened(saved))
    for _ in train_epoch({}, [again], batches(again, data, first=2)):
        pass
    for one in (lane, again):
        one.advance()
    assert again.clock == lane.clock
    assert again.read() == lane.read()
    for one, other in zip(again.networks.values(), lane.networks.values(), strict=True):
        assert_equal(list(one.state_dict().values()), list(other.state_dict().values()))
    for one, other in zip(again.learners.values(), lane.learners.values(), strict=True):
        assert_equal([*one.terms[0].distiller.buffers()], [*other.terms[0].distiller.buffers()])


def both(store: Store, run_id: str) -> tuple[bytes, bytes]:
    return weights(store, run_id), (store.folder(run_id) / "peer.safetensors").read_bytes()


def test_a_run_alone_and_in_a_cohort_ends_with_the_same_bits(mutual):
    suite = mutual(methods=[DML, CRD])
    plan, together, observer = suite.run("together")
    assert max(map(len, observer.cohorts)) == 3  # the undistilled student sees the same batches
    for label in short_or_whole(("CRD+KD",), ("DML", "CRD+KD")):
        run_id = cell(plan, label).runs[0].id
        _, alone, _ = suite.run(f"alone-{label}", only=[label])
        assert both(alone, run_id) == both(together, run_id)
        assert rows(alone, run_id) == rows(together, run_id)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Return the store of a run that trained alone."""
    suite = Bench(tmp_path_factory.mktemp("undisturbed"), document(task="mutual", methods=[DML], data=FIFTY))
    return suite.run(only=["DML"])[1]


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("raise", r"RuntimeError: broken on purpose \(.*/listens\.py:15, in epoch 1\)"),
        ("nan", "the loss is not finite in epoch 1"),
    ],
)
def test_a_lane_whose_peer_breaks_leaves_and_the_others_go_on_unchanged(mutual, listens, undisturbed, how, reason):
    methods = [{"method": "listens", "how": how, "label": "broken"}, DML]
    suite = mutual(methods=methods, plugins=[listens])
    plan, store, _ = suite.run(only=["broken", "DML"])
    failure = store.failure(cell(plan, "broken").runs[0].id)
    assert failure is not None
    assert failure.status == ("failed" if how == "raise" else "diverged")
    assert re.fullmatch(reason, failure.reason)
    run_id = cell(plan, "DML").runs[0].id
    assert both(store, run_id) == both(undisturbed, run_id)


@pytest.mark.usefixtures("few")
def test_the_table_has_a_row_for_each_network_with_the_accuracy_of_its_weights(mutual):
    suite = mutual()
    plan, store, _ = suite.run(only=["DML"])
    table = {(one.label, one.metric): one.mean for one in results_frame(plan, store).summaries}
    (run,) = cell(plan, "DML").runs
    assert cell(plan, "DML (teacher)").runs == (run,)
    assert run.peer is not None
    _, test = images.load_data(run.data, suite.folder, CPU, workers=0)
    for label, spec, name in (("DML", run.student, "student"), ("DML (teacher)", run.peer, "peer")):
        network = build_network(spec, run.data)
        network.load_state_dict(load_file(store.folder(run.id) / f"{name}.safetensors"))
        metrics = evaluate({name: network}, test, run.data, CPU)[name]
        assert {name: table[label, name] for name in metrics} == pytest.approx(metrics, abs=1e-4)
    last = rows(store, run.id)[-1]
    assert {"peer_loss", "peer_ce", "peer_train_top1", "peer_term0_kd", "peer_top1", "peer_top5"} <= last.keys()


def finish(store: Store, plan: Plan, label: str, top1: float, peer_top1: float) -> None:
    for run, noise in zip(cell(plan, label).runs, (-0.2, 0.3, -0.1), strict=True):
        store.begin(run)
        metrics = {"top1": top1 + noise, "top5": 99.0, "peer_top1": peer_top1 - noise, "peer_top5": 99.0}
        store.finish(run.id, {"metrics": metrics, "best": {"epoch": 1, "peer_epoch": 1, **metrics}})


def test_networks_are_ranked_among_their_own(mutual):
    suite = mutual(methods=[DML, CRD], seeds=3)
    plan, store = suite.plan(), Store(suite.folder / "results")
    finish(store, plan, "DML", 70.0, 99.0)
    finish(store, plan, "CRD+KD", 79.0, 90.0)
    lines = to_markdown(results_frame(plan, store)).splitlines()
    told = [line for line in lines if line.startswith(("| DML", "| CRD"))][:4]  # last epochs; the best ones follow
    assert told == [
        "| DML | 70.00 ± 0.26 (3) |",
        "| DML (teacher) | **99.00 ± 0.26 (3)** |",
        "| CRD+KD | **79.00 ± 0.26 (3)** |",
        "| CRD+KD (teacher) | 90.00 ± 0.26 (3) |",
    ]


def test_networks_alone_are_the_runs_of_every_suite(mutual, bench):
    together, apart = mutual(teacher_seeds="paired").plan(), bench(teacher_seeds="paired", data=FIFTY).plan()
    for label in ("teacher", "none"):
        assert cell(together, label).runs == cell(apart, label).runs


def test_a_run_waits_for_no_other_and_one_seeds_runs_train_together(mutual):
    plan = mutual(methods=[DML, CRD], seeds=2, teacher_seeds="paired").plan()
    assert [one.needs for one in plan.runs.values()] == [()] * 8
    assert [len(one.runs) for one in cohorts(list(plan.runs.values()))] == [4, 4]


def test_a_peers_rate_is_part_of_the_identity_where_it_is_not_the_students(mutual):
    def run(**rates: float):
        return cell(mutual(lr_by_network=rates).plan(), "DML").runs[0]

    assert run().peer_lr is None
    assert run(resnet14=0.05).id == run().id
    assert run(resnet14=0.01).peer_lr == 0.01
    assert run(resnet8=0.01).peer_lr == 0.05


@pytest.mark.parametrize("name", ["ab", "fsp", "ft"])
def test_a_method_with_an_initial_stage_has_no_trained_teacher_to_listen_to(mutual, name):
    suite = mutual(methods=[name])
    plan = suite.plan()
    reasons = unserved(plan, plan.runs.values(), suite.methods)
    wanted = f"{name} begins with a stage that needs a trained teacher: mutual learning has none"
    assert list(reasons.values()) == [wanted]


def test_a_method_that_reuses_a_classifier_has_no_trained_teacher_to_take_it_from(mutual):
    suite = mutual(methods=["simkd"])
    plan = suite.plan()
    reasons = unserved(plan, plan.runs.values(), suite.methods)
    assert list(reasons.values()) == ["simkd reuses the classifier of a trained teacher: mutual learning has none"]


def test_a_method_must_serve_both_directions_and_the_reason_names_the_one_it_cannot(mutual, listens):
    suite = mutual(methods=[{"method": "listens", "how": "refuse"}], plugins=[listens])
    plan = suite.plan()
    reasons = unserved(plan, plan.runs.values(), suite.methods)
    assert list(reasons.values()) == ["resnet8->resnet14: it is too deep"]


REFUSED = {
    "a checkpoint": (
        {"pairs": [{"teacher": {"network": "resnet14", "checkpoint": "a.pth"}, "student": "resnet8"}]},
        "pairs[0]: with task mutual, the teacher is trained too: leave out its weights",
    ),
    "several teachers": (
        {"pairs": [{"teachers": {"network": "resnet14", "n": 2}, "student": "resnet8"}]},
        "pairs[0]: with task mutual, two networks train together: name one 'teacher'",
    ),
    "other data": (
        {"teacher_data": {"name": "digits", "resize": 32}},
        "'teacher_data': in mutual learning both networks see the same data: leave it out",
    ),
    "a teacher's label": (
        {"methods": [DML, {**DML, "label": "DML (teacher)"}]},
        "methods[1].label: 'DML (teacher)' is the label of a teacher's row: leave out ' (teacher)'",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_mutual_learning_has_no_use_for_is_refused(mutual, case):
    changes, said = REFUSED[case]
    suite = mutual(**changes)
    with pytest.raises(RequestError) as error:
        load(suite.path, suite.methods)
    assert str(error.value).endswith(said)


@pytest.mark.parametrize("rates", [{}, {"resnet14": 0.01}])
def test_what_show_says_to_repeat_a_run_plans_that_run(mutual, rates):
    suite = mutual(methods=[CRD], lr_by_network=rates, seeds=[3])
    plan = suite.plan()
    (run,) = cell(plan, "CRD+KD").runs
    text = suite_files(plan, run)[ENTRY]
    again = Bench(suite.folder, yaml.safe_load(text), name="again").plan()
    assert run.id in again.runs
    assert text.startswith("# options: --only crd+kd\n")


def test_both_networks_train_in_bf16(mutual):
    training = {"epochs": 1, "batch_size": 16, "precision": "bf16"}
    lane, data = lane_of(mutual(methods=["at"], training=training), "AT")
    before = [parameters(network) for network in lane.networks.values()]
    lane.begin_epoch()
    lane.step(batches(lane, data)[0], {}, 0)
    lane.check_finite()
    assert lane.failure is None
    for network, old in zip(lane.networks.values(), before, strict=True):
        assert all(parameter.dtype == torch.float32 for parameter in network.parameters())
        assert not torch.equal(parameters(network)[0], old[0])
