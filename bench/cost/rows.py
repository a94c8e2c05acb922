"""Measures the costs of the rows of a suite, and writes cost.csv.

The lanes are the suite's own, on its data. Teachers have random weights, which do not affect costs.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch

from bench.cost.measure import measure
from bench.data.batches import TrainingData
from bench.data.images import Split, load_data
from bench.launch.preparation import most_processes, unserved
from bench.plan import Cell, Plan
from bench.plan.duration import COST
from bench.schedule import NO_INITIAL_STAGE
from bench.spec import RunSpec
from bench.store import Store, csv_text, write_whole
from bench.store.files import read_csv
from bench.suite import NONE, TEACHER
from bench.tasks import task_of
from bench.train.build import build_lane
from bench.train.lane import Lane, failure_of
from bench.train.learner import INITIAL, Teacher
from bench.train.rehearsal import stand_in
from bench.types import RequestError
from methods import Method

logger = logging.getLogger(__name__)

TEACHER_SEED = 0
TEXTS = ("pair", "label", "stage", "setting")  # columns of cost.csv that hold text


@dataclass(frozen=True)
class Cost:
    """The costs of a training step of one row; times are medians in milliseconds."""

    pair: str
    label: str
    stage: str  # main, or initial for the stage with which AB, FSP and FT begin
    # loading, augmenting and normalising a batch, and a second view of it if a row reads one; shared by a pair's rows
    data_ms: float
    teacher_ms: float | None  # the teacher's forward pass, likewise shared; None if no row has a teacher
    student_ms: float  # the student's forward pass
    term_ms: float  # cross-entropy and the method's term, forward
    backward_ms: float  # the backward pass through both
    optimizer_ms: float  # the optimizer's step, the method's own state and the meter
    step_ms: float  # the last four together
    # time in addition to the undistilled student's step, in percent of that step; the whole time if the stage does not
    # train the student; None if the undistilled student could not be measured
    own_percent: float | None
    peak_mb: float  # peak memory of the step, without what was allocated before it, in 10^6 bytes
    # number of parameters that the method trains beside the student, or adds to its network
    extra_parameters: int
    step_gflop: float  # multiplications and additions of products and convolutions in the step, in 10^9
    setting: str = ""  # device, threads, steps and changes of the suite; only rows with the same ones are compared

    @property
    def name(self) -> str:
        """Return the label of the row, followed by the stage if it is not the main one."""
        return _name(self.label, self.stage)


@dataclass(frozen=True)
class PairCosts:
    """The costs of the rows of one pair, and the reasons why rows have none."""

    pair: str
    rows: list[Cost] = field(default_factory=list)  # in the order of the table
    inapplicable: dict[str, str] = field(default_factory=dict)  # reasons by label
    failed: dict[str, str] = field(default_factory=dict)  # reasons by name, of rows that raised an error


def costs(
    plan: Plan, cells: Sequence[Cell], methods: Mapping[str, Method], data: Path, device: torch.device, steps: int
) -> Iterator[PairCosts]:
    """Yield the costs of the first seeds of cells and of the undistilled students, pair by pair.

    All networks and methods are checked before anything is measured.

    Raises:
        RequestError: data is missing, a network or a parameter does not fit, or runs have several processes.
    """
    torch.set_num_threads(plan.suite.threads)
    pairs = [_to_measure(plan, pair, cells) for pair in dict.fromkeys(cell.pair for cell in cells)]
    runs = [cell.runs[0] for chosen in pairs for cell in chosen]
    if not runs:
        raise RequestError("cost: none of these rows trains a student: teachers and initial weights take no step")
    most = most_processes(runs)
    if most > 1:
        raise RequestError(
            f"training: processes: {most}: costs are measured in one process. Add --set training.processes=1, and "
            "--set training.batch_size=N where N images are one process's share"
        )
    unserved(plan, runs, methods)
    train, _ = load_data(runs[0].data, data, device, plan.suite.workers)  # all pairs' students see the same data
    for chosen in pairs:
        if chosen:
            yield of_pair(plan, chosen, methods, train, device, steps)


def _to_measure(plan: Plan, pair: str, cells: Sequence[Cell]) -> list[Cell]:
    """Return those of the cells that train a student of a pair, and the undistilled student, in the plan's order.

    The control of rows with an initial stage is left out, since its steps are those of the undistilled student. A cell
    of an evaluation is replaced by the training of the evaluated network, which is measured once.
    """
    by_run: dict[str, Cell] = {}
    for cell in plan.cells:
        is_student = cell.method != TEACHER and not cell.is_control
        if cell.pair == pair and is_student and (cell in cells or cell.method == NONE):
            runs = tuple(plan.trained(run) for run in cell.runs)
            if not task_of(runs[0]).is_evaluation:  # else it evaluates initial weights, which need no training
                by_run.setdefault(runs[0].id, replace(cell, runs=runs))
    return list(by_run.values())


def of_pair(
    plan: Plan, cells: Sequence[Cell], methods: Mapping[str, Method], train: Split, device: torch.device, steps: int
) -> PairCosts:
    """Return the costs of one pair's cells, none of which is its teacher, on the given training images."""
    reasons = unserved(plan, (cell.runs[0] for cell in cells), methods)
    training = training_data(cells, plan, train, device)
    teachers = stand_ins(cells, plan, training)
    pair_costs = PairCosts(cells[0].pair)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    setting = "; ".join([name, f"{plan.suite.threads} threads", f"{steps} steps", *plan.changes])
    built: list[tuple[Cell, Lane]] = []  # a cell whose method has an initial stage has two lanes
    for cell in cells:
        if (run_id := cell.runs[0].id) in reasons:
            pair_costs.inapplicable[cell.label] = reasons[run_id]
            continue
        for run in stages(cell):
            try:
                built.append((cell, build_lane(run, teachers, training.info, methods, device)))
            except BaseException as error:  # an error in a method affects only its own row
                failure = failure_of(error, "while it was built")
                logger.debug("%s", failure.details)
                pair_costs.failed[cell.label] = failure.reason
    measured = measure([lane for _, lane in built], teachers, training, steps)
    rows = list(zip(built, measured, strict=True))
    plain_ms = next((numbers["step_ms"] for (cell, _), numbers in rows if cell.method == NONE and numbers), None)
    for (cell, lane), numbers in rows:
        if numbers is None:
            assert lane.failure is not None
            pair_costs.failed[_name(cell.label, lane.stage)] = lane.failure.reason
            continue
        own_percent = None
        if plain_ms is not None:
            own_ms = numbers["step_ms"] - (plain_ms if lane.learner.trains_network else 0.0)
            own_percent = 100 * own_ms / plain_ms
        row = Cost(cell.pair, cell.label, lane.stage, **numbers, own_percent=own_percent, setting=setting)
        pair_costs.rows.append(row)
    return pair_costs


