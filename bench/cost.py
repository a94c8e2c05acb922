"""What each method costs: milliseconds a step by phase, memory, parameters and arithmetic, all lanes side by side.

The lanes are those that a suite trains, on its data; the teacher's weights are random, on which no cost depends.
"""

import logging
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from itertools import islice
from statistics import median
from typing import Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from bench.data.batches import TrainingData
from bench.data.images import Split, load
from bench.figures import write_cost
from bench.launch.launcher import Settings, most_processes, unserved
from bench.plan import Cell, Plan
from bench.spec import NetworkSpec, RunSpec
from bench.store import Store, csv_text, write_whole
from bench.suite import NONE, TEACHER
from bench.train.build import build_lane
from bench.train.lane import Lane, failure_of
from bench.train.learner import INITIAL, Teacher
from bench.train.loop import teacher_features
from bench.train.networks import build_network, network_shapes, placed
from bench.train.precision import set_products
from bench.types import Batch, RequestError
from methods import Method

logger = logging.getLogger(__name__)

WARM_UP = 2  # steps before the first that counts
PHASES = ("data", "teacher", "student", "term", "backward", "optimizer")
TEACHER_SEED = 0


@dataclass(frozen=True)
class Cost:
    """What one row's step costs; times are medians in milliseconds.

    Attributes:
        pair: as in the tables.
        label: the row.
        stage: main, or initial for what AB, FSP and FT train first.
        data_ms: loading, augmenting and normalising a batch; paid once for all rows of a pair.
        teacher_ms: the teacher's forward pass; paid once for all rows of a pair. None where no row listens to one.
        student_ms: the student's forward pass.
        term_ms: cross-entropy and the method's term, forward.
        backward_ms: the backward pass through both.
        optimizer_ms: the optimizer's step, the method's own state and the meter.
        step_ms: the last four together.
        own_percent: what the step takes beyond the undistilled student's, in percent of the latter; all of it, where
            the student has no part in the stage. None where the undistilled student could not be measured.
        peak_mb: most memory that the step holds beyond what it began with, in 10^6 bytes.
        extra_parameters: the method's own trained parameters.
        step_gflop: multiplications and additions of products and convolutions in the step, in 10^9.
    """

    pair: str
    label: str
    stage: str
    data_ms: float
    teacher_ms: float | None
    student_ms: float
    term_ms: float
    backward_ms: float
    optimizer_ms: float
    step_ms: float
    own_percent: float | None
    peak_mb: float
    extra_parameters: int
    step_gflop: float

    @property
    def name(self) -> str:
        """Return the row's label and, unless it is the main one, its stage."""
        return _name(self.label, self.stage)


@dataclass(frozen=True)
class PairCosts:
    """What one pair's rows cost, and why the others are not among them.

    Attributes:
        pair: as in the tables.
        rows: those that were measured, in the table's order.
        inapplicable: reasons by label, of rows whose methods cannot serve the pair.
        failed: reasons by name, of rows that raised.
    """

    pair: str
    rows: list[Cost] = field(default_factory=list)
    inapplicable: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


class Stopwatch:
    """Milliseconds by phase; on a GPU, each phase is waited for."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.times: dict[str, list[float]] = defaultdict(list)
        self.start()

    def start(self) -> None:
        """Start the next phase now."""
        self.last = self._now()

    def mark(self, phase: str) -> None:
        """End a phase, and start the next."""
        now = self._now()
        self.times[phase].append((now - self.last) * 1e3)
        self.last = now

    def read(self) -> dict[str, float]:
        """Return each phase's median, the warm-up left out."""
        return {phase: median(times[WARM_UP:]) for phase, times in self.times.items()}

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def costs(
    plan: Plan, cells: Sequence[Cell], methods: Mapping[str, Method], settings: Settings, steps: int
) -> Iterator[PairCosts]:
    """Yield the costs of each pair; before anything is measured, every pair's networks and methods are checked.

    Args:
        plan: the suite's.
        cells: those to measure, each with its first seed; the undistilled student is measured with them.
        methods: by name.
        settings: device, data and threads.
        steps: how many count.

    Raises:
        RequestError: data is missing, a network or a parameter does not fit, or runs have several processes.
    """
    torch.set_num_threads(settings.threads)
    pairs: list[list[Cell]] = []
    for pair in dict.fromkeys(cell.pair for cell in cells):
        chosen = _to_measure(plan, pair, cells)
        if chosen:
            pairs.append(chosen)
    if not pairs:
        raise RequestError("cost: none of these rows trains a student: teachers and initial weights cost no step")
    runs = [cell.runs[0] for chosen in pairs for cell in chosen]
    most = most_processes(runs)
    if most > 1:
        raise RequestError(
            f"training: processes: {most}: costs are measured in one process. Add --set training.processes=1, and "
            "--set training.batch_size=N where N images are one process's share"
        )
    unserved(plan, runs, methods)
    data = runs[0].data  # all pairs' students see the suite's
    train, _ = load(data, settings.data, settings.device, settings.workers)
    for chosen in pairs:
        yield of_pair(plan, chosen, methods, train, settings.device, steps)


