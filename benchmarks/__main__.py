"""Measures every speed target of the project on this machine: `python -m benchmarks`.

Ratios are of medians over repeats taken in turn, so that a machine that slows down affects both sides. The images are
noise of CIFAR-100's size, since no cost depends on their content.
"""

import logging
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import fmean, median
from typing import Annotated, NamedTuple, get_args

import torch
import typer
from rich.console import Console
from rich.table import Table

from bench.cost.measure import peak_bytes
from bench.cost.rows import of_pair, stages, stand_ins, training_data
from bench.data.batches import batch_sizes
from bench.data.images import ResidentImages, Split
from bench.launch.provenance import provenance
from bench.plan import build_plan
from bench.store import Store, write_whole
from bench.suite import NONE, TEACHER, load
from bench.train.build import build_lane
from bench.train.captured import CapturedSteps
from bench.train.epoch import train_epoch
from bench.train.evaluation import evaluate
from bench.train.learner import MAIN
from bench.train.precision import Precision, set_products
from bench.types import Batch, DataInfo, Features, Shapes
from benchmarks import jobs, naive
from benchmarks.memory import resident_peak
from methods import catalog
from methods.crd import CRD

logger = logging.getLogger(__name__)

ROOT = Path(__file__).parent.parent
SUITE = Path(__file__).parent / "speed.yaml"
STUDENTS = ("resnet8", "resnet14", "resnet20", "resnet32", "resnet44")
# with five pairs, thirteen methods and none: 10,010 runs and a teacher
TEN_THOUSAND = f"""title: Ten thousand runs
data: cifar100
pairs: [{", ".join(f"{{teacher: resnet110, student: {student}}}" for student in STUDENTS)}]
methods: [kd, fitnet, at, sp, cc, vid, rkd, pkt, ab, ft, fsp, nst, crd]
seeds: 143
"""
METHODS = catalog()
DEVICE = torch.device("cpu")
TRAIN, TEST, CLASSES = 50_000, 10_000, 100  # CIFAR-100's
EVALUATED = 1_000  # test images that are timed; the time is scaled to all
N_NEGATIVES = 16_384  # CRD's
LARGE_BANK = 1_300_000  # ImageNet's training images, rounded up
GPU_WORKERS = 8  # loader processes of the naive loop on a GPU
READ_AHEAD = 3 * GPU_WORKERS  # steps: a DataLoader keeps two batches per worker ready
# the target for a term's own share of a plain student's step
WANTED = {"NST": 0.25, "FSP (initial)": 0.2, "FT": 0.4, "VID": 0.3, "CRD": 0.27, "CRD all": 0.35, "FitNet": 0.12}
WANTED |= {"AB (initial)": 0.1, "AT": 0.03}
WANTED |= dict.fromkeys(("KD", "SP", "CC", "RKD", "PKT"), 0.04)
WANTED |= dict.fromkeys(("DKD", "DIST", "NKD", "TTM", "WTTM", "CTKD", "MLLD one view", "ITRD"), 0.04)
LATER = (  # methods published after CRD
    "[dkd, dist, nkd, ttm, wttm, ctkd, {method: mlld, one_view: true, label: MLLD one view}, mlld, itrd, srrl, catkd, "
    "ofd, ofa, simkd, reviewkd]"
)


class Measurement(NamedTuple):
    """What is measured, the value (None if it cannot be measured), and the highest value wanted (None for any)."""

    what: str
    measured: float | None
    wanted: float | None
    unit: str = ""


class TimedCohort:
    """The suite's lanes in their main stage, with a teacher of random weights, and a clock for their steps."""

    def __init__(
        self, train: Split, precision: str, device: torch.device = DEVICE, changes: Sequence[str] = ()
    ) -> None:
        self.device = device
        changes = [f"training.precision={precision}", *changes]
        self.plan = build_plan(load(SUITE, METHODS, changes), SUITE, METHODS)
        self.cells = [cell for cell in self.plan.cells if cell.method != TEACHER]
        self.data = training_data(self.cells, self.plan, train, device)
        self.teachers = stand_ins(self.cells, self.plan, self.data)
        runs = {cell.label: next(stages(cell)) for cell in self.cells if cell.label != "CRD all"}
        info = self.data.info
        self.lanes = {label: build_lane(run, self.teachers, info, METHODS, device) for label, run in runs.items()}

    def seconds(self, left_out: str = "") -> Iterator[float]:
        """Yield the seconds of each of the trainer's steps, including data and teacher."""
        lanes = [lane for label, lane in self.lanes.items() if label != left_out]
        batches = self.data.epoch(1, MAIN, 1, lanes[0].schedule.batch_size)
        if self.device.type == "cuda":
            steps = CapturedSteps(self.teachers, lanes).train_epoch(lanes, batches)
        else:
            steps = iter(train_epoch(self.teachers, lanes, batches))
        while True:
            started = time.perf_counter()
            next(steps)
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            spent = time.perf_counter() - started
            assert not any(lane.failure for lane in lanes), "a lane has failed and is no longer measured"
            yield spent


