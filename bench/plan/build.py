"""From a suite to its cells, their runs and the cohorts in which they train. Imports no torch.

The plan is a graph: a run lists the runs it needs (its teachers), and a cohort starts when all of them are done.
"""

import hashlib
import itertools
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from bench.data import resolve, views_of
from bench.spec import (
    METRICS,
    PEER,
    DataSpec,
    HeadSpec,
    NetworkSpec,
    RunSpec,
    Schedule,
    TermSpec,
    canonical,
    column,
)
from bench.suite import (
    MOST_SEEDS,
    NONE,
    PEERS,
    TEACHER,
    DataEntry,
    EvaluationEntry,
    PairEntry,
    Row,
    Suite,
    TeacherChoice,
    rows,
)
from bench.types import RequestError
from methods import Method

MOST_VALUES = 9000  # that a linear probe reads of a stage
TOLERANCE = 0.1 + 1e-9  # percentage points by which a checkpoint may miss its stated accuracy, and rounding


@dataclass(frozen=True)
class Cell:
    """The runs that differ only in their seed: one cell of the table.

    Attributes:
        pair: `<teacher>-><student>`.
        teacher: the teacher network's name.
        student: the student network's name.
        method: registered name(s), `teacher` or `none`.
        label: the row's name.
        overrides: what differs from the method's defaults.
        standard: the name that tables give the row's method; "" for several terms.
        runs: one a seed.
        metrics: the tables' names of what the runs record, and the records'.
        evaluation: the name that the tables give the evaluation which the runs are, or "" where a row has one alone.
    """

    pair: str
    teacher: str
    student: str
    method: str
    label: str
    overrides: str
    standard: str
    runs: tuple[RunSpec, ...]
    metrics: Mapping[str, str]
    evaluation: str = ""

    @property
    def title(self) -> str:
        """Return the row's name, and for what is judged the evaluation's, or its kind where a row has one alone."""
        run = self.runs[0]
        kind = "" if run.head is None else run.task
        return f"{self.label} {self.evaluation or kind}".strip()


@dataclass(frozen=True)
class Checkpoint:
    """A file of teacher weights.

    Attributes:
        path: the file, or None for weights that torchvision publishes under the name that the run's specification has.
        accuracy: top-1 in percent that it must reach within 0.1 points, or None.
        where: the place in the suite that names it.
    """

    path: Path | None
    accuracy: float | None
    where: str

    def check(self, top1: float) -> None:
        """Check the accuracy that the file reaches, in percent, against the one that the suite states.

        Raises:
            RequestError: they differ by more than 0.1 points.
        """
        if self.accuracy is not None and abs(top1 - self.accuracy) > TOLERANCE:
            raise RequestError(
                f"{self.where}.accuracy: {self.path or 'it'} reaches {top1:.2f} % on the test split, but the suite "
                f"says {self.accuracy} %. Name the right file, correct 'accuracy', or leave it out"
            )


@dataclass(frozen=True)
class Plan:
    """All that a suite asks for.

    Attributes:
        suite: the settings.
        name: the suite's name, a folder of the results.
        file: the suite file, as the command line named it.
        cells: in the table's order: by pair, then row.
        runs: every run by id, teachers before their students.
        checkpoints: by the id of the run that evaluates them.
        sources: what the suite's image folders and checkpoints are; see `Sources`.
        changes: what the command line set instead of the suite file, as `KEY=VALUE`.
    """

    suite: Suite
    name: str
    file: Path
    cells: tuple[Cell, ...]
    runs: dict[str, RunSpec]
    checkpoints: dict[str, Checkpoint]
    sources: Mapping[str, Any]
    changes: tuple[str, ...] = ()

    @property
    def titles(self) -> dict[str, tuple[str, str]]:
        """Return (pair, row) of each run; one that serves several cells stands under the first."""
        found: dict[str, tuple[str, str]] = {}
        for cell in reversed(self.cells):
            for run in cell.runs:
                if run.source is not None:
                    found[run.source] = (cell.pair, cell.label)
                tested = self.runs[run.source or run.id]
                if cell.method == TEACHER:
                    for teacher_id in tested.teachers:  # one of several teachers has no cell of its own
                        network = self.runs[teacher_id].student.network
                        found[teacher_id] = (cell.pair, f"{TEACHER} {network}")
                found[run.id] = (cell.pair, cell.title)
        return found

    def with_needs(self, runs: Iterable[RunSpec]) -> list[RunSpec]:
        """Return some runs and all that they need, in the plan's order."""
        chosen: set[str] = set()
        left = [run.id for run in runs]
        while left:
            chosen.update(left)
            left = [needed for run_id in left for needed in self.runs[run_id].needs if needed not in chosen]
        return [run for run in self.runs.values() if run.id in chosen]

    def trained(self, run: RunSpec) -> RunSpec:
        """Return the run that trained the network which a cell's run is about: another, or itself."""
        return run if run.source is None else self.runs[run.source]