def training_data(cells: Sequence[Cell], plan: Plan, train: Split, device: torch.device) -> TrainingData:
    """Return the training set of a pair, with the teacher's view of it."""
    run = cells[0].runs[0]
    if task_of(run).objective is None:
        train = Split(train.images, None)  # such students see no labels
    seen = next((plan.runs[run_id].data for cell in cells for run_id in cell.runs[0].teachers), run.data)
    return TrainingData(run.data, train, device, seen, recipe=run.schedule)


def stages(cell: Cell) -> Iterator[RunSpec]:
    """Yield a cell's first run at the start of its main stage and, if it has one, at that of its initial stage."""
    run = cell.runs[0]
    yield run.but(schedule=run.training.model_copy(update=NO_INITIAL_STAGE))
    if run.training.has_initial_stage:
        yield run.but(schedule=run.training.model_copy(update=NO_INITIAL_STAGE | {"initial_epochs": 1}))


def stand_ins(cells: Iterable[Cell], plan: Plan, training: TrainingData) -> dict[str, Teacher]:
    """Return a stand-in with random weights for each teacher of the cells, by run id."""
    run_ids = dict.fromkeys(run_id for cell in cells for run_id in cell.runs[0].teachers)
    images = next(iter(training.epoch(TEACHER_SEED, INITIAL, 1, 64))).teacher_images
    networks = {run_id: plan.runs[run_id].student for run_id in run_ids}
    return {run_id: stand_in(one, training.teacher_spec, images, TEACHER_SEED) for run_id, one in networks.items()}


def _name(label: str, stage: str) -> str:
    return label if stage == "main" else f"{label} ({stage})"


def write(plan: Plan, store: Store, rows: Iterable[Cost]) -> Path:
    """Write cost.csv into the suite's results; earlier rows of the same setting stay. Return its path."""
    rounded: list[dict[str, Any]] = [
        {name: round(value, 3) if isinstance(value, float) else value for name, value in asdict(row).items()}
        for row in rows
    ]
    path = store.suite_folder(plan.folder) / COST
    order = {(cell.pair, cell.label): place for place, cell in enumerate(plan.cells)}
    measured = {(row["pair"], row["label"]) for row in rounded}
    names = [field.name for field in fields(Cost)]
    settings = {row["setting"] for row in rounded}
    rounded += [
        {name: row[name] if name in TEXTS else _number(row[name]) for name in names}
        for row in read_csv(path)
        if row.keys() >= set(names)
        and (row["pair"], row["label"]) in order.keys() - measured
        and (row["setting"] in settings or not settings)
    ]
    rounded.sort(key=lambda row: order.get((row["pair"], row["label"]), len(order)))
    write_whole(path, csv_text(names, rounded))
    return path


def _number(text: str) -> float | str:
    """Return the number that a value of cost.csv is, or the text itself, such as an empty one."""
    try:
        return int(text) if text.isdecimal() else float(text)
    except ValueError:
        return text
