from pathlib import Path

import pytest

from bench.plan import Plan, build_plan
from bench.report.published import published
from bench.suite import load
from bench.suite.published import published_tables
from tests.stores import METHODS, plan_of

SUITES = Path(__file__).parents[2] / "suites"
WRN = {"teacher": "wrn_40_2", "student": "wrn_16_2"}
TABLE_1 = {"pairs": [WRN], "data": "cifar100", "published": {"source": "x", "table": 1}}


def shipped(name: str) -> Plan:
    path = SUITES / f"{name}.yaml"
    return build_plan(load(path, METHODS), path, METHODS)


@pytest.mark.parametrize(
    ("name", "number"),
    [("cifar100_similar_arch", "1"), ("cifar100_different_arch", "2"), ("imagenet", "3"), ("transfer", "4")],
)
def test_every_number_of_a_published_table_finds_its_row_in_the_suite(name, number):
    assert sorted(published(shipped(name)).values()) == sorted(published_tables()[number].values())


def test_the_errors_of_the_published_imagenet_table_are_accuracies_at_their_rows():
    assert {(label, metric): value for (_, label, metric), value in published(shipped("imagenet")).items()} == {
        ("teacher", "top1"): 73.31,
        ("none", "top1"): 69.76,
        ("AT", "top1"): 70.7,
        ("KD", "top1"): 70.66,
        ("CRD", "top1"): 71.17,
        ("CRD", "top5"): 90.13,
        ("CRD+KD", "top1"): 71.38,
        ("CRD+KD", "top5"): 90.49,
    }


def test_a_published_number_stands_at_its_own_pair_row_and_metric():
    similar, different = published(shipped("cifar100_similar_arch")), published(shipped("cifar100_different_arch"))
    transfer = published(shipped("transfer"))
    assert [similar["wrn_40_2->wrn_16_2", label, "top1"] for label in ("teacher", "none", "KD")] == [
        75.61,
        73.26,
        74.92,
    ]
    assert similar["vgg13->vgg8", "CRD+KD", "top1"] == 74.29
    assert different["wrn_40_2->ShuffleV1", "CRD+KD", "top1"] == 76.27
    assert different["resnet32x4->ShuffleV2", "KD", "top1"] == 74.45
    assert transfer["wrn_40_2->wrn_16_2", "CRD", "stl10_top1"] == 71.6
    assert transfer["wrn_40_2->wrn_16_2", "CRD", "tiny_imagenet_top1"] == 35.6


def test_a_row_with_settings_of_its_own_has_no_published_number(tmp_path):
    found = published(plan_of(tmp_path, methods=["kd", {"method": "kd", "temperature": 2.0}], **TABLE_1))
    assert {label for _, label, _ in found} == {"teacher", "none", "KD"}


def test_a_row_that_names_its_published_row_has_that_number_whatever_its_settings(tmp_path):
    row = {"method": "kd", "standardise": True, "label": "KD+LS", "published": "LSKD (KD+LS)"}
    found = published(
        plan_of(tmp_path, **TABLE_1 | {"methods": [row], "published": {"source": "x", "table": "later-1"}})
    )
    assert found == {("wrn_40_2->wrn_16_2", "KD+LS", "top1"): 76.11}


@pytest.mark.parametrize(("name", "table"), [("later_similar_arch", "later-1"), ("later_different_arch", "later-2")])
def test_every_published_number_of_a_later_methods_row_stands_in_its_suite(name, table):
    found = published(shipped(name))
    rows = {"LSKD (KD+LS)", "DKD", "DKD+LS", "MLKD", "MLKD+LS", "ReviewKD"}  # with settings of their own
    rows |= {"DIST", "TTM", "WTTM", "ITRD", "CTKD", "OFD"}
    known = [value for (*_, row, _), value in published_tables()[table].items() if row in rows]
    assert sorted(found.values()) == sorted(known)


def test_a_probe_of_a_stage_has_no_published_number():
    path = SUITES / "transfer.yaml"
    found = published(
        build_plan(load(path, METHODS, ["evaluations=[{data: {name: stl10, resize: 32}, stages: [1]}]"]), path, METHODS)
    )
    assert found == {}


def test_a_row_on_imagenet_with_the_settings_of_other_data_has_no_published_number():
    path = SUITES / "imagenet.yaml"
    found = published(build_plan(load(path, METHODS, ['methods=["kd", "crd"]']), path, METHODS))
    assert {label for _, label, _ in found} == {"teacher", "none"}


def test_a_label_of_ones_own_does_not_hide_or_borrow_a_published_number(tmp_path):
    methods = [
        {"method": "kd", "label": "Hinton"},
        {"method": "at", "weight": 1.0, "label": "AT"},
        {"terms": [{"method": "kd"}], "label": "KD"},  # its cross-entropy counts 1, not 0.1
    ]
    found = published(plan_of(tmp_path, methods=methods, **TABLE_1))
    assert {label: value for (_, label, _), value in found.items() if label not in ("teacher", "none")} == {
        "Hinton": 74.92
    }


@pytest.mark.parametrize(
    "changes",
    [
        {"data": "cifar10"},
        {"data": {"name": "cifar100", "train_fraction": 0.5}},
        {"data": {"name": "cifar100", "resize": 64}},
        {"teacher_data": {"name": "cifar100", "train_fraction": 0.5}},
        {"published": None},
    ],
    ids=str,
)
def test_other_data_than_the_published_or_no_table_named_gives_no_published_number(tmp_path, changes):
    assert published(plan_of(tmp_path, **(TABLE_1 | changes))) == {}
