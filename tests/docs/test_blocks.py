"""Every block of code in the README and the documentation is run as it stands, page by page."""

import re
import shlex
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.docs.blocks import PAGES, ROOT, RUN, blocks
from tests.docs.pages import copy_project, run_page
from tests.few import short_or_whole

ONE_THREAD = "--set threads=1"
ONE_JOB = f"{ONE_THREAD} --jobs 1"
FEW = f"--seeds 1 {ONE_THREAD} --set training.epochs=1 --set training.milestones=[] --set training.initial_epochs=0"
FEW_DIGITS = "--set data.train_per_class=4 --set teacher_data.train_per_class=4 --set teacher_training.epochs=1"
FEW_DIGITS += " --set 'pairs=[{teacher: resnet14, student: resnet8}]'"
FEW_TO_PROBE = "{data: {name: digits, resize: 32, train_per_class: 4}, training: {epochs: 1, milestones: []}}"
TINY = ONE_THREAD + " --set 'data={name: digits, resize: 16, train_per_class: 4}'"
SIMILAR = "python run_suite.py suites/cifar100_similar_arch.yaml"
ONE_CELL = '--pairs "resnet56->resnet20"'
LONGER = {  # the lines that would take minutes or hours, or need data: what is added to them
    "distill-bench given.yaml": ONE_JOB,
    "distill-bench recipe.yaml": f"{ONE_JOB} --set training.epochs=1 --set training.batch_size=20",
    "distill-bench cost recipe.yaml --steps 1": f"--only kd {ONE_THREAD}",
    "distill-bench shared.yaml": ONE_JOB,
    "distill-bench scaled.yaml --plugin scaled_mse.py": ONE_JOB,
    "distill-bench photos.yaml": f"{ONE_JOB} --set workers=0",  # whole: the next one reads its networks
    "distill-bench photos_transfer.yaml": f"{ONE_JOB} --set workers=0"
    + short_or_whole(f" --set 'evaluations=[{FEW_TO_PROBE}]'", ""),
    "distill-bench quickstart": f"{FEW} {FEW_DIGITS} --jobs 1 --set 'methods=[kd]'",
    'distill-bench quickstart --set "methods=[kd, ttm]"': f"{FEW} {FEW_DIGITS} --jobs 1",
    "distill-bench mine.yaml --plugin my_method.py": f"{FEW} {FEW_DIGITS} --jobs 1",
    "python run_suite.py suites/quickstart.yaml --device cpu --jobs 2": f"{FEW} {FEW_DIGITS} --set 'methods=[kd]'"
    + short_or_whole(" --jobs 1", ""),
    SIMILAR: f"--dry-run --only kd {ONE_CELL}",
    "python run_suite.py suites/cifar100_different_arch.yaml": "--dry-run --only kd --pairs '*->ShuffleV2'",
    f"{SIMILAR} --dry-run": f"--only kd {ONE_CELL}",
    f"{SIMILAR} --dry-run --slurm": short_or_whole(f"--only kd {ONE_CELL}", ""),
    f"python run_suite.py cost suites/cifar100_similar_arch.yaml {ONE_CELL}": f"--only kd --steps 1 {TINY}",
    f"{SIMILAR} {ONE_CELL} --only kd --seeds 1 --set training.epochs=2": f"--jobs 1 --set training.epochs=1 {TINY}",
}
ONE_CPU = "{partition: main, cpus_per_task: 1}"
ON_A_CLUSTER = {  # the lines that need one: what is added to them there
    f"{SIMILAR} --slurm --set slurm.partition=gpu --set slurm.gpus_per_node=1": f"--set 'slurm={ONE_CPU}'",
    "python run_suite.py cancel suites/cifar100_similar_arch.yaml": "",
}
ELSEWHERE = {  # the lines that are not run: why
    "git clone <this repository> distillation-bench && cd distillation-bench": "a copy of the checkout stands for it",
    "python -m pytest tests/parity": "part of these tests",
    "distill-bench export RUN --to student": "RUN stands for an id; tests/share exports a student",
}


def lines_of(page):
    return [command for block in blocks(page) if block.language == "bash" for command in block.commands]


def is_installation(line):
    return line.startswith(("pip install", "python -m pip install"))


def test_every_line_of_the_tables_is_in_a_page():
    lines = {line for page in PAGES for line in lines_of(page)}
    assert {*LONGER, *ON_A_CLUSTER, *ELSEWHERE} - lines == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_file_of_a_page_is_used_by_a_later_block(page):
    there = list(blocks(page))
    files = {place: block.title for place, block in enumerate(there) if block.title}
    used = {file for place, file in files.items() for later in there[place + 1 :] if Path(file).stem in later.text}
    assert set(files.values()) - used == set()


def test_what_pip_is_told_to_install_is_there():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    lines = [line for page in PAGES for line in lines_of(page) if is_installation(line)]
    for line in lines:
        words = shlex.split(line)
        named = [word for word in words[words.index("install") + 1 :] if re.match(r"[\w.]", word)]
        for word in named:
            if word.startswith("http"):
                continue  # the value of an option
            local = re.fullmatch(r"\.(?:\[([\w,]+)\])?", word)
            wanted = Requirement("distillation-bench" + word[1:] if local else word)
            assert wanted.name == "distillation-bench", line
            assert wanted.extras <= extras.keys(), line
    assert lines


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_the_blocks_of_a_page_run_as_they_stand(page, tmp_path):
    there = list(blocks(page))
    if not any(block.language in RUN for block in there):
        return
    copy_project(tmp_path / "project")
    elsewhere = [line for line in lines_of(page) if line in ELSEWHERE or line in ON_A_CLUSTER or is_installation(line)]
    status, log = run_page(tmp_path / "project", there, LONGER, elsewhere, {"HOME": str(tmp_path), "COLUMNS": "100"})
    assert status == 0, f"{page}:\n{log}"