@dataclass
class Sources:
    """What the files outside the suite are: an image folder's specification, a checkpoint's hash.

    With them a suite's tables can be made again from the store alone, when the files are gone or elsewhere.

    Attributes:
        remembered: from an earlier time, by what the suite says of the file; {} to insist on the files.
        found: likewise, now.
    """

    remembered: Mapping[str, Any]
    found: dict[str, Any] = field(default_factory=dict)

    def take(self, key: str, look: Callable[[], Any]) -> Any:  # noqa: ANN401
        """Return what a file is: what `look` finds or, where it raises a `RequestError`, what is remembered."""
        try:
            self.found[key] = look()
        except RequestError:
            if key not in self.remembered:
                raise
            self.found[key] = self.remembered[key]
        return self.found[key]


@dataclass(frozen=True)
class Cohort:
    """Runs with the same data, schedule, seed and teachers, or network to be judged: they train in lockstep."""

    runs: tuple[RunSpec, ...]

    @property
    def needs(self) -> set[str]:
        """Return the ids of the runs that must be done first."""
        return {needed for run in self.runs for needed in run.needs}


def build(
    suite: Suite,
    path: Path,
    methods: Mapping[str, Method],
    remembered: Mapping[str, Any] | None = None,
    changes: Sequence[str] = (),
) -> Plan:
    """Return the plan of a suite.

    Args:
        suite: what was read.
        path: from where.
        methods: by name.
        remembered: an earlier plan's `sources`, for files that are not there any more.
        changes: what the command line set, for captions.

    Raises:
        RequestError: a data folder or a checkpoint is missing, or teacher and student data do not fit together.
    """
    sources = Sources(remembered or {})
    data = _resolve(suite.data, path, "data", sources)
    teacher_data = _resolve(suite.teacher_data, path, "teacher_data", sources) if suite.teacher_data else data
    if teacher_data.size != data.size and suite.task != "cross_modal":
        raise RequestError(
            f"{path}: teacher_data: images of {teacher_data.size} pixels, but data has {data.size}: "
            "teacher and student see the same image. Set the same resize for both"
        )
    if suite.task == "cross_modal" and teacher_data.view not in (None, *views_of(data.name)):
        raise RequestError(
            f"{path}: teacher_data: teachers see {teacher_data.view}, which {data.name}'s images, on which students "
            f"learn from them, do not have. Known: {', '.join(views_of(data.name)) or 'no view'}"
        )
    cells: list[Cell] = []
    runs: dict[str, RunSpec] = {}
    checkpoints: dict[str, Checkpoint] = {}
    problems: list[str] = []
    for index, pair in enumerate(suite.pairs):
        where = f"{path}: pairs[{index}].teacher"
        try:
            teachers = {
                seed: _teachers(suite, pair, seed, teacher_data, path.parent, where, sources)
                for seed in _teacher_seeds(suite)
            }
        except RequestError as error:
            problems.append(str(error))
            continue
        for run, checkpoint in itertools.chain(*teachers.values()):
            runs.setdefault(run.id, run)
            if checkpoint is not None:
                known = checkpoints.setdefault(run.id, checkpoint)
                if None in (known.accuracy, checkpoint.accuracy):
                    checkpoints[run.id] = known if checkpoint.accuracy is None else checkpoint
                elif known.accuracy != checkpoint.accuracy:
                    problems.append(f"{where}.accuracy: {checkpoint.accuracy}, but {known.where} says {known.accuracy}")
        ids = {seed: tuple(run.id for run, _ in members) for seed, members in teachers.items()}
        taught_by = {seed: ids.get(seed, next(iter(ids.values()))) for seed in suite.seed_list}
        tested = [_tested(pair, members, seed) for seed, members in teachers.items()]
        student = pair.student.spec
        plain = tuple(_plain(suite, student, seed, data, suite.training) for seed in suite.seed_list)
        if suite.task == "cross_modal":  # students answer with their teachers' classes, and see no labels
            taught_data = data.model_copy(update={"classes": teacher_data.classes})
            plain = tuple(run.but(task=suite.task, data=taught_data, task_weight=0.0) for run in plain)
        pair_cells = [
            _cell(pair, TEACHER, TEACHER, "", TEACHER, {run.id: run for run in tested}.values()),
            _cell(pair, NONE, NONE, "", NONE, plain),
        ]
        for row in rows(suite, methods):
            distilled = [
                _distil(run, row, taught_by[run.seed], suite.training.initial_epochs, methods) for run in plain
            ]
            if suite.task == "mutual":
                distilled = [_with_peer(suite, pair, run) for run in distilled]
            row_cell = _cell(pair, row.method, row.label, row.overrides, row.standard, distilled)
            pair_cells += _of_each(row_cell) if suite.task == "mutual" else [row_cell]
        found = [run for cell in pair_cells for run in cell.runs if _learns(run)]
        if suite.evaluations:
            pair_cells = [judged for cell in pair_cells for judged in _judged(suite, cell, path, sources)]
            found += [run for cell in pair_cells for run in cell.runs]
        cells += pair_cells
        runs |= {run.id: run for run in found if run.id not in runs}
    if problems:
        raise RequestError("\n".join(problems))
    return Plan(suite, path.stem, path, tuple(cells), runs, checkpoints, sources.found, tuple(changes))


