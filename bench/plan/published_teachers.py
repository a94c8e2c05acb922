"""Finds the teachers of the papers' tables in a folder, as their authors lay them out. Imports no torch.

RepDistiller's `scripts/fetch_pretrained_teachers.sh` writes `save/models/NAME_vanilla/ckpt_epoch_240.pth`; mdistiller
reads the same files from `download_ckpts/cifar_teachers/NAME_vanilla/ckpt_epoch_240.pth`. NAME is that of the network
here, for all six: wrn_40_2, resnet56, resnet110, resnet32x4, vgg13 and ResNet50.
"""

import os
from pathlib import Path

from bench.plan.model import Sources
from bench.suite.pairs import PairEntry, TeacherChoice, repeated
from bench.suite.published import published_tables
from bench.suite.schema import Suite
from bench.types import RequestError

PLACES = ("", "save/models", "models", "download_ckpts/cifar_teachers", "cifar_teachers")  # the first that has it
SUFFIX = "_vanilla"
FILE = "ckpt_epoch_240.pth"
TABLES = ("1", "2")  # of `published.csv`, whose teachers these are; other tables have teachers of their own


def with_published_teachers(suite: Suite, path: Path, sources: Sources) -> Suite:
    """Return a suite whose teachers without weights have those of its folder `teachers`, with published accuracies.

    Accuracies are those of Tables 1 and 2, for teachers that are evaluated on CIFAR-100's images as they are.

    Raises:
        RequestError: the folder lacks a teacher, or a pair has copies of one that differ in their seeds.
    """
    if suite.teachers is None:
        return suite
    folder = path.parent.resolve() / os.path.expanduser(suite.teachers)
    where = f"{path}: teachers: {folder}"
    checkpoints = sources.take(f"teachers {suite.teachers}", lambda: _found(folder, where))
    wanted = [teacher.network for pair in suite.pairs for teacher in pair.members if _is_open(teacher)]
    if missing := sorted({*wanted} - checkpoints.keys()):
        has = ", ".join(sorted(checkpoints)) or "none"
        raise RequestError(
            f"{where}: no weights of {', '.join(missing)}; found are: {has}. Looked for NAME{SUFFIX}/{FILE} there and "
            f"in {', '.join(PLACES[1:])}. Put the files there, name a 'checkpoint' in the pair, or leave 'teachers' "
            "out: then all teachers are trained"
        )
    if copies := [pair.name for pair in suite.pairs if repeated(one.network for one in pair.members if _is_open(one))]:
        raise RequestError(
            f"{where}: has one teacher of each network, but {copies[0]} needs several. Leave out the pair or 'teachers'"
        )
    accuracies = _accuracies(suite)
    pairs = tuple(_given(pair, checkpoints, accuracies) for pair in suite.pairs)
    return suite.model_copy(update={"pairs": pairs})


def _found(folder: Path, where: str) -> dict[str, str]:
    """Return the files of the teachers in a folder, by network."""
    if not os.path.isdir(folder):
        raise RequestError(f"{where}: there is no such folder. Name the folder of the published teachers")
    checkpoints: dict[str, str] = {}
    for place in PLACES:
        for file in sorted((folder / place).glob(f"*{SUFFIX}/{FILE}")):
            checkpoints.setdefault(file.parent.name.removesuffix(SUFFIX), str(file))
    return checkpoints


def _is_open(teacher: TeacherChoice) -> bool:
    return teacher.checkpoint is None and teacher.weights is None


def _given(pair: PairEntry, checkpoints: dict[str, str], accuracies: dict[str, float]) -> PairEntry:
    """Return a pair whose teachers without weights get files, and accuracies where these are published."""

    def given(teacher: TeacherChoice) -> TeacherChoice:
        if not _is_open(teacher):
            return teacher
        own: dict[str, object] = {"checkpoint": checkpoints[teacher.network]}
        if teacher.network in accuracies:
            own["accuracy"] = accuracies[teacher.network]
        return teacher.model_copy(update=own)

    members = tuple(given(teacher) for teacher in pair.members)
    return pair.model_copy(update={"teacher": members[0]} if pair.teacher is not None else {"teachers": members})


def _accuracies(suite: Suite) -> dict[str, float]:
    """Return the published top-1 accuracies in percent of teachers by network; none for other data than CIFAR-100."""
    data = suite.teacher_data or suite.data
    if data.name != "cifar100" or data.resize not in (None, 32) or data.view is not None:
        return {}
    return {
        teacher.replace("-", "_"): value
        for table in TABLES
        for (name, teacher, _, method, metric), value in published_tables()[table].items()
        if (name, method, metric) == ("CIFAR-100", "teacher", "top1")
    }
