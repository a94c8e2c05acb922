"""Finds the number that a paper has published for each cell of a plan. Imports no torch."""

from collections.abc import Mapping

from bench.plan import Cell, Plan
from bench.spec import DataSpec
from bench.suite import NONE
from bench.suite.published import published_tables
from bench.tasks import task_of

NETWORKS = {  # our names to theirs, if they differ by more than _ and -
    "ShuffleV1": "ShuffleNetV1",
    "ShuffleV2": "ShuffleNetV2",
    "torchvision.resnet34": "ResNet-34",
    "torchvision.resnet18": "ResNet-18",
}
DATA = {  # our names to theirs, with the papers' image size
    "cifar100": ("CIFAR-100", (32, 32)),
    "imagenet": ("ImageNet", (224, 224)),
    "stl10": ("STL-10", (32, 32)),
    "tiny_imagenet": ("TinyImageNet", (32, 32)),
}
NOT_DEFAULTS: Mapping[str, Mapping[str, str]] = {  # of a paper's rows on some data, if they are not the defaults
    "ImageNet": {"KD": "task_weight=0.5", "CRD": "temperature=0.07", "CRD+KD": "temperature=0.07"},
}


def published(plan: Plan) -> dict[tuple[str, str, str], float]:
    """Return the numbers of the suite's published table in percent, by (pair, label, metric)."""
    if plan.suite.published is None or plan.suite.teacher_data is not None:  # papers' teachers see what students see
        return {}
    known = published_tables()[str(plan.suite.published.table)]
    numbers = {}
    for cell in plan.cells:
        row = _row(plan, cell)
        for metric, recorded in cell.metrics.items():
            if row is not None and (*row, recorded) in known:
                numbers[cell.pair, cell.label, metric] = known[*row, recorded]
    return numbers


def _row(plan: Plan, cell: Cell) -> tuple[str, str, str, str] | None:
    """Return the papers' data, teacher, student and row of a cell; None if none has its settings or evaluation."""
    run = cell.runs[0]
    task = task_of(run)
    if not task.is_published(run) or cell.is_control:
        return None
    name, evaluated_on = _data(plan.trained(run).data), _data(run.data)
    if name is None or evaluated_on is None:
        return None
    if task.is_evaluation:
        name = f"{name}->{evaluated_on}"
    if not cell.published and cell.overrides != NOT_DEFAULTS.get(name, {}).get(cell.standard, ""):
        return None
    teacher, student = (NETWORKS.get(one, one.replace("_", "-")) for one in (cell.teacher, cell.student))
    return name, teacher, student, "student" if cell.method == NONE else cell.published or cell.standard


def _data(data: DataSpec) -> str | None:
    """Return the papers' name of a data set, or None for a part of it or other sizes."""
    if data.name not in DATA or data.train_per_class is not None or data.train_fraction is not None:
        return None
    name, size = DATA[data.name]
    return name if data.size == size else None
