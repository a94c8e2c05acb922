"""The command `score`: computes metrics of finished runs from stored answers or weights, without training."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch
from safetensors.torch import load, save

from bench.data.corruptions import can_corrupt, corrupted_split
from bench.data.images import Split
from bench.launch.inputs import Inputs, stored_network
from bench.launch.work import Work
from bench.models.base import Network
from bench.models.ensemble import Ensemble
from bench.models.heads import Frozen
from bench.models.weights import copy_weights
from bench.plan import statuses
from bench.plan.agreement import compared_with
from bench.spec import DataSpec, RunSpec, column
from bench.store import ANSWERS, Store
from bench.tasks import Evaluation, task_of
from bench.tasks.objectives import CORRUPTIONS
from bench.train.answers import answers, scored
from bench.train.evaluation import NotFiniteError, evaluate
from bench.train.networks import placed, with_head
from bench.train.precision import Precision, set_products
from bench.types import RequestError


@dataclass(frozen=True)
class Outcome:
    """The result of scoring a run."""

    reason: str = ""  # why it was not scored; "" if it was
    is_fault: bool = False  # whether it should have been scored: it is done and classifies images


class Scorer:
    """Scores the finished runs of a work. Only what a run lacks is computed from its weights."""

    def __init__(self, work: Work) -> None:
        self.plan, self.store = work.plan, Store(work.results)
        self.inputs = Inputs(work, self.store)
        self.teachers = compared_with(work.plan)
        self._corrupted = lru_cache(len(CORRUPTIONS))(self._corruption)  # of one data set at a time

    def run(self) -> Iterator[tuple[str, Outcome]]:
        """Score each run that is done; yield the id of each run of the plan with its outcome.

        Raises:
            RequestError: data is missing.
        """
        torch.set_num_threads(self.plan.suite.threads)
        runs = list(self.plan.runs.values())
        status_of = statuses(runs, self.plan, self.store)
        for run in runs:
            status, why = status_of[run.id]
            if status != "done":
                yield run.id, Outcome(f"it is {status}: {why}" if why else f"it is {status}")
            elif not task_of(run).answered:
                yield run.id, Outcome("it does not classify images")
            else:
                reason = self._score(run)
                yield run.id, Outcome(reason, is_fault=bool(reason))

    def metrics(self, run: RunSpec) -> dict[str, float]:
        """Return the metrics in percent, by column, of a finished run's networks with their stored weights.

        Raises:
            RequestError: data is missing, or weights cannot be read or are not those of the record.
            NotFiniteError: logits are not finite.
        """
        return self._evaluated(run, self._networks(run), self.inputs.data(run.data).evaluated, run.data.images())

    def _score(self, run: RunSpec) -> str:
        """Score a finished run; return why it cannot be, or ""."""
        split = self.inputs.data(run.data).evaluated  # missing data is not the run's fault
        try:
            if not self.store.claim(run.id):
                return "another process holds it"
            return self._amend(run, split)
        except (RequestError, ValueError) as error:  # of its files, or of what its network answers
            return str(error)
        finally:
            self.store.release(run.id)

    def _amend(self, run: RunSpec, split: Split) -> str:
        """Add to a run's folder and record what they lack; return why it still lacks something, or ""."""
        record = self.store.record(run.id) or {}
        left = ""
        names = [column(network, f"top1_{kind}") for network in task_of(run).networks for kind in CORRUPTIONS]
        on_corrupted = {name: value for name, value in record.get("scores", {}).items() if name in names}
        is_whole = len(on_corrupted) == len(names) or not can_corrupt(split.images)
        has_answers = self.store.content(run.id, ANSWERS) is not None
        networks = {} if has_answers and is_whole else self._networks(run)
        if not has_answers:
            tensors = answers(networks, split, run.data, self.inputs.device, _precision(run), self._batch_size(run))
            self.store.write(run.id, ANSWERS, save(tensors))
        if not is_whole:
            on_corrupted, left = self._on_corrupted(run, networks)
        facts = scored(self.store, run.id, self.teachers.get(run.id, ()))
        facts["scores"] |= on_corrupted
        facts["to_teacher"] = record.get("to_teacher", {}) | facts["to_teacher"]
        if any(record.get(name) != value for name, value in facts.items()):
            self.store.amend(run.id, facts, [ANSWERS])
        return left

    def _on_corrupted(self, run: RunSpec, networks: Mapping[str, Network]) -> tuple[dict[str, float], str]:
        """Return the top-1 accuracy of each of a run's networks on each kind of corrupted test images, in percent.

        The second value is why kinds are left out, or "".
        """
        accuracies: dict[str, float] = {}
        left = []
        for kind, what in CORRUPTIONS.items():
            images = f"{run.data.images()} with {what}"
            try:
                metrics = self._evaluated(run, networks, self._corrupted(run.data, kind), images)
            except NotFiniteError as error:
                left.append(str(error))
                continue
            accuracies |= {column(name, f"top1_{kind}"): metrics[column(name, "top1")] for name in networks}
        return accuracies, "; ".join(left)

    def _evaluated(self, run: RunSpec, networks: Mapping[str, Network], split: Split, images: str) -> dict[str, float]:
        size = self._batch_size(run)
        metrics = evaluate(networks, split, run.data, self.inputs.device, _precision(run), size, images)
        return {column(name, metric): value for name, values in metrics.items() for metric, value in values.items()}

    def _corruption(self, data: DataSpec, kind: str) -> Split:
        return corrupted_split(self.inputs.data(data).evaluated, kind, self.inputs.device)

    def _batch_size(self, run: RunSpec) -> int:
        return run.schedule.batch_size if run.schedule else self.plan.suite.training.batch_size

    def _networks(self, run: RunSpec) -> dict[str, Network]:
        """Return the networks of a finished run with their stored weights, by name, on the device.

        Raises:
            RequestError: weights cannot be read, or are not those of the record.
        """
        set_products(_precision(run))
        task, inputs = task_of(run), self.inputs
        if run.is_ensemble:
            members = [inputs.network(self.plan.runs[name]) for name in run.teachers]
            return {task.networks[0]: Ensemble(members)}
        if isinstance(task, Evaluation):
            network = inputs.evaluated(run)
            headed = placed(with_head(run, Frozen(network) if task.freezes else network), inputs.device)
            copy_weights(headed, load(self.store.weights(run.id)))
            return {task.networks[0]: headed}
        return {name: placed(stored_network(run, self.store, name), inputs.device) for name in task.networks}


def _precision(run: RunSpec) -> Precision:
    """Return the precision of a run's evaluations, that of its training."""
    return run.schedule.precision if run.schedule else "fp32"