def _to_measure(plan: Plan, pair: str, cells: Sequence[Cell]) -> list[Cell]:
    """Return those of some cells that train a student of a pair, and the undistilled student, in the plan's order."""
    students = [cell for cell in plan.cells if cell.pair == pair and cell.method != TEACHER]
    wanted = [cell for cell in students if cell in cells or cell.method == NONE]
    return _once(_trained(cell, plan) for cell in wanted)


def _trained(cell: Cell, plan: Plan) -> Cell:
    """Return a cell with the runs that trained its networks, where its own judge them."""
    return replace(cell, runs=tuple(plan.trained(run) for run in cell.runs))


def _once(cells: Iterable[Cell]) -> list[Cell]:
    """Return the cells of different runs, those left out that judge initial weights, for which nothing was trained.

    The student's row stands for both networks that train together, and one evaluation's for all.
    """
    found: dict[str, Cell] = {}
    for cell in cells:
        if cell.runs[0].head is None:
            found.setdefault(cell.runs[0].id, cell)
    return list(found.values())


def of_pair(
    plan: Plan,
    cells: Sequence[Cell],
    methods: Mapping[str, Method],
    train: Split,
    device: torch.device,
    steps: int,
) -> PairCosts:
    """Return the costs of one pair's rows, the undistilled student's among them.

    Args:
        plan: the suite's.
        cells: of the pair, without its teacher's.
        methods: by name.
        train: the training images.
        device: where they are.
        steps: how many count.
    """
    reasons = unserved(plan, (cell.runs[0] for cell in cells), methods)
    refused = {cell.label: reasons[cell.runs[0].id] for cell in cells if cell.runs[0].id in reasons}
    found = PairCosts(cells[0].pair, inapplicable=refused)
    training = training_data(cells, plan, train, device)
    teachers = stand_ins(cells, plan, training)
    built: list[Cell] = []  # the cell of each lane: one with an initial stage has two
    lanes: list[Lane] = []
    for cell in cells:
        if cell.label in refused:
            continue
        for run in stages(cell):
            try:
                lanes.append(build_lane(run, teachers, training.info, methods, device))
                built.append(cell)
            except Exception as error:  # a method's own mistake costs its row, not the others
                found.failed[cell.label] = _reason(error, "while it was built")
    measured = measure(lanes, teachers, training, steps)
    plain_ms = None  # the undistilled student's step
    for cell, numbers in zip(built, measured, strict=True):
        if cell.method == NONE and numbers is not None:
            plain_ms = numbers["step_ms"]
    for cell, lane, numbers in zip(built, lanes, measured, strict=True):
        if numbers is None:
            assert lane.failure is not None
            found.failed[_name(cell.label, lane.stage)] = lane.failure.reason
        else:
            own = None if plain_ms is None else _own(lane, numbers["step_ms"], plain_ms)
            found.rows.append(Cost(cell.pair, cell.label, lane.stage, **numbers, own_percent=own))
    return found


def training_data(cells: Sequence[Cell], plan: Plan, train: Split, device: torch.device) -> TrainingData:
    """Return a pair's training set, with the view that its teacher has of it."""
    data = cells[0].runs[0].data
    teachers = list(_teacher_runs(plan, cells).values())
    teacher_data = teachers[0].data if teachers else data
    if cells[0].runs[0].task == "cross_modal":
        train = Split(train.images, None)  # such students see no labels
    return TrainingData(data, train, device, teacher_data)


def _teacher_runs(plan: Plan, cells: Iterable[Cell]) -> dict[str, RunSpec]:
    """Return the teachers that some cells listen to, by run id."""
    return {name: plan.runs[name] for cell in cells for name in cell.runs[0].teachers}


def stages(cell: Cell) -> Iterator[RunSpec]:
    """Yield a cell's first run as it begins in its main stage and, if it has one, in its initial stage."""
    run = cell.runs[0]
    assert run.schedule is not None  # a student trains
    yield run.but(schedule=run.schedule.model_copy(update={"initial_epochs": 0}))
    if run.schedule.initial_epochs:
        yield run.but(schedule=run.schedule.model_copy(update={"initial_epochs": 1}))


def stand_ins(cells: Iterable[Cell], plan: Plan, training: TrainingData) -> dict[str, Teacher]:
    """Return a stand-in for each teacher that some cells listen to, by run id."""
    return {name: stand_in(spec.student, training) for name, spec in _teacher_runs(plan, cells).items()}


