"""The launcher on this machine: takes a plan's cohorts in order, claims their runs and trains them."""

import logging
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from bench.data.batches import TrainingData
from bench.data.images import Split, fetch, load
from bench.launch.provenance import provenance, sha256_of
from bench.models.base import Network
from bench.models.ensemble import Ensemble
from bench.models.heads import Frozen
from bench.models.hooked import published_weights
from bench.models.weights import load_weights
from bench.plan import Plan, cohorts
from bench.plan.status import is_open
from bench.spec import DataSpec, NetworkSpec, RunSpec
from bench.store import OUTPUTS, WEIGHTS, ClaimLostError, DiscardingStore, Failure, Store
from bench.tasks import task_of
from bench.train.build import build_lane, inapplicable
from bench.train.lane import Clock, Lane, failure_of
from bench.train.learner import Teacher
from bench.train.loop import WITHIN_EPOCH_S, Cohort, Observer, evaluate, fit
from bench.train.networks import backbone_data, build_network, placed, teacher_shapes
from bench.train.outputs import outputs
from bench.train.precision import set_products
from bench.train.processes import Group, ProcessLostError, started
from bench.types import RequestError
from methods import Method, catalog

logger = logging.getLogger(__name__)

PUBLISHED = "weights"  # below the data folder: what torchvision publishes
POLL_S = 2.0  # how often runs that another process trains are looked at


@dataclass(frozen=True)
class Settings:
    """How to run, none of which changes a result beyond rounding.

    Attributes:
        device: "cpu" or "cuda".
        data: where torchvision's data sets lie.
        threads: CPU threads of the arithmetic.
        workers: processes that decode images which do not fit into memory.
        keep_checkpoints: whether checkpoints stay when a record stands.
        checkpoint_minutes: the most of an epoch's work that is at risk.
    """

    device: torch.device
    data: Path
    threads: int
    workers: int
    keep_checkpoints: bool = False
    checkpoint_minutes: float = WITHIN_EPOCH_S / 60