def portions(runs: Sequence[RunSpec], max_lanes: int | None = None) -> list[Cohort]:
    """Return all that is to be done for some runs: what is only evaluated, a run each, and the cohorts."""
    evaluated = [Cohort((run,)) for run in runs if run.schedule is None]
    return evaluated + cohorts(runs, max_lanes)


def cohorts(runs: Sequence[RunSpec], max_lanes: int | None = None) -> list[Cohort]:
    """Return runs grouped into cohorts, in the order of their first runs.

    A run without a teacher that is nobody's teacher joins the first cohort that sees the same batches, so that a
    suite's undistilled students cost no pass over the data of their own. A teacher never joins those who wait for it.
    More than `max_lanes` are split into as few cohorts as that allows, of about the same size.
    """
    trained = [run for run in runs if run.schedule is not None]
    awaited = {needed for run in trained for needed in run.needs}
    guests: list[RunSpec] = []
    groups: dict[tuple[str, tuple[str, ...]], list[RunSpec]] = {}
    for run in trained:
        if not run.needs and run.id not in awaited:
            guests.append(run)
        else:
            groups.setdefault((_batches(run), run.needs), []).append(run)
    for run in guests:
        batches = _batches(run)
        same_batches = [group for group in groups if group[0] == batches]
        group = same_batches[0] if same_batches else (batches, ())
        groups.setdefault(group, []).append(run)
    order = {run.id: position for position, run in enumerate(trained)}
    found = []
    for members in groups.values():
        members.sort(key=lambda run: order[run.id])
        parts = math.ceil(len(members) / max_lanes) if max_lanes else 1
        bounds = [len(members) * part // parts for part in range(parts + 1)]
        found += [Cohort(tuple(members[start:end])) for start, end in itertools.pairwise(bounds)]
    return sorted(found, key=lambda cohort: order[cohort.runs[0].id])


def _resolve(choice: DataEntry, path: Path, key: str, sources: Sources) -> DataSpec:
    """Return the resolved data; an image folder's relative path counts from the suite file."""
    if choice.path is None:
        return resolve(choice)

    def look() -> dict[str, Any]:
        folder = path.parent.resolve() / os.path.expanduser(str(choice.path))
        try:
            spec = resolve(choice.model_copy(update={"path": str(folder)}))
        except RequestError as error:
            raise RequestError(f"{path}: {key}: {error}") from None
        return {**spec.model_dump(mode="json"), "path": str(spec.path)}

    found = sources.take(f"data {canonical(choice)}", look)
    try:
        return DataSpec.model_validate_json(json.dumps(found))
    except ValidationError as error:
        raise RequestError(f"{path}: {key}: what sources.json remembers of it cannot be read: {error}") from None


def _teacher_seeds(suite: Suite) -> tuple[int, ...]:
    return (0,) if suite.teacher_seeds == "fixed" else suite.seed_list


def _teachers(
    suite: Suite, pair: PairEntry, seed: int, data: DataSpec, folder: Path, where: str, sources: Sources
) -> list[tuple[RunSpec, Checkpoint | None]]:
    """Return a pair's teachers for a seed; of equal ones that are trained here, each after the first has the next."""
    step = 1 if suite.teacher_seeds == "fixed" else MOST_SEEDS
    found = []
    for place, teacher in enumerate(pair.members):
        copy = pair.members[:place].count(teacher)
        found.append(_teacher(suite, teacher, seed + copy * step, data, folder, where, sources))
    return found


def _tested(pair: PairEntry, members: Sequence[tuple[RunSpec, Checkpoint | None]], seed: int) -> RunSpec:
    """Return the run whose accuracy is the pair's teacher row: the teacher's own, or that of all together."""
    runs = [run for run, _ in members]
    if len(runs) == 1:
        return runs[0]
    together = NetworkSpec(network=pair.teacher_name)
    return RunSpec(student=together, data=runs[0].data, seed=seed, teachers=tuple(run.id for run in runs))


def _teacher(
    suite: Suite, teacher: TeacherChoice, seed: int, data: DataSpec, folder: Path, where: str, sources: Sources
) -> tuple[RunSpec, Checkpoint | None]:
    # a cross-modal suite has no use for the accuracy of weights that are given, and often not the data that would tell
    task = "cross_modal" if suite.task == "cross_modal" and not teacher.is_tested else "compression"
    given = RunSpec(task=task, student=teacher.spec, data=data, schedule=None, seed=0, checkpoint=teacher.weights)
    if teacher.weights is not None:
        return given, Checkpoint(None, teacher.accuracy, where)
    if teacher.checkpoint is None:
        return _plain(suite, teacher.spec, seed, data, suite.teacher_schedule), None
    path = folder / os.path.expanduser(teacher.checkpoint)  # leaves an unknown user's home as it is written

    def look() -> str:
        try:
            return hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as error:
            raise RequestError(
                f"{where}.checkpoint: {path}: {error.strerror}. Put the file there, or leave 'checkpoint' out: "
                "the teacher is then trained"
            ) from None

    digest = sources.take(f"checkpoint {teacher.checkpoint}", look)
    return given.but(checkpoint=digest), Checkpoint(path, teacher.accuracy, where)


def _learns(run: RunSpec) -> bool:
    """Return whether there is anything to train: a cross-modal student without a teacher keeps its initial weights."""
    return run.task != "cross_modal" or bool(run.terms) or run.checkpoint is not None


def _judged(suite: Suite, cell: Cell, path: Path, sources: Sources) -> Iterator[Cell]:
    """Yield the cells that judge the networks which a cell's runs train: one an evaluation, and one a stage.

    Raises:
        RequestError: data is missing, or two evaluations have the same name.
    """
    known: set[str] = set()
    for index, evaluation in enumerate(suite.evaluations):
        key = f"evaluations[{index}]"
        seen = _as_trained(evaluation.data, cell.runs[0].data.view)
        problems = seen.problems()
        if problems:
            raise RequestError(f"{path}: {key}.data: {'; '.join(problems)}")
        data = _resolve(seen, path, f"{key}.data", sources)
        for stage in evaluation.stages or (None,):
            runs = tuple(_judging(evaluation, stage, run, data) for run in cell.runs)
            name = _evaluation_name(suite, evaluation, stage)
            metrics = {f"{name}_{metric}" if name else metric: metric for metric in METRICS[evaluation.kind]}
            twice = sorted(known & metrics.keys())
            if twice:
                raise RequestError(f"{path}: {key}: {twice[0]} twice: give each a 'name' of its own")
            known |= metrics.keys()
            yield replace(cell, runs=runs, metrics=metrics, evaluation=name.rstrip("_"))


def _as_trained(data: DataEntry, view: str | None) -> DataEntry:
    """Return an evaluation's data in the view that a network was trained with."""
    if view is None:
        return data.model_copy(update={"view": None})
    return data.model_copy(update={"view": view, "mean": None, "std": None})  # a view has a normalisation of its own


def _evaluation_name(suite: Suite, evaluation: EvaluationEntry, stage: int | None) -> str:
    """Return what precedes an evaluation's metrics in the tables; "" where it needs no name."""
    several_data_sets = len({one.data.name for one in suite.evaluations}) > 1
    words = []
    if evaluation.name:
        words.append(evaluation.name)
    elif len(suite.evaluations) > 1:
        if several_data_sets:
            words.append(evaluation.data.name)
        if evaluation.kind == "finetune":
            words.append("finetune")
        if evaluation.kind == "probe" and not several_data_sets and not evaluation.stages:
            words.append("embedding")
    if stage is not None:
        words.append(f"stage{stage}")
    return "_".join(words)


def _judging(evaluation: EvaluationEntry, stage: int | None, run: RunSpec, data: DataSpec) -> RunSpec:
    """Return the run that judges the network which another run trains, a probe's at one stage or the embedding."""
    most_values = None
    if stage is not None:
        most_values = evaluation.most_values or MOST_VALUES
    return RunSpec(
        task=evaluation.kind,
        student=run.student,
        data=data,
        schedule=evaluation.training.model_copy(update={"initial_epochs": 0}),
        seed=run.seed,
        head=HeadSpec(classes=run.data.classes, stage=stage, most_values=most_values),
        source=run.id if _learns(run) else None,
    )


def _plain(suite: Suite, network: NetworkSpec, seed: int, data: DataSpec, schedule: Schedule) -> RunSpec:
    """Return the run that trains a network on labels alone."""
    lr = suite.lr_by_network.get(network.network, schedule.lr)
    schedule = schedule.model_copy(update={"lr": lr, "initial_epochs": 0})
    return RunSpec(student=network, data=data, schedule=schedule, seed=seed)


def _distil(
    plain: RunSpec, row: Row, teachers: tuple[str, ...], initial_epochs: int, methods: Mapping[str, Method]
) -> RunSpec:
    """Return the run that adds a row's terms to an undistilled one."""
    terms = []
    for name, weight, given in row.terms:
        method = methods[name]
        settings = {
            key: parameter.adapter.validate_python(given.get(key, parameter.default))
            for key, parameter in method.parameters.items()
        }
        if weight is None:
            weight = method.weight
        terms.append(TermSpec(method=name, version=method.version, weight=weight, parameters=settings))
    first = methods[row.terms[0][0]]
    task_weight = first.task_weight if row.task_weight is None else row.task_weight
    if plain.task == "cross_modal":
        task_weight = plain.task_weight  # there are no labels to weigh
    assert plain.schedule is not None  # a student trains
    if not any(methods[name].has_initial_stage for name, _, _ in row.terms):
        initial_epochs = 0
    return plain.but(
        schedule=plain.schedule.model_copy(update={"initial_epochs": initial_epochs}),
        terms=tuple(terms),
        task_weight=task_weight,
        teachers=teachers,
        combine=row.combine if len(teachers) > 1 else "sum",  # of one teacher's terms, both are the same run
    )


def _with_peer(suite: Suite, pair: PairEntry, run: RunSpec) -> RunSpec:
    """Return the run in which a student and its teacher train together, of the one that learns from the latter."""
    assert run.schedule is not None  # a student trains
    (peer,) = pair.members
    lr = suite.lr_by_network.get(peer.network, suite.training.lr)
    return run.but(task="mutual", teachers=(), peer=peer.spec, peer_lr=None if lr == run.schedule.lr else lr)


def _of_each(cell: Cell) -> tuple[Cell, Cell]:
    """Return the cells of the two networks that a cell's runs train: the student's and its teacher's."""
    names = METRICS["compression"]
    own = replace(cell, metrics={name: name for name in names})
    metrics = {name: column(PEER, name) for name in names}
    return own, replace(cell, label=f"{cell.label}{PEERS}", overrides="", standard="", metrics=metrics)


def _cell(pair: PairEntry, method: str, label: str, overrides: str, standard: str, runs: Iterable[RunSpec]) -> Cell:
    members = tuple(runs)
    return Cell(
        pair=pair.name,
        teacher=pair.teacher_name,
        student=pair.student.network,
        method=method,
        label=label,
        overrides=overrides,
        standard=standard,
        runs=members,
        metrics={name: name for name in METRICS[members[0].task]},
    )


def _batches(run: RunSpec) -> str:
    """Return what decides the batches a run sees, and when: its data, seed and schedule, learning rate apart."""
    assert run.schedule is not None
    common = run.schedule.model_copy(update={"lr": 1.0, "initial_epochs": 0})
    task = "compression" if run.task == "mutual" else run.task  # both learn from the same labels
    return f"{task} {run.seed} {canonical(common)} {run.data.key}"