def stand_in(network: NetworkSpec, training: TrainingData) -> Teacher:
    """Return a teacher with random weights whose norms know one batch's statistics, so that its maps stay finite."""
    data, device = training.teacher_spec, training.device
    built = placed(build_network(network, data, TEACHER_SEED), device).train()
    for module in built.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = None  # one pass sets the statistics
    batch = next(iter(training.epoch(TEACHER_SEED, INITIAL, 1, 64)))
    with torch.no_grad():
        built.features(batch.teacher_images)
    shapes = network_shapes(network, data.model_copy(update={"size": training.spec.size}))  # of its students' images
    return Teacher(built.eval().requires_grad_(False), shapes)


def measure(
    lanes: Sequence[Lane], teachers: Mapping[str, Teacher], training: TrainingData, steps: int
) -> list[dict[str, Any] | None]:
    """Return each lane's numbers of `Cost`, from steps that the lanes take in turn; None for one that fails.

    Args:
        lanes: at their start, of one seed and schedule.
        teachers: by run id.
        training: the data.
        steps: how many count.
    """
    if not lanes:
        return []
    schedule = lanes[0].schedule
    seed = lanes[0].spec.seed
    set_products(schedule.precision)
    for lane in lanes:
        with lane.isolated():
            lane.begin_epoch()
    shared = Stopwatch(training.device)
    timed = [(lane, Stopwatch(training.device)) for lane in lanes]
    for number, batch in enumerate(_batches(training, seed, schedule.batch_size, WARM_UP + steps, shared)):
        features = teacher_features(teachers, lanes, batch.teacher_images)
        if features:
            shared.mark("teacher")
        first = number % len(lanes)  # who comes first after the teacher finds cold caches
        for lane, watch in timed[first:] + timed[:first]:
            if lane.failure is None:
                watch.start()
                with lane.isolated():
                    lane.step(batch, features, number, watch.mark)
        shared.start()
    once: dict[str, Any] = {"teacher_ms": None}  # unless one was marked
    for phase, value in shared.read().items():
        once[f"{phase}_ms"] = value
    found: list[dict[str, Any] | None] = []
    for lane, watch in timed:
        if lane.failure is None:
            with lane.isolated():
                found.append(once | _numbers(lane, watch, partial(lane.step, batch, features, number)))
        if lane.failure is not None:
            logger.debug("%s", lane.failure.details)
            found.append(None)
    return found


def _numbers(lane: Lane, watch: Stopwatch, step: Callable[[], object]) -> dict[str, Any]:
    """Return the numbers of `Cost` that are a lane's own."""
    phases = {f"{phase}_ms": value for phase, value in watch.read().items()}
    with FlopCounterMode(display=False) as counter:
        step()
    own = [parameter for term in lane.terms for parameter in term.distiller.parameters()]
    return {
        **phases,
        "step_ms": sum(phases.values()),
        "peak_mb": peak_bytes(step, lane.device) / 1e6,
        "extra_parameters": sum(parameter.numel() for parameter in own if parameter.requires_grad),
        "step_gflop": counter.get_total_flops() / 1e9,
    }


def _batches(training: TrainingData, seed: int, batch_size: int, n: int, watch: Stopwatch) -> Iterator[Batch]:
    """Yield n batches of as many epochs as they take, each one's loading marked as `data`."""

    def endless() -> Iterator[Batch]:
        epoch = 1
        while True:
            yield from training.epoch(seed, INITIAL, epoch, batch_size)
            epoch += 1

    for batch in islice(endless(), n):
        watch.mark("data")
        yield batch


def peak_bytes(step: Callable[[], object], device: torch.device) -> int:
    """Return the most memory that a step holds at a time beyond what it began with."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        step()
        return torch.cuda.max_memory_allocated(device) - before
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler's log; read when it is first used
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    held = peak = 0
    assert profiler.profiler is not None  # it has run
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak


def _own(lane: Lane, step_ms: float, plain_ms: float) -> float:
    """Return what a lane's step takes beyond the undistilled student's, in percent of the latter."""
    own_ms = step_ms - plain_ms if lane.learner.trains_network else step_ms
    return 100 * own_ms / plain_ms


def _name(label: str, stage: str) -> str:
    return label if stage == "main" else f"{label} ({stage})"


def _reason(error: Exception, where: str) -> str:
    failure = failure_of(error, where)
    logger.debug("%s", failure.details)
    return failure.reason


def write(plan: Plan, store: Store, found: Sequence[Cost]) -> list[str]:
    """Write cost.csv and what is drawn from it into the suite's results; return their paths."""
    rows = [{name: _rounded(value) for name, value in asdict(cost).items()} for cost in found]
    text = csv_text((field.name for field in fields(Cost)), rows)
    path = store.suite_folder(plan.name) / "cost.csv"
    write_whole(path, text)  # before the figures: what was measured must not hang on them
    return [str(path), *map(str, write_cost(plan, store))]


def _rounded(value: object) -> object:
    return round(value, 3) if isinstance(value, float) else value
