"""What a run's precision changes: the networks' maps and products, and nothing that a method does not ask for."""

from dataclasses import replace

import pytest
import torch

from bench.train.epoch import teacher_features, train_epoch
from bench.train.learner import MAIN
from bench.train.precision import as_float32, set_products
from bench.types import Features
from tests.few import short_or_whole
from tests.train.conftest import ALL, cell, rows

BF16 = {"epochs": 2, "batch_size": 16, "milestones": [1], "initial_epochs": 1, "precision": "bf16"}
# of teachers, in the short form: a CPU may take many times as long for bfloat16
FP32 = short_or_whole({"teacher_training": {"precision": "fp32"}}, {})
SHORT = {"training": BF16 | {"epochs": 1}, "data": {"name": "digits", "resize": 32, "train_per_class": 2}, **FP32}
LOOKS = """
import torch
from methods.base import Distiller, register


@register("{name}", weight=1.0)
class {name}(Distiller):
    {flag}

    def loss(self, student, teacher, batch):
        seen = [f.dtype for n in (student, teacher) for f in (n.stages[-1], *n.stages[1:2], n.embedding, n.logits)]
        seen.append((torch.ones(2, 2) @ torch.ones(2, 2)).dtype)
        raise RuntimeError(" ".join(str(kind).removeprefix("torch.") for kind in seen))
"""


@pytest.mark.parametrize(
    ("name", "flag", "seen"), [("safe", "pass", "float32"), ("light", "autocast = True", "bfloat16")]
)
def test_a_method_sees_float32_unless_it_says_that_it_takes_maps_as_they_are(bench, tmp_path, name, flag, seen):
    plugin = tmp_path / f"{name}.py"
    plugin.write_text(LOOKS.format(name=name, flag=flag))
    plan, store, _ = bench(methods=[name], training=BF16, **FP32, plugins=[plugin]).run(only=[name])
    failure = store.failure(cell(plan, name).runs[0].id)
    assert failure is not None
    network = [seen, seen, "float32", "float32"]
    assert failure.reason.split(": ")[1].split(" (")[0].split() == [*network, *network, seen]


def test_the_networks_run_in_bfloat16_and_their_weights_stay_float32(cohort):
    lanes, data, teachers, _ = cohort(training=BF16)
    lane = lanes["none"]
    batch = next(iter(data.epoch(1, MAIN, 1, 16)))
    lane.begin_epoch()
    assert {stage.dtype for stage in lane.learner.features(batch).stages} == {torch.bfloat16}
    features = teacher_features(teachers, [lanes["KD"]], batch)
    assert {stage.dtype for one in features.values() for stage in one.stages} == {torch.bfloat16}
    assert {p.dtype for p in lane.student.parameters()} == {torch.float32}


def test_features_in_float32_are_tuples_of_what_they_were():
    maps = tuple(torch.ones(1, 2, 3, 3, dtype=torch.bfloat16) for _ in range(3))
    given = Features(maps, maps[:1], torch.ones(1, 4, dtype=torch.bfloat16), torch.ones(1, 5, dtype=torch.bfloat16))
    seen = as_float32(given)
    assert type(seen.stages + seen.preactivations) is tuple
    assert {one.dtype for one in (*seen.stages, *seen.preactivations, seen.embedding, seen.logits)} == {torch.float32}
    assert as_float32(given, maps=False).stages is maps
    assert as_float32(replace(given, final=maps[0])).final.dtype == torch.float32
    assert as_float32(replace(given, final=maps[0]), maps=False).final is maps[0]
    tokens = as_float32(replace(given, class_tokens=(given.embedding,))).class_tokens
    assert tokens[0].dtype == torch.float32
    exact = Features((), (), torch.ones(1, 4, dtype=torch.float64), torch.ones(1, 5, dtype=torch.float64))
    assert as_float32(exact) is exact


def test_every_method_trains_in_bfloat16_near_its_float32_self(cohort):
    """A step's loss differs by the maps' rounding, 2^-8, and by what a method makes of it."""
    losses = {}
    for precision in ("fp32", "bf16"):
        training = {**BF16, "initial_epochs": 0, "precision": precision}
        lanes, data, teachers, _ = cohort(training=training, methods=short_or_whole(ALL[::3], ALL))
        batch = next(iter(data.epoch(1, MAIN, 1, 16)))
        for _ in train_epoch(teachers, list(lanes.values()), [batch]):
            pass
        assert {label for label, lane in lanes.items() if lane.failure} == set()
        losses[precision] = {label: lane.learner.meter.read()["loss"] for label, lane in lanes.items()}
    assert losses["bf16"] != losses["fp32"]
    for label, loss in losses["fp32"].items():
        assert losses["bf16"][label] == pytest.approx(loss, rel=0.05), label


@pytest.mark.parametrize(
    ("methods", "alone", "changes"),
    [
        (["ab"], ["AB"], SHORT),
        pytest.param(
            ["vid", "at", "ab", "fitnet", "ft"],
            ["none", "VID", "AT", "AB", "FitNet", "FT"],
            {"training": BF16, **FP32},
            marks=pytest.mark.slow,
        ),
    ],
    ids=["ab", "all"],
)
def test_a_run_in_bfloat16_has_the_same_bits_alone_and_in_company(bench, methods, alone, changes):
    suite = bench(methods=methods, **changes)
    plan, together, _ = suite.run("together")
    for label in alone:
        _, store, _ = suite.run(f"alone-{label}", only=[label], teachers=together)
        run_id = cell(plan, label).runs[0].id
        assert rows(store, run_id) == rows(together, run_id)
        assert "top1" in rows(store, run_id)[-1]


def test_precision_is_part_of_a_runs_identity(bench):
    ids = [
        set(bench(methods=["kd"], training={**BF16, "precision": precision}).plan().runs)
        for precision in ("fp32", "tf32", "bf16")
    ]
    assert not ids[0] & ids[1] | ids[1] & ids[2] | ids[0] & ids[2]


def test_tensor_cores_round_only_where_tf32_is_asked_for():
    try:
        set_products("tf32")
        assert torch.backends.cuda.matmul.allow_tf32
        assert torch.backends.cudnn.allow_tf32
    finally:
        set_products("fp32")
    assert not torch.backends.cuda.matmul.allow_tf32
    assert not torch.backends.cudnn.allow_tf32
