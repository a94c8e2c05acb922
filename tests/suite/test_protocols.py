"""A suite that states a protocol has what the protocol fixes, or is refused; its captions name the protocol."""

from pathlib import Path

import pytest
import yaml

from bench.plan import build_plan
from bench.report.conditions import conditions
from bench.suite import load
from bench.suite.protocols import protocols
from bench.types import RequestError
from tests.stores import METHODS

SUITES = Path(__file__).parents[2] / "suites"
SIMILAR = SUITES / "cifar100_similar_arch.yaml"
NAME = "crd-cifar100/1"


def changed(folder: Path, **keys: object) -> Path:
    """Return a copy of the suite of Table 1 with other keys."""
    path = folder / "changed.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(SIMILAR.read_text()) | keys))
    return path


@pytest.mark.parametrize("name", ["cifar100_similar_arch", "cifar100_different_arch"])
def test_the_suites_of_the_published_tables_follow_their_protocol(name):
    assert load(SUITES / f"{name}.yaml", METHODS).protocol == NAME


def test_a_suite_that_differs_from_its_protocol_is_refused_with_each_key(tmp_path):
    path = changed(
        tmp_path,
        training={"epochs": 2, "milestones": [1]},
        seeds=2,
        lr_by_network={"vgg8": 0.1},
        teacher_training={"epochs": 3},
    )
    with pytest.raises(RequestError) as caught:
        load(path, METHODS)
    (line,) = str(caught.value).splitlines()
    for text in (
        f"protocol: the suite differs from {NAME}",
        "training.epochs 2, not 240",
        "training.milestones [1], not [150, 180, 210]",
        "seeds 2, not 3 or more",
        "lr_by_network {'vgg8': 0.1}, not {}",
        "teacher_training {'epochs': 3}, not left out",
    ):
        assert text in line


@pytest.mark.parametrize(
    "keys",
    [
        {"training": {"evaluate_every": 10}},
        {"seeds": [7, 8, 9, 10]},
        {"methods": ["ttm"], "title": "Another", "threads": 8},
    ],
    ids=lambda keys: next(iter(keys)),
)
def test_keys_that_a_protocol_does_not_fix_may_differ(tmp_path, keys):
    assert load(changed(tmp_path, **keys), METHODS).protocol == NAME


def test_an_unknown_protocol_is_refused_with_the_nearest_one(tmp_path):
    with pytest.raises(RequestError, match=r"unknown protocol 'crd-cifar100/2'\. Did you mean 'crd-cifar100/1'"):
        load(changed(tmp_path, protocol="crd-cifar100/2"), METHODS)


@pytest.mark.parametrize(
    ("overrides", "beginning"),
    [
        ([], f"Protocol {NAME} ({protocols()[NAME].source}); "),
        (["training.evaluate_every=240"], f"Protocol {NAME} ("),
        (["seeds=1"], f"Not protocol {NAME}: seeds 1, not 3 or more. "),
    ],
    ids=["as it is", "an option without effect", "fewer seeds"],
)
def test_the_caption_names_the_protocol_or_how_the_command_line_left_it(overrides, beginning):
    plan = build_plan(load(SIMILAR, METHODS, overrides), SIMILAR, METHODS)
    assert conditions(plan).startswith(beginning)


def test_a_protocol_is_no_part_of_a_runs_identity(tmp_path):
    path = changed(tmp_path, protocol=None)
    plans = [build_plan(load(one, METHODS), one, METHODS) for one in (SIMILAR, path)]
    assert list(plans[0].runs) == list(plans[1].runs)