def choose_device(name: str) -> torch.device:
    """Return the device of that name; "auto" is a GPU where there is one.

    Raises:
        RequestError: "cuda" without one.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise RequestError("--device cuda: torch sees no CUDA device here. Use --device cpu, or auto")
    return torch.device(name)


def unserved(plan: Plan, runs: Iterable[RunSpec], methods: Mapping[str, Method]) -> dict[str, str]:
    """Return the reason for each run, by id, whose method cannot serve its pair.

    Raises:
        RequestError: a network or a parameter does not fit.
    """
    answers: dict[str, str | None] = {}

    def answer(run: RunSpec) -> str | None:
        of_all_seeds = run.but(seed=0).id  # the answer does not depend on the seed
        if of_all_seeds not in answers:
            needed = {name: plan.runs[name] for name in run.needs}
            answers[of_all_seeds] = inapplicable(run, needed, methods)
        return answers[of_all_seeds]

    reasons = {}
    for run in runs:
        reason = answer(plan.trained(run)) or answer(run)
        if reason:
            reasons[run.id] = reason
    return reasons


def settle(plan: Plan, store: Store, reasons: Mapping[str, str], retried: Collection[str]) -> None:
    """Write down what no training is needed for: runs that cannot be served, by id, and failures to be forgotten."""
    for run_id in retried:
        store.forget_failure(run_id)
    for run_id, reason in reasons.items():
        store.begin(plan.runs[run_id])
        store.fail(run_id, Failure("inapplicable", reason))


def fetch_data(runs: Sequence[RunSpec], folder: Path) -> None:
    """Download the data sets and weights that runs need and the folder lacks, once for all processes that train them.

    Raises:
        RequestError: they cannot be had.
    """
    named = {run.data.key: run.data for run in runs if run.data.path is None and needs_data(run)}
    for data in named.values():
        fetch(data, folder)
    for run in runs:
        if run.has_published_weights:
            _published(run, folder)


def _published(run: RunSpec, folder: Path) -> Path:
    """Return the file of weights that torchvision publishes under a name, which is downloaded if it is lacking."""
    assert run.checkpoint is not None  # it has such weights
    return published_weights(run.student.network.removeprefix("torchvision."), run.checkpoint, folder / PUBLISHED)


def needs_data(run: RunSpec) -> bool:
    """Return whether a run reads its data: one that takes weights as they are, for students to learn from, does not."""
    return run.schedule is not None or task_of(run).objective is not None


def most_processes(runs: Iterable[RunSpec]) -> int:
    """Return the most processes that one of some runs is trained by."""
    schedules = [run.schedule for run in runs if run.schedule is not None]
    return max((schedule.processes or 1 for schedule in schedules), default=1)


class Unobserved:
    """An observer that tells nobody: of several processes, the first has one that does."""

    def cohort(self, lanes: Sequence[Lane]) -> None:  # noqa: D102
        pass

    def step(self, lanes: Sequence[Lane], step: int, steps: int) -> None:  # noqa: D102
        pass

    def epoch(self, lanes: Sequence[Lane], clock: Clock, seconds: float, steps: int) -> None:  # noqa: D102
        pass


@dataclass(frozen=True)
class Part:
    """What each process beside the first does of some runs: the same, without launching them or writing anything.

    Attributes:
        plan: the suite's.
        runs: ids of the cohort's runs.
        results: the store's folder.
        plugins: method files kept elsewhere.
        settings: the first process's; on GPUs, each of the others takes one of those that follow.
    """

    plan: Plan
    runs: tuple[str, ...]
    results: Path
    plugins: tuple[Path, ...]
    settings: Settings

    def __call__(self, group: Group) -> None:
        """Train with the others."""
        device = self.settings.device
        if device.type == "cuda":
            device = torch.device("cuda", (device.index or 0) + group.rank)
            torch.cuda.set_device(device)
        settings = replace(self.settings, device=device)
        launcher = Launcher(self.plan, DiscardingStore(self.results), catalog(self.plugins), settings)
        torch.set_num_threads(settings.threads)
        launcher.fit([self.plan.runs[run_id] for run_id in self.runs], group, Unobserved())


class Launcher:
    """Trains what a plan still lacks."""

    def __init__(self, plan: Plan, store: Store, methods: Mapping[str, Method], settings: Settings) -> None:
        self.plan, self.store, self.methods, self.settings = plan, store, methods, settings
        self._loaded: dict[str, tuple[Split, Split]] = {}
        self._evaluated: dict[str, tuple[Network, dict[str, float]]] = {}  # checkpoints that the store lacks

    def run(
        self,
        wanted: Sequence[RunSpec],
        observer: Observer,
        cohort_ended: Callable[[], object],
        retried: Collection[str] = (),
    ) -> None:
        """Train the wanted runs and what they need, each once, whoever else works on the same store.

        All that can be wrong with the request is found before anything is written.

        Args:
            wanted: runs of the plan, needs included, in its order.
            observer: is told of steps and epochs.
            cohort_ended: is called when the store has something new for the tables.
            retried: ids of runs whose failure is forgotten.

        Raises:
            RequestError: data is missing, a checkpoint does not fit or reach its accuracy, the weights of a teacher
                that is done cannot be read, or there are fewer GPUs than a run has processes.
        """
        torch.set_num_threads(self.settings.threads)
        set_products("fp32")  # until a cohort says otherwise
        open_runs = [run for run in wanted if is_open(run, self.plan, self.store, retried)]
        self._check_devices(open_runs)
        reasons = unserved(self.plan, open_runs, self.methods)
        open_runs = [run for run in open_runs if run.id not in reasons]
        for run in open_runs:
            if needs_data(run):
                self._data(run.data)
        needs = dict.fromkeys(needed for run in open_runs for needed in run.needs)
        for name in needs:
            if self.store.state(name) == "done" and not self.plan.runs[name].is_ensemble:
                self._network(self.plan.runs[name])
        self._evaluated = self._evaluate_checkpoints(wanted)
        settle(self.plan, self.store, reasons, retried)
        awaited = {needed for run in wanted for needed in run.needs}
        for run in open_runs:
            if run.id in awaited and run.schedule is not None:
                name = run.student.network
                logger.info("%s: no checkpoint is given, so it is trained here (seed %d)", name, run.seed)
        while self._next_cohort(open_runs, observer):
            cohort_ended()

    def _check_devices(self, runs: Sequence[RunSpec]) -> None:
        device = self.settings.device
        if device.type != "cuda":
            return
        first, most, there = device.index or 0, most_processes(runs), torch.cuda.device_count()
        if first + most > there:
            raise RequestError(
                f"training: processes: {most}: each needs a GPU of its own, and torch sees {there} "
                "here. Set fewer, which makes it another run, or use --device cpu"
            )

    def _next_cohort(self, wanted: Sequence[RunSpec], observer: Observer) -> bool:
        """Train one cohort that is ready, or wait for one; return False when nothing is left to do."""
        pending = [run for run in wanted if is_open(run, self.plan, self.store)]
        for run in pending:
            if run.checkpoint is not None and self._import(run):
                return True
            if run.is_ensemble and all(self.store.state(need) == "done" for need in run.needs) and self._unite(run):
                return True
        for cohort in cohorts(pending, self.plan.suite.max_lanes):
            if any(self.store.state(need) != "done" for need in cohort.needs):
                continue
            held: list[RunSpec] = []
            try:
                # one by one: if a claim raises, those before it are released
                held.extend(run for run in cohort.runs if self.store.claim(run.id))
                # another process may have ended a run between the look at its state and the claim
                held_open = [run for run in held if is_open(run, self.plan, self.store)]
                if held_open:
                    self._train(held_open, observer)
                    return True
            finally:
                for run in held:
                    self.store.release(run.id)
        if pending:
            time.sleep(POLL_S)  # what is left is being trained by another process
        return bool(pending)

    def _train(self, runs: Sequence[RunSpec], observer: Observer) -> None:
        try:
            self._fit(runs, observer)
        except ClaimLostError as error:  # that run goes on under its new holder, the others from their checkpoints
            logger.warning("%s", error)

    def _fit(self, runs: Sequence[RunSpec], observer: Observer) -> None:
        for run in runs:
            self.store.begin(run)
        plugins = tuple(method.path for method in self.methods.values() if method.module is None)
        part = Part(self.plan, tuple(run.id for run in runs), self.store.root, plugins, self.settings)
        try:
            with started(most_processes(runs), part, self.settings.device) as group:
                self.fit(runs, group, observer)
        except (RequestError, ClaimLostError):
            raise  # the store cannot be written, or an image not read: no run's own failure
        except Exception as error:  # what all lanes share broke: a teacher, the device, a process
            failure = failure_of(error, "in what its cohort shares")
            if isinstance(error, ProcessLostError):
                failure = Failure("failed", str(error), error.details)
            for run in runs:
                if self.store.state(run.id) == "running":
                    self.store.fail(run.id, failure)

    def fit(self, runs: Sequence[RunSpec], group: Group, observer: Observer) -> None:
        """Train a cohort's runs as one of the processes that do."""
        cohort = self._cohort(runs, group)
        if cohort.lanes:
            fit(cohort, self.store, observer)

    def _cohort(self, runs: Sequence[RunSpec], group: Group) -> Cohort:
        """Return runs with their teachers and data, ready to train; one that cannot be built has failed."""
        device = self.settings.device
        names = list(dict.fromkeys(name for run in runs for name in run.teachers))
        data = runs[0].data
        teachers = {name: self._teacher(self.plan.runs[name], data) for name in names}
        needed = {name for run in runs for name in run.needs}
        hashes = {name: sha256_of(self.store.folder(name) / WEIGHTS) for name in needed}
        train, test = self._data(data)
        if runs[0].task == "cross_modal":
            train = Split(train.images, None)  # what its data may know of labels, such a run does not
        teacher_data = self.plan.runs[names[0]].data if names else data
        training = TrainingData(data, train, device, teacher_data, group.size, group.rank)
        # probes of one network read it together; without a source, it is the one that the seed draws
        frozen: dict[tuple[str | None, NetworkSpec, int], Frozen] = {}
        lanes = []
        for run in runs:
            failure = None
            try:
                judged: Network | Frozen | None = None
                if run.head is not None and run.task == "probe":
                    read = (run.source, run.student, run.head.classes)
                    judged = frozen.get(read) or frozen.setdefault(read, Frozen(self._judged(run)))
                elif run.head is not None:
                    judged = self._judged(run)
                lane = build_lane(run, teachers, training.info, self.methods, device, judged)
            except Exception as error:  # a method's own mistake costs its run, not the cohort
                failure = failure_of(error, "while it was built")
            if (failure := group.settle(failure)) is not None:
                self.store.fail(run.id, failure)
            else:
                lane.join(group)
                lanes.append(lane)
        facts = provenance(device, self.settings.threads)

        def record(lane: Lane) -> dict[str, Any]:
            found = dict(facts)
            if lane.spec.source:
                found["source_sha256"] = hashes[lane.spec.source]
            found["teachers_sha256"] = {name: hashes[name] for name in lane.spec.teachers}
            found["methods_sha256"] = {term.method: self.methods[term.method].sha256 for term in lane.spec.terms}
            return found

        return Cohort(
            lanes=lanes,
            teachers=teachers,
            train=training,
            test=test,
            seed=runs[0].seed,
            record=record,
            keep_checkpoints=self.settings.keep_checkpoints,
            within_epoch_s=60 * self.settings.checkpoint_minutes,
            group=group,
        )

    def _data(self, spec: DataSpec) -> tuple[Split, Split]:
        if spec.key not in self._loaded:
            self._loaded[spec.key] = load(spec, self.settings.data, self.settings.device, self.settings.workers)
        return self._loaded[spec.key]

    def _teacher(self, run: RunSpec, data: DataSpec) -> Teacher:
        """Return a trained network as the teacher of students that train on some data."""
        return Teacher(self._network(run).eval().requires_grad_(False), teacher_shapes(run, data))

    def _judged(self, run: RunSpec) -> Network:
        """Return the network, trained or as a seed draws it, that a run puts a head on."""
        if run.source is not None:
            return self._network(self.plan.runs[run.source])
        return placed(build_network(run.student, backbone_data(run), run.seed), self.settings.device)

    def _network(self, run: RunSpec) -> Network:
        """Return the network that a run has trained, or taken from a checkpoint."""
        network = build_network(run.student, run.data)
        path = self.store.folder(run.id) / WEIGHTS
        try:
            network.load_state_dict(load_file(path))
        except (OSError, SafetensorError, RuntimeError) as error:
            raise RequestError(
                f"{path}: the network's weights cannot be read ({error}). Copy the whole run folder, or remove it: "
                "the network is then trained anew"
            ) from error
        return placed(network, self.settings.device)

    # what is only evaluated

    def _evaluate_checkpoints(self, wanted: Sequence[RunSpec]) -> dict[str, tuple[Network, dict[str, float]]]:
        """Return network and metrics of each checkpoint that the store does not hold yet, all accuracies checked."""
        found = {}
        for run in wanted:
            if run.checkpoint is None:
                continue
            if self.store.record(run.id) is not None:
                continue
            checkpoint = self.plan.checkpoints[run.id]
            network = build_network(run.student, run.data)
            load_weights(network, checkpoint.path or _published(run, self.settings.data))
            placed(network, self.settings.device)
            metrics: dict[str, float] = {}
            if task_of(run).objective is not None:
                metrics = evaluate([network], self._data(run.data)[1], run.data, self.settings.device)[0]
                checkpoint.check(metrics["top1"])
            found[run.id] = (network, metrics)
        return found

    def _import(self, run: RunSpec) -> bool:
        """Put a checkpoint's weights into the store, as the run that evaluated them; False if another does so."""
        if not self.store.claim(run.id):
            return False
        network, metrics = self._evaluated[run.id]
        with self._evaluation(run) as record:
            weights = {name: value.contiguous().cpu() for name, value in network.state_dict().items()}
            self.store.write(run.id, WEIGHTS, save(weights))
            if task_of(run).keeps_answers:
                answers = outputs(network, self._data(run.data)[1], run.data, self.settings.device)
                self.store.write(run.id, OUTPUTS, save(answers))
            record["metrics"] = metrics
        return True

    def _unite(self, run: RunSpec) -> bool:
        """Evaluate several teachers together; False if another process does so."""
        if not self.store.claim(run.id):
            return False
        with self._evaluation(run) as record:
            together = Ensemble([self._network(self.plan.runs[name]) for name in run.teachers])
            record["metrics"] = evaluate([together], self._data(run.data)[1], run.data, self.settings.device)[0]
            record["teachers_sha256"] = {name: sha256_of(self.store.folder(name) / WEIGHTS) for name in run.teachers}
        return True

    @contextmanager
    def _evaluation(self, run: RunSpec) -> Iterator[dict[str, Any]]:
        """Begin a claimed run that is not trained, and finish it with what is put into the record; release it."""
        record: dict[str, Any] = {"best": None, "epochs": 0, "wall_s": 0.0}
        try:
            self.store.begin(run)
            yield record
            self.store.finish(run.id, provenance(self.settings.device, self.settings.threads) | record)
        finally:
            self.store.release(run.id)
