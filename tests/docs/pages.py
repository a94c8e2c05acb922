"""Runs the blocks of a page in order, in a copy of the project of their own."""

import os
import runpy
import shlex
import shutil
import subprocess
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import yaml

from tests.docs.blocks import ROOT, Block
from tests.few import use_few
from tests.forks import server

COPIED = ["bench", "methods", "suites", "run_suite.py", "Makefile", "pyproject.toml"]
CODE = ("bench", "methods")
PROGRAMS = [["distill-bench"], ["python", "run_suite.py"], ["python", "-m", "bench"]]  # the command line
FRAGMENT = {"title": "A fragment", "data": "cifar100", "pairs": [{"teacher": "resnet20", "student": "resnet8"}]}
FRAGMENT |= {"methods": ["kd"]}
GIVEN = {"resnet20.pth": ("resnet20", 100)}  # checkpoints that pages name: networks and their classes
NO_DATA = ("imagenet", "imagefolder")  # that a dry run would look for, and not find


class Page:
    """The blocks of a page while they are run.

    Args:
        longer: what is added to commands, by the exact line, so that they end within seconds.
        elsewhere: the exact lines that are not run here.
    """

    def __init__(self, longer: Mapping[str, str], elsewhere: Sequence[str]) -> None:
        self.longer, self.elsewhere = longer, elsewhere
        self.names: dict[str, object] = {"__name__": "__main__"}

    def run(self, block: Block) -> None:
        """Run a block, or write the file that it is."""
        if block.title:
            path = Path(block.title)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, encoding="utf-8")
        if block.language == "bash":
            for command in block.commands:
                self.command(command)
        elif block.language == "python" and not block.title:
            exec(compile(block.text, f"<block in line {block.line}>", "exec"), self.names)
        elif block.language == "yaml" and not block.title:
            check_suite(block)

    def command(self, line: str) -> None:
        """Run a line of a shell; it must end with the exit status 0."""
        if line in self.elsewhere:
            return
        say(f"$ {line} {self.longer.get(line, '')}")
        words = shlex.split(f"{line} {self.longer.get(line, '')}", comments=True)
        own = next((program for program in PROGRAMS if words[: len(program)] == program), None)
        if own:
            command_line(words[len(own) :])
        elif words[0] == "python" and words[1].endswith(".py"):
            runpy.run_path(words[1], run_name="__main__")
        elif words[0] == "make":
            subprocess.run(["make", "--dry-run", *words[1:]], check=True, stdout=subprocess.DEVNULL)
        else:
            subprocess.run(["bash", "-euc", line], check=True)


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def command_line(words: list[str]) -> None:
    """Run the command line in this process."""
    from bench.cli import main

    sys.argv = ["distill-bench", *words]
    try:
        main()
    except SystemExit as end:
        if end.code:
            raise RuntimeError(f"exit status {end.code}") from None


def check_suite(block: Block) -> None:
    """Load a suite, and list what it would run; of a part of one, check the keys."""
    import torch

    from bench.models import build
    from bench.suite import load
    from methods import catalog

    document = yaml.safe_load(block.text)
    for name, (network, classes) in GIVEN.items():
        if name in block.text:
            torch.save(build(network, num_classes=classes).state_dict(), name)
    path = Path(f"block_in_line_{block.line}.yaml")
    path.write_text(block.text if "title" in document else yaml.safe_dump(FRAGMENT | document), encoding="utf-8")
    suite = load(path, catalog())
    if "title" in document and suite.data.name not in NO_DATA:
        command_line([str(path), "--dry-run"])


def _run_all(
    folder: str, blocks: Sequence[Block], longer: Mapping[str, str], elsewhere: Sequence[str], variables: dict[str, str]
) -> None:
    """Run blocks in a folder, in this process: a fork of a server that has loaded torch and the project's code.

    What they print goes into the folder's file `log`. The process ends with 1 at the first block that fails.
    """
    log = os.open(Path(folder, "log"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ.update(variables)
    os.chdir(folder)
    sys.path.insert(0, folder)
    if any(block.title and Path(block.title).parts[0] in CODE for block in blocks):
        for name in [name for name in sys.modules if name.partition(".")[0] in CODE]:
            del sys.modules[name]  # the copy's code is read, which a block changes
    use_few(pytest.MonkeyPatch())
    page = Page(longer, elsewhere)
    for block in blocks:
        try:
            page.run(block)
        except BaseException:
            say(f"the block in line {block.line} fails:")
            traceback.print_exc()
            sys.exit(1)


def run_page(
    folder: Path,
    blocks: Sequence[Block],
    longer: Mapping[str, str],
    elsewhere: Sequence[str],
    variables: Mapping[str, str],
    seconds: float = 300,
) -> tuple[int | None, str]:
    """Run blocks in a copy of the project, in a process of their own.

    Args:
        folder: the copy.
        blocks: of one page, in order.
        longer: see `Page`.
        elsewhere: see `Page`.
        variables: of the environment.
        seconds: how long they may take.

    Returns:
        The exit status of the process, None if it did not end in time, and what the blocks printed.
    """
    process = server().Process(target=_run_all, args=(str(folder), blocks, longer, elsewhere, dict(variables)))
    process.start()
    process.join(seconds)
    status = process.exitcode
    process.kill()
    return status, (folder / "log").read_text(encoding="utf-8")


def copy_project(folder: Path) -> None:
    """Copy what a checkout has and the blocks use."""
    folder.mkdir()
    for name in COPIED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)
