"""What a person sees while a suite trains: a bar and a live table on a terminal, elsewhere one line per epoch."""

import io
import logging
import re
import sys

import pytest
import yaml
from rich.console import Console

from bench.cli import main
from bench.launch.progress import Display, View
from bench.plan.duration import Paces
from tests.forks import on_terminal
from tests.stores import plan_of
from tests.train.conftest import FIFTY, document

EPOCH_LINE = r"resnet14->resnet8 seed 1 \| epoch {} \| [\d.]+ steps/s \| [\d.]+ s \| left \d+ (s|min) \| {}"


FAILING = """
from methods.base import Distiller, register


@register("failing", weight=1.0)
class Failing(Distiller):
    def loss(self, student, teacher, batch):
        self.steps = getattr(self, "steps", 0) + 1
        if self.steps > 4:
            raise RuntimeError("out of luck")
        return student.logits.square().mean()
"""


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


@pytest.fixture(scope="module")
def seen(tmp_path_factory) -> str:
    """Return what a terminal of 80 columns is sent by a suite with a method that fails, without control sequences."""
    folder = tmp_path_factory.mktemp("seen")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(document(methods=["kd", "failing"], data=FIFTY)))
    (folder / "failing.py").write_text(FAILING)
    status, said = on_terminal(folder, "tiny.yaml", "--plugin", "failing.py")
    assert status == 1
    return re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", said)


def test_on_a_terminal_a_live_table_shows_every_lane(seen):
    live, _, table = seen.rpartition("tiny\r\n")
    assert re.search(r"│ KD +│ +2 │ +[\d.]+ │ +[\d.]+ │ +[\d.]+ │", live)  # epoch, loss, last and best top-1
    assert "epoch 2/2" in live
    assert " | epoch " not in live
    assert "KD" in table


def test_on_a_terminal_something_shows_while_the_suite_is_read_and_pytorch_is_loaded(seen):
    order = ["Reading tiny.yaml ...", "Loading PyTorch ...", "Loading data and networks", "cohort 1 of 2"]
    assert sorted(order, key=seen.index) == order


def test_on_a_terminal_a_bar_shows_cohort_share_and_time_left_of_the_suite(seen):
    assert re.search(r"cohort 1 of 2 [━╸╺]+ +\d+% at least \d+ s left", seen)  # nothing is known of the students
    assert re.search(r"cohort 2 of 2 [━╸╺]+ +\d+% about \d+ s left", seen)


def test_on_a_terminal_a_failure_is_a_line_with_run_file_and_line(seen):
    line = re.search(r"Failing failed: RuntimeError: out of luck.*?\)\s+\(run\s+[0-9a-f]{16}\)", seen, re.DOTALL)
    assert line is not None
    assert "/failing.py:10, in epoch 2" in " ".join(line[0].split())
    assert seen.count("Failing failed: ") == 1


def test_the_cohorts_of_several_processes_are_shown_below_one_bar(tmp_path):
    runs = plan_of(tmp_path, methods=["kd", "at"]).runs
    display = Display(runs, Console(force_terminal=True, width=80, record=True, file=io.StringIO()), Paces())
    teacher, none, *_ = runs
    with display.shown():
        for process, run_id in ((0, teacher), (1, none)):
            display.take(View(pending=tuple(runs), cohorts=3), process)
            display.redraw()
            begun = View(begun=1, heading=f"cohort of {process}", rows=((run_id, "0", "", "", ""),), left={run_id: 0.5})
            display.take(begun, process)
        display.console.export_text(clear=True)
        display.redraw()
        seen = display.console.export_text(clear=True)
        display.drop(1)
        display.redraw()
        later = display.console.export_text()
    assert len(re.findall(r"cohort 2 of 3 [━╸╺]+ +25%", seen)) == 1  # two halves of four epochs
    assert seen.index("cohort of 0") < seen.index(teacher) < seen.index("cohort of 1") < seen.index(none)
    assert "cohort of 0" in later
    assert "cohort of 1" not in later