def split(n: int, device: torch.device = DEVICE) -> Split:
    """Return n noise images of CIFAR-100's size, with cyclic labels."""
    images = torch.randint(256, (n, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Split(ResidentImages(images, device), torch.arange(n) % CLASSES)


def naive_seconds(cohort: TimedCohort, label: str, workers: int = 0) -> Iterator[float]:
    """Yield the seconds of each step of one row in the naive loop, on the cohort's device.

    Batches are loaded by `workers` processes; on a CPU they would compete with the step for cores.
    """
    lane = cohort.lanes[label]
    method, distiller = (lane.terms[0].name, lane.terms[0].distiller) if lane.terms else (NONE, None)
    (teacher,) = cohort.teachers.values()
    run = naive.NaiveRun(method, lane.student, teacher.network if lane.terms else None, distiller, lane.schedule)
    images, labels = cohort.data.split.images, cohort.data.split.targets
    assert isinstance(images, ResidentImages)
    assert labels is not None
    pixels = images.images.permute(0, 2, 3, 1).cpu().numpy()
    negatives = N_NEGATIVES if method == "crd" else 0
    mean, std, size = lane.spec.data.mean, lane.spec.data.std, lane.schedule.batch_size
    batches = iter(naive.loader(pixels, labels.numpy(), mean, std, size, workers, negatives))
    while True:
        started = time.perf_counter()
        run.step(next(batches))
        yield time.perf_counter() - started


def against_naive(repeats: int) -> Iterator[Measurement]:
    """Yield the cohort's step relative to the naive loop's, in fp32 and bf16, with and without NST."""
    train = split(TRAIN)
    cohorts = {precision: TimedCohort(train, precision) for precision in ("fp32", "bf16")}
    clocks: dict[str, Iterator[float]] = {}
    for precision, cohort in cohorts.items():
        clocks[precision] = cohort.seconds()
        clocks[f"{precision}, no NST"] = cohort.seconds("NST")
    labels = list(cohorts["fp32"].lanes)
    clocks |= {label: naive_seconds(cohorts["fp32"], label) for label in labels}
    times: dict[str, list[float]] = {name: [] for name in clocks}
    for repeat in range(repeats + 1):
        for name, clock in clocks.items():
            times[name].append(next(clock))
        logger.info("cohort and naive loop: %d of %d repeats", repeat, repeats)
    middle = {name: median(spent[1:]) for name, spent in times.items()}  # the first is a warm-up
    logger.info("milliseconds: %s", ", ".join(f"{name} {1e3 * spent:.0f}" for name, spent in middle.items()))
    whole = sum(middle[label] for label in labels)
    for precision, wanted, wanted_rest in (("fp32", 1 / 6, 1 / 3), ("bf16", 1 / 9, 1 / 5)):
        yield Measurement(
            f"step of a cohort of 14, {precision}, relative to the naive loop", middle[precision] / whole, wanted
        )
        rest = middle[f"{precision}, no NST"] / (whole - middle["NST"])
        yield Measurement("the same without NST in either", rest, wanted_rest)


def of_terms(repeats: int) -> Iterator[Measurement]:
    """Yield each term's own share of a plain student's step, and the data's share of a cohort's step."""
    train = split(TRAIN)
    cohort = TimedCohort(train, "fp32")
    costs = of_pair(cohort.plan, cohort.cells, METHODS, train, DEVICE, 3 * repeats).rows
    for cost in costs:
        if cost.name in WANTED and cost.own_percent is not None:
            yield Measurement(
                f"{cost.name}'s own term, share of a student's step", cost.own_percent / 100, WANTED[cost.name]
            )
    main = sum(cost.step_ms for cost in costs if cost.stage == "main" and cost.label != "CRD all")
    data, teacher = costs[0].data_ms, costs[0].teacher_ms or 0.0
    yield Measurement("data, share of the cohort's step", data / (data + teacher + main), 0.02)


def of_later(repeats: int) -> Iterator[Measurement]:
    """Yield the own share of a plain student's step of each term of the methods published after CRD."""
    plan = build_plan(load(SUITE, METHODS, [f"methods={LATER}"]), SUITE, METHODS)
    cells = [cell for cell in plan.cells if cell.method != TEACHER]
    for cost in of_pair(plan, cells, METHODS, split(TRAIN), DEVICE, 3 * repeats).rows:
        if cost.label != NONE and cost.own_percent is not None:
            share = cost.own_percent / 100
            yield Measurement(f"{cost.name}'s own term, share of a student's step", share, WANTED.get(cost.name))


def of_evaluation(repeats: int) -> Iterator[Measurement]:
    """Yield the evaluation's share of a cohort's epoch on CIFAR-100."""
    cohort = TimedCohort(split(TRAIN), "fp32")
    test = split(EVALUATED)
    students = {name: lane.student for name, lane in cohort.lanes.items()}
    clock = cohort.seconds()
    steps, evaluations = [], []
    for _ in range(repeats + 1):
        steps.append(next(clock))
        started = time.perf_counter()
        evaluate(students, test, cohort.data.spec, DEVICE)
        evaluations.append(time.perf_counter() - started)
        for student in students.values():
            student.train()
    training = len(batch_sizes(TRAIN, 64)) * median(steps[1:])
    evaluation = median(evaluations[1:]) * TEST / EVALUATED
    yield Measurement("evaluation, share of an epoch", evaluation / (training + evaluation), 0.1)


def of_memory(_: int) -> Iterator[Measurement]:
    """Yield CRD's peak memory beyond networks and banks, as counted by torch or the system, whichever is more."""
    bound = 100.0
    for n, what in ((TRAIN, "a bank of 50,000"), (LARGE_BANK, "a bank of 1,300,000")):
        shapes = Shapes("any", ((64, 8, 8),), (), 256, CLASSES)
        for negatives in ("other_class", "all"):
            distiller = CRD(shapes, shapes, DataInfo(n, CLASSES, torch.arange(n) % CLASSES), negatives=negatives)
            embeddings = [torch.randn(64, 256, requires_grad=own) for own in (True, False)]
            student, teacher = (Features((), (), embedding, embedding[:, :CLASSES]) for embedding in embeddings)
            batch = Batch(embeddings[0], embeddings[0], None, torch.arange(64))

            step = partial(_step_alone, distiller, student, teacher, batch)
            step()  # allocates the heads' gradients
            peak = max(peak_bytes(step, DEVICE), median(resident_peak(step) for _ in range(3)))
            kind = "" if negatives == "other_class" else ", negatives: all"
            yield Measurement(f"peak memory of CRD on {what}{kind}", peak / 1e6, bound, "MB")


def _step_alone(distiller: CRD, student: Features, teacher: Features, batch: Batch) -> None:
    distiller.loss(student, teacher, batch).backward()
    distiller.after_step()


def of_startup(repeats: int) -> Iterator[Measurement]:
    """Yield the seconds of the command line for a suite of 10,000 finished runs."""
    with tempfile.TemporaryDirectory() as folder:
        path, results = Path(folder) / "ten_thousand.yaml", Path(folder) / "results"
        path.write_text(TEN_THOUSAND, encoding="utf-8")
        store, metrics = Store(results), {"top1": 70.0, "top5": 90.0}
        for run in build_plan(load(path, METHODS), path, METHODS).runs.values():
            store.begin(run)
            store.write_epochs(run.id, [{"stage": "main", "epoch": epoch, **metrics} for epoch in range(1, 241)])
            write_whole(store.folder(run.id) / "student.safetensors", b"")
            store.finish(run.id, {"metrics": metrics, "best": {"epoch": 240, **metrics}, "threads": 2})
        suite = [str(path), "--results", str(results)]
        for name, arguments, wanted in (
            ("--help", ["--help"], 1.0),
            ("status", ["status", *suite], 5.0),
            ("report", ["report", *suite], 30.0),
            ("a run with nothing to do", suite, 5.0),
        ):
            yield Measurement(f"start-up: {name}", median(_seconds(arguments) for _ in range(repeats)), wanted, "s")


def of_jobs(repeats: int) -> Iterator[Measurement]:
    """Yield the time of two jobs of one thread for a suite of two seeds, relative to one job of one and two threads.

    A time is the shortest of the repeats: other programs can only add to it.
    """
    spent = jobs.seconds(repeats)
    logger.info("seconds: %s", {name: [round(one, 1) for one in times] for name, times in spent.items()})
    two = min(spent.pop(jobs.TWO))
    for (name, times), wanted in zip(spent.items(), (1 / 1.5, 1.0), strict=True):
        yield Measurement(f"a suite of two seeds: {jobs.TWO}, relative to {name}", two / min(times), wanted)


def _seconds(arguments: list[str]) -> float:
    """Return how long the command line takes, as a whole process."""
    started = time.perf_counter()
    subprocess.run([sys.executable, str(ROOT / "run_suite.py"), *arguments], check=True, capture_output=True, cwd=ROOT)
    return time.perf_counter() - started


def of_gpu(_: int) -> Iterator[Measurement]:
    """Yield the cohort's step on a GPU relative to the sum of the naive loop's steps for all rows on the same GPU.

    The naive loop has torch's defaults, which on a GPU are convolutions in tf32.
    """
    ratios: dict[str, float] = {}
    if torch.cuda.is_available():
        device = torch.device("cuda")
        train = split(TRAIN, device)
        cohort = TimedCohort(train, "fp32", device)
        torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic = True, False
        spent = {label: _steady(naive_seconds(cohort, label, GPU_WORKERS)) for label in cohort.lanes}
        naively = sum(spent.values())
        for precision in get_args(Precision):
            set_products(precision)
            spent[precision] = _steady(TimedCohort(train, precision, device).seconds())
            ratios[precision] = spent[precision] / naively
        logger.info("milliseconds: %s", ", ".join(f"{name} {1e3 * seconds:.1f}" for name, seconds in spent.items()))
    for precision in get_args(Precision):
        wanted = f"on a GPU: step of a cohort of 14, {precision}, relative to the naive loop"
        yield Measurement(wanted, ratios.get(precision), 0.1)


def _steady(clock: Iterator[float]) -> float:
    """Return the mean seconds of a step after the batches that workers read ahead, since those arrive in bursts."""
    return fmean(islice(clock, READ_AHEAD, 3 * READ_AHEAD))


PARTS: dict[str, Callable[[int], Iterator[Measurement]]] = {
    "naive": against_naive,
    "terms": of_terms,
    "later": of_later,
    "evaluation": of_evaluation,
    "memory": of_memory,
    "startup": of_startup,
    "jobs": of_jobs,
    "gpu": of_gpu,
}


def main(
    repeats: Annotated[int, typer.Option(min=1, help="Repeats, taken in turn; ratios are of medians.")] = 5,
    threads: Annotated[int, typer.Option(min=1, help="Number of CPU threads.")] = 2,
    only: Annotated[
        str,
        typer.Option(help=f"Parts, separated by commas: {', '.join(PARTS)}."),
    ] = "",
) -> None:
    """Measure every speed target of the project, and print measured values and targets side by side."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(threads)
    wanted = only.split(",") if only else list(PARTS)
    if unknown := [name for name in wanted if name not in PARTS]:
        typer.echo(f"--only {only}: unknown part {', '.join(unknown)}. Known: {', '.join(PARTS)}", err=True)
        raise typer.Exit(2)
    facts = provenance(DEVICE, threads)
    console = Console(width=110)
    table = Table(title=f"{facts['device']}, {threads} threads, torch {facts['versions']['torch']}")
    for head in ("what", "measured", "target", ""):
        table.add_column(head, justify="left" if head in ("what", "") else "right")
    for part in (part for name, part in PARTS.items() if name in wanted):
        for row in part(repeats):
            unit = f" {row.unit}" if row.unit else ""
            measured = "not measured" if row.measured is None else f"{row.measured:.3g}{unit}"
            target = "none" if row.wanted is None else f"<= {row.wanted:.3g}{unit}"
            verdict = ""
            if row.measured is not None and row.wanted is not None:
                verdict = "reached" if row.measured <= row.wanted else "not reached"
            table.add_row(row.what, measured, target, verdict)
            logger.info("%s: %s, target %s", row.what, measured, target)
    console.print(table)


if __name__ == "__main__":
    typer.run(main)
