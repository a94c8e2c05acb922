"""Records runs that need no training: evaluates given weights and ensembles of teachers."""

from collections.abc import Iterable

from safetensors.torch import save

from bench.launch.inputs import Inputs
from bench.launch.preparation import published_file
from bench.launch.provenance import provenance, sha256_of
from bench.models.base import Network
from bench.models.ensemble import Ensemble
from bench.models.weights import load_weights
from bench.plan.repeat import suite_files
from bench.spec import RunSpec
from bench.store import OUTPUTS, WEIGHTS
from bench.tasks import task_of
from bench.train.loop import evaluate
from bench.train.networks import build_network, placed
from bench.train.outputs import outputs


class UntrainedRuns:
    """Evaluates and records runs that train nothing."""

    def __init__(self, inputs: Inputs) -> None:
        self.inputs = inputs
        self._checkpoints: dict[str, tuple[Network, dict[str, float]]] = {}

    def read_checkpoints(self, wanted: Iterable[RunSpec]) -> None:
        """Read and evaluate the checkpoints of runs that have no record in the store.

        Raises:
            RequestError: a checkpoint does not match its network, or does not reach the accuracy in the suite.
        """
        inputs = self.inputs
        for run in wanted:
            if run.checkpoint is None or inputs.store.record(run.id) is not None:
                continue
            checkpoint = inputs.plan.checkpoints[run.id]
            network = build_network(run.student, run.data)
            load_weights(network, checkpoint.path or published_file(run, inputs.work.data))
            placed(network, inputs.device)
            metrics: dict[str, float] = {}
            if task_of(run).objective is not None:
                metrics = self._metrics(network, run)
                checkpoint.check(metrics[task_of(run).columns()[0]])
            self._checkpoints[run.id] = (network, metrics)

    def finish(self, run: RunSpec) -> bool:
        """Evaluate and record a run whose needs are done; return False if another process has claimed it."""
        inputs, store = self.inputs, self.inputs.store
        if not store.claim(run.id):
            return False
        try:
            store.begin(run, suite_files(inputs.plan, run))
            record = provenance(inputs.device, inputs.plan.suite.threads) | {"best": None, "epochs": 0, "wall_s": 0.0}
            if run.is_ensemble:
                ensemble = Ensemble([inputs.network(inputs.plan.runs[name]) for name in run.teachers])
                record["metrics"] = self._metrics(ensemble, run)
                record["teachers_sha256"] = {name: sha256_of(store.folder(name) / WEIGHTS) for name in run.teachers}
            else:
                network, record["metrics"] = self._checkpoints[run.id]
                weights = {name: value.contiguous().cpu() for name, value in network.state_dict().items()}
                store.write(run.id, WEIGHTS, save(weights))
                if task_of(run).keeps_answers:
                    store.write(
                        run.id, OUTPUTS, save(outputs(network, inputs.data(run.data)[1], run.data, inputs.device))
                    )
            store.finish(run.id, record)
        finally:
            store.release(run.id)
        return True

    def _metrics(self, network: Network, run: RunSpec) -> dict[str, float]:
        return evaluate([network], self.inputs.data(run.data)[1], run.data, self.inputs.device)[0]
