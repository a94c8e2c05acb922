"""The trainer on a GPU: near the CPU's numbers, never waiting for the device inside an epoch, in every precision."""

import pytest
import torch

from bench.cost.measure import peak_bytes
from bench.train.epoch import teacher_features, train_epoch
from bench.train.evaluation import evaluate
from bench.train.learner import MAIN
from bench.train.precision import set_products
from tests.parity.reference import LATER
from tests.train.conftest import ALL, cell

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
SCHEDULE = {"epochs": 2, "batch_size": 16, "milestones": [1], "initial_epochs": 0}


@pytest.fixture(autouse=True)
def exact_products():
    yield set_products("fp32")
    set_products("fp32")


def losses(cohort_of_50, device: str, precision: str = "fp32") -> dict[str, float]:
    """Return each method's loss over two batches."""
    lanes, data, teachers, _ = cohort_of_50(torch.device(device), training={**SCHEDULE, "precision": precision})
    set_products(precision)
    batches = [batch for batch, _ in zip(data.epoch(1, MAIN, 1, 16), range(2), strict=False)]
    for _ in train_epoch(teachers, list(lanes.values()), batches):
        pass
    assert {label: lane.failure for label, lane in lanes.items() if lane.failure} == {}
    return {label: lane.learner.meter.read()["loss"] for label, lane in lanes.items()}


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-3), ("tf32", 0.02), ("bf16", 0.05)])
def test_every_method_trains_near_the_numbers_of_a_cpu(cohort_of_50, precision, tolerance):
    here, there = losses(cohort_of_50, "cpu"), losses(cohort_of_50, "cuda", precision)
    for label, loss in here.items():
        assert there[label] == pytest.approx(loss, rel=tolerance), label


def test_no_step_waits_for_the_device(cohort_of_50):
    lanes, data, teachers, _ = cohort_of_50(torch.device("cuda"), methods=[*ALL, *sorted(LATER)], training=SCHEDULE)
    everyone = list(lanes.values())
    for _ in train_epoch(teachers, everyone, data.epoch(1, MAIN, 1, 16, second_view=True)):
        pass  # libraries load and workspaces are made
    batches = list(data.epoch(1, MAIN, 2, 16, second_view=True))  # torchvision's distortions wait for the device
    steps = iter(train_epoch(teachers, everyone, batches))
    next(steps)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in steps:
            pass
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert {label: lane.failure for label, lane in lanes.items() if lane.failure} == {}


def test_a_batch_is_the_same_as_on_a_cpu(cohort_of_50):
    _, here, _, _ = cohort_of_50(torch.device("cpu"), methods=["kd"])
    _, there, _, _ = cohort_of_50(torch.device("cuda"), methods=["kd"])
    for one, other in zip(here.epoch(1, MAIN, 1, 16), there.epoch(1, MAIN, 1, 16), strict=True):
        assert torch.equal(one.indices, other.indices.cpu())
        assert torch.equal(one.targets, other.targets.cpu())
        torch.testing.assert_close(one.images, other.images.cpu(), rtol=1e-6, atol=1e-6)


def test_an_evaluation_agrees_with_a_cpus(cohort_of_50):
    found = []
    for device in (torch.device("cpu"), torch.device("cuda")):
        lanes, data, _, test = cohort_of_50(device, methods=["kd"])
        found.append(evaluate({"none": lanes["none"].student}, test, data.spec, device)["none"])
    assert found[1] == pytest.approx(found[0], abs=0.5)


def test_a_checkpoint_goes_on_where_it_was(cohort_of_50):
    lanes, data, teachers, _ = cohort_of_50(torch.device("cuda"), methods=["kd"], training=SCHEDULE)
    lane = lanes["KD"]
    for _ in train_epoch(teachers, [lane], data.epoch(1, MAIN, 1, 16)):
        pass
    lane.advance()
    saved = lane.checkpoint()
    again, _, _, _ = cohort_of_50(torch.device("cuda"), methods=["kd"], training=SCHEDULE)
    again["KD"].restore(again["KD"].opened(saved))
    assert again["KD"].clock == lane.clock
    for mine, theirs in zip(lane.student.state_dict().values(), again["KD"].student.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs)


def test_the_peak_holds_the_largest_tensors_of_a_step(cohort_of_50):
    lanes, data, teachers, _ = cohort_of_50(torch.device("cuda"), methods=["kd"], training=SCHEDULE)
    batch = next(iter(data.epoch(1, MAIN, 1, 16)))
    features = teacher_features(teachers, [lanes["KD"]], batch)
    lanes["KD"].begin_epoch()
    assert peak_bytes(lambda: lanes["KD"].step(batch, features, 0), torch.device("cuda")) > 1_000_000


def test_a_suite_trains_to_its_table(bench):
    suite = bench(methods=["at", {"method": "crd", "n_negatives": 16}], training=SCHEDULE)
    plan, store, _ = suite.run(device="cuda")
    record = store.record(cell(plan, "AT").runs[0].id)
    assert record is not None
    assert record["device"] == torch.cuda.get_device_name()
