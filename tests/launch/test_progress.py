"""What a person sees while a cohort trains: a live table on a terminal, a line an epoch elsewhere."""

import logging
import re
import sys
from pathlib import Path

import pexpect
import pytest
import yaml

from bench.cli import main
from tests.train.conftest import document

ROOT = Path(__file__).parents[2]
EPOCH_LINE = r"resnet14->resnet8 seed 1 \| epoch {} \| [\d.]+ steps/s \| [\d.]+ s \| left \d+ (s|min) \| {}"


@pytest.fixture
def arguments(tmp_path) -> list[str]:
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(document(methods=["kd"])))
    return [str(path), "--results", str(tmp_path / "results")]


@pytest.mark.usefixtures("few")
def test_elsewhere_each_epoch_is_a_line_with_rate_time_left_and_top1_by_lane(arguments, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["run_suite.py", *arguments])
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # those of earlier tests write elsewhere
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 0
    said = capsys.readouterr()
    assert re.search(EPOCH_LINE.format("1/2", r"loss: none [\d.]+, KD [\d.]+"), said.err)
    assert re.search(EPOCH_LINE.format("2/2", r"top1 %: none [\d.]+, KD [\d.]+"), said.err)
    assert "\x1b" not in said.err + said.out


def test_on_a_terminal_a_live_table_shows_every_lane(arguments):
    words = [
        "-c",
        "import sys; from tests.forks import command_line; command_line(False, True, *sys.argv[1:])",
        *arguments,
    ]
    child = pexpect.spawn(sys.executable, words, cwd=str(ROOT), dimensions=(40, 100), encoding="utf-8", timeout=90)
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0
    seen = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", child.before)
    live, _, table = seen.rpartition("tiny\r\n")
    assert re.search(r"│ KD +│ +2 │ +[\d.]+ │ +[\d.]+ │ +[\d.]+ │", live)  # epoch, loss, last and best top-1
    assert "epoch 2/2" in live
    assert " | epoch " not in live
    assert "KD" in table
