"""Writes the suite file with which one run can be repeated, for `show` and bundles. Imports no torch."""

import os
import shlex
from pathlib import Path
from typing import Any

import yaml

from bench.plan.code import code_of_run
from bench.plan.model import Cell, Plan
from bench.program import started_as
from bench.schedule import UNUSED, Recipe, Schedule
from bench.spec import RunSpec
from bench.suite import NONE, TEACHER, DataEntry
from bench.suite.schema import TRANSFER
from bench.tasks import TASKS, task_of

ENTRY, SOURCE = "suite.yaml", "source.yaml"  # a transfer suite evaluates the networks of the second
OPTIONS = "# options: "  # begins the first line of `suite.yaml`, which has further options of the command line


def suite_files(plan: Plan, run: RunSpec) -> dict[str, str]:
    """Return the text of the suite files that repeat one run, by file name; `ENTRY` begins with its options.

    Paths of image folders and checkpoints are absolute.
    """
    for cell in plan.cells:
        if run.id in of_search(cell):
            plugins = [f"--plugin={path}" for path in plan.plugins]
            options = shlex.join(["--only", cell.label, "--pairs", cell.pair, *plugins])
            return {ENTRY: f"{OPTIONS}{options}\n{plan.text}"}  # repeats the search of the row
    cell, own = _shown(plan, run)
    document = _reduced(plan, cell, run, _seeds(plan, cell, own))
    documents = {ENTRY: document}
    evaluations = [one.model_dump(mode="json", exclude_unset=True) for one in plan.suite.evaluations]
    if evaluations and "evaluations" in TASKS[plan.suite.task].required_keys:
        document["evaluations"] = evaluations
    elif task_of(run).is_evaluation:
        transfer = {"title": f"run {run.id}", "task": TRANSFER, "from": {"suite": SOURCE.removesuffix(".yaml")}}
        documents = {ENTRY: transfer | {"evaluations": evaluations}, SOURCE: document}
    files: dict[str, str] = {}
    for name, content in documents.items():
        files[name] = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=110)
    trained = plan.trained(run)
    together = [trained, *(plan.runs[name] for name in trained.teachers)]
    used = [code for one in together for code in code_of_run(one, plan.code).values()]
    own_plugins = dict.fromkeys(f"--plugin={code.path}" for code in used if code.is_plugin)
    options = shlex.join(["--only", _label(cell, trained), *own_plugins])
    return files | {ENTRY: f"{OPTIONS}{options}\n{files[ENTRY]}"}


def of_search(cell: Cell) -> set[str]:
    """Return the ids of the trials of a cell and of their teachers."""
    trials = cell.choice.trials if cell.choice else ()
    return {run_id for trial in trials for run in trial.runs for run_id in (run.id, *run.teachers)}


def command(path: Path, text: str) -> str:
    """Return the command line that repeats the run of a stored `suite.yaml`, whose text is given, in another folder."""
    first, _, _ = text.partition("\n")
    return f"{started_as()} {shlex.quote(str(path))} {first.removeprefix(OPTIONS)} --results ANOTHER_FOLDER"


def _shown(plan: Plan, run: RunSpec) -> tuple[Cell, RunSpec]:
    """Return the first cell that shows a run, its students or an evaluation of its network; and the run it shows."""
    for cell in plan.cells:
        for own in cell.runs:
            trained = plan.trained(own)
            if run.id in (own.id, trained.id, *trained.teachers):
                return cell, own
    raise ValueError(f"run {run.id} belongs to no cell of {plan.name}")


def _seeds(plan: Plan, cell: Cell, own: RunSpec) -> list[int] | dict[str, list[int]]:
    """Return the seeds of a suite that has one run of a cell."""
    suite, is_teacher = plan.suite, cell.method == TEACHER
    student = (own.seed, own.ordered_by)
    init, order = student if student in suite.student_seeds else suite.student_seeds[0]
    if suite.crossed is None:
        return [init]
    teachers = plan.trained(own).teachers
    first = own.seed if is_teacher else plan.runs[teachers[0]].seed if teachers else suite.teacher_seed_list[0]
    return {"init": [init], "order": [order]} | ({"teacher": [first]} if suite.crosses_teachers else {})


def _label(cell: Cell, trained: RunSpec) -> str:
    return cell.method if cell.method in (TEACHER, NONE) else "+".join(term.method for term in trained.terms)


def _reduced(plan: Plan, cell: Cell, run: RunSpec, seeds: list[int] | dict[str, list[int]]) -> dict[str, Any]:
    """Return the suite as a document with one pair and row, the seeds, and only with keys that define the run."""
    suite, trained = plan.suite, plan.trained(cell.runs[0])
    document: dict[str, Any] = {"title": f"run {run.id}", "task": suite.task, "data": _data(plan, suite.data)}
    if suite.teacher_data is not None:
        document["teacher_data"] = _data(plan, suite.teacher_data)
    pair = next(pair for pair in suite.pairs if pair.name == cell.pair).model_dump(mode="json", exclude_unset=True)
    if trained.terms and len(trained.teachers) == 1 and "teachers" in pair:  # a row that combines them to `one`
        first = next(one for one in suite.pairs if one.name == cell.pair).members[0]
        pair = {"teacher": first.model_dump(mode="json", exclude_defaults=True), "student": pair["student"]}
    for teacher in (pair.get("teacher"), *(pair["teachers"] if isinstance(pair.get("teachers"), list) else ())):
        for key in ("checkpoint", "classes"):
            if teacher and teacher.get(key):
                teacher[key] = _absolute(plan, teacher[key])
    row: Any = NONE
    if cell.method not in (TEACHER, NONE):
        terms = [
            {"method": term.method, "weight": term.weight, "warmup": term.warmup or 0, **term.parameters}
            for term in trained.terms
        ]
        row = {"terms": terms, "combine": trained.combine, "label": _label(cell, trained)}
        if task_of(trained).objective is not None:
            row["task_weight"] = trained.task_weight
    document |= {
        "pairs": [pair],
        "methods": [row],
        "seeds": seeds,
        "teacher_seeds": suite.teacher_seeds,
        "training": _training(trained.training if cell.is_control else suite.training),
        "teacher_training": _unused(suite.training) | _training(suite.teacher_schedule),
        "lr_by_network": dict(suite.lr_by_network),
    }
    if suite.recipe_by_network:
        document["recipe_by_network"] = {name: _stated(own) for name, own in suite.recipe_by_network.items()}
    return document | {"threads": suite.threads}  # the number changes the rounding


def _training(schedule: Schedule) -> dict[str, Any]:
    """Return a schedule as a document; without `processes: 1`, a teacher would have the students' number."""
    return schedule.model_dump(mode="json", exclude_none=True) | {"processes": schedule.processes or 1}


def _unused(schedule: Schedule) -> dict[str, Any]:
    """Return the keys that only students use, with the values by which teachers do without them."""
    return {key: value for key, value in UNUSED.items() if getattr(schedule, key) is not None}


def _stated(recipe: Recipe) -> dict[str, Any]:
    """Return the keys of a recipe that the suite states."""
    stated = recipe.model_dump(mode="json", exclude_unset=True)
    return {key: UNUSED[key] if value is None else value for key, value in stated.items()}


def _data(plan: Plan, choice: DataEntry) -> dict[str, Any]:
    document = choice.model_dump(mode="json", exclude_unset=True)
    return document | {"path": _absolute(plan, document["path"])} if "path" in document else document


def _absolute(plan: Plan, path: str) -> str:
    return str(plan.file.parent.resolve() / os.path.expanduser(path))
