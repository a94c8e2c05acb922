"""Whatever a suite file or an override says, the answer is a plan, or one message with file and key; nothing else."""

import random
import re
import sys
import time
from copy import deepcopy
from pathlib import Path

import pytest
import yaml

import methods
from bench.cli import main
from bench.suite import Suite
from tests.faults.conftest import TINY
from tests.train.conftest import document

SHORT, LONG = 500, 20_000
MAX_S = 5.0  # for one answer
WORDS = "0 -1 nan ~ 1e400 8:00:00 010 ../x kd crd resnet8 digits cpu [ { \x1b[31m"
ODD: list[object] = [
    *WORDS.split(),
    *(None, True, "", " ", "é" * 300, "a: b: c", -1, 0, 1.5, 10**30, float("nan"), float("inf"), -0.0, [], {}, [[]]),
    *([None], {"a": 1}, [{"method": "kd"}] * 3, {"name": "digits"}, {"grid": [1, 2]}, [1, 2, 3]),
]
NAMES = """
title data pairs methods training teacher_training seeds threads workers task slurm max_lanes figures x teacher_seeds
training.lr training.epochs training.batch_size training.milestones training. .training training.lr.x a.b.c títle
data.name data.resize data.train_per_class slurm.timeout_min pairs.0.teacher methods.0 methods.0.weight
"""
KEYS = [*NAMES.split(), "", "a" * 500]


KEYED = re.compile(r"(?:odd\.yaml(?::\d+)?(?: with --set .+?)?|--set .+?): (.+?): ")  # a place and a key
OF_NO_KEY = re.compile(
    r"odd\.yaml:\d+: (is not valid YAML|is nested too deeply|unknown key ''|.* as a key is not text)"
    r"|odd\.yaml:\d+: found \".*\": control characters"  # in a key
    r"|odd\.yaml: (found an empty file|found one \w+, not a mapping|cannot be read)"
    r"|--set .*: (is not valid YAML|is nested too deeply|write it as KEY=VALUE|.* is not a mapping in the suite file)"
)


def names_place_and_key(line: str, text: str, sets: list[str]) -> bool:
    """Return whether a line of a message names the file or the option and, if a key is at fault, a key that exists."""
    for option in sets:
        line = line.replace(option.replace("=", " ", 1), "--set K=V")  # a value may have colons
    if keyed := KEYED.match(line):
        first = re.split(r"[.\[]", keyed[1])[0]
        if first in Suite.model_fields or any(first in source for source in (text, *sets)):
            return True
    return OF_NO_KEY.match(line) is not None


def places(node: object, path: tuple = ()) -> list[tuple]:
    """Return the paths of all values of a document."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [path, *(place for key, value in items for place in places(value, (*path, key)))]


def changed(chance: random.Random) -> str:
    """Return the text of a suite file with one to three faults."""
    whole = deepcopy(document(**TINY | {"methods": ["kd", {"method": "at", "weight": 2.0}]}))
    for _ in range(chance.choice([0, 1, 1, 1, 2, 3])):
        *parents, last = chance.choice(places(whole)[1:] or [("title",)])
        node = whole
        for key in parents:
            node = node[key]
        kind = chance.random()
        if kind < 0.6:
            node[last] = deepcopy(chance.choice(ODD))
        elif kind < 0.8:
            del node[last]
        elif isinstance(node, dict):
            node[chance.choice(KEYS)] = deepcopy(chance.choice(ODD))
    text = yaml.safe_dump(whole, allow_unicode=True)
    for _ in range(chance.choice([0, 0, 0, 1, 2])):
        at = chance.randrange(len(text) + 1)
        text = text[:at] + chance.choice("\t\n :-[]{}&*!|>'\"%@`#,?0aé\x00\ufeff") + text[at + chance.randrange(2) :]
    return text


@pytest.mark.parametrize("number", [SHORT, pytest.param(LONG, marks=pytest.mark.slow)])
def test_every_request_ends_in_0_or_in_2_with_one_message(number, tmp_path, monkeypatch, capsys):
    chance, known = random.Random(number), methods.catalog()
    monkeypatch.setattr(methods, "catalog", lambda plugins=(): known)  # read once, not for every request
    monkeypatch.chdir(tmp_path)
    path, results = Path("odd.yaml"), Path("results")
    ended = {0: 0, 2: 0}
    for case in range(number):
        text = changed(chance)
        path.write_text(text, encoding="utf-8")
        sets = [f"--set={chance.choice(KEYS)}={chance.choice(ODD)}" for _ in range(chance.choice([0, 0, 1, 2]))]
        words = ["run_suite.py", str(path), "--dry-run", "--device", "cpu", "--results", str(results), *sets]
        monkeypatch.setattr(sys, "argv", words)
        began = time.monotonic()
        with pytest.raises(SystemExit) as end:
            main()
        took = time.monotonic() - began
        said = capsys.readouterr()
        where = f"case {case}\n{text}\n{sets}\n{said.err}"
        assert end.value.code in (0, 2), where
        ended[end.value.code] += 1
        assert took < MAX_S, where
        assert "Traceback" not in said.err, where
        if end.value.code == 2:
            assert said.err, where
            assert all(names_place_and_key(line, text, sets) for line in said.err.splitlines()), where
            assert said.err.replace("\n", "").isprintable(), where
            assert said.out == "", where
        assert [one.name for one in tmp_path.iterdir()] == ["odd.yaml"], where
    print(ended)  # noqa: T201
