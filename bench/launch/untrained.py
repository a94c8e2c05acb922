"""Records runs that have no epochs: given weights and ensembles are evaluated, logistic regressions solved."""

from collections.abc import Iterable
from contextlib import nullcontext
from typing import Any

from safetensors.torch import save

from bench.launch.assemble import made_from
from bench.launch.inputs import Inputs
from bench.launch.preparation import published_file, reading_of
from bench.launch.provenance import provenance, weights_hash
from bench.models.base import Network
from bench.models.ensemble import Ensemble
from bench.models.heads import Frozen, Probe
from bench.models.own import users_network
from bench.models.weights import load_weights
from bench.plan.repeat import suite_files
from bench.spec import DEV, STUDENT, RunSpec
from bench.store import WEIGHTS, Failure
from bench.tasks import task_of
from bench.train.answers import keep_answers
from bench.train.evaluation import NotFiniteError, evaluate, evaluation_batch
from bench.train.lane import failure_of
from bench.train.logistic import fit_on_dev
from bench.train.networks import given_network, placed, refused, with_head
from bench.train.outputs import keep_outputs
from bench.types import RequestError
from methods._settings import kept_settings

Checkpoints = dict[str, tuple[Network, dict[str, float]]]  # networks with given weights and their metrics, by run id


def read_checkpoints(inputs: Inputs, wanted: Iterable[RunSpec]) -> Checkpoints:
    """Read and evaluate the checkpoints of runs that have no record in the store.

    Raises:
        RequestError: a checkpoint has changed since the plan, does not match its network, gives logits that are not
            finite, or does not reach the accuracy in the suite.
    """
    checkpoints: Checkpoints = {}
    for run in wanted:
        if run.checkpoint is None or inputs.store.record(run.id) is not None:
            continue
        checkpoint = inputs.plan.checkpoints[run.id]
        network = given_network(run)
        if checkpoint.path is None:
            load_weights(network, published_file(run, inputs.work.data))
        else:
            load_weights(network, checkpoint.path, run.checkpoint, reading_of(run))
        placed(network, inputs.device)
        metrics: dict[str, float] = {}
        if primary := task_of(run).columns():
            user = _of_user(inputs, run)
            try:
                with refused(user, "cannot be evaluated") if user else nullcontext():
                    metrics = _metrics(inputs, network, run)
            except NotFiniteError as error:
                file = checkpoint.path or "its weights"
                raise RequestError(f"{checkpoint.where}: {file}: {error}. Name other weights") from None
            checkpoint.check(metrics[primary[0]])
        checkpoints[run.id] = (network, metrics)
    return checkpoints


def record_untrained(inputs: Inputs, run: RunSpec, checkpoints: Checkpoints) -> bool:
    """Evaluate and record a run whose needs are done; return False if another process has claimed it."""
    store, size = inputs.store, inputs.plan.suite.training.batch_size
    try:
        if not store.claim(run.id):
            return False
        store.begin(run, suite_files(inputs.plan, run))
        record = provenance(inputs.device, inputs.plan.suite.threads) | {"best": None, "epochs": 0, "wall_s": 0.0}
        try:
            with kept_settings(_of_user(inputs, run) is not None):
                network, known = _evaluated(inputs, run, checkpoints)
        except RequestError:
            raise  # the store or the data is at fault, not the run
        except NotFiniteError as error:
            store.fail(run.id, Failure("failed", str(error)))
            return True
        except BaseException as error:  # too little memory, for example, or a user's network: the other runs continue
            store.fail(run.id, failure_of(error, "while it was evaluated"))
            return True
        record |= known
        if run.is_ensemble:
            record["teachers_sha256"] = {name: weights_hash(store, name) for name in run.teachers}
        else:
            record |= made_from(run, inputs, {name: weights_hash(store, name) for name in run.needs})
            weights = {name: value.contiguous().cpu() for name, value in network.state_dict().items()}
            store.write(run.id, WEIGHTS, save(weights))
            if task_of(run).keeps_outputs:
                record |= keep_outputs(store, run, network, inputs.data(run.data).evaluated, inputs.device, size)
        if task_of(run).answered:
            record |= keep_answers(store, run, {STUDENT: network}, inputs.data(run.data).evaluated, inputs.device, size)
        store.finish(run.id, record)
    finally:
        store.release(run.id)
    return True


def _evaluated(inputs: Inputs, run: RunSpec, checkpoints: Checkpoints) -> tuple[Network, dict[str, Any]]:
    """Return the network of a run without epochs, and what is found about it."""
    if run.is_ensemble:
        network: Network = Ensemble([inputs.network(inputs.plan.runs[name]) for name in run.teachers])
        return network, {"metrics": _metrics(inputs, network, run)}
    if run.head is None:
        network, metrics = checkpoints[run.id]
        return network, {"metrics": metrics}
    network, l2 = _solved(inputs, run)
    return network, {"l2": l2, "metrics": _metrics(inputs, network, run)}


def _of_user(inputs: Inputs, run: RunSpec) -> str | None:
    """Return the first network of a run, or of the members of an ensemble, that comes from a user's file."""
    runs = [inputs.plan.runs[name] for name in run.teachers] if run.is_ensemble else [run]
    return users_network(name for one in runs for name in one.network_names)


def _solved(inputs: Inputs, run: RunSpec) -> tuple[Network, float]:
    """Return the frozen network of a run with the head that a solver has fitted, and the chosen penalty."""
    splits = inputs.data(run.data)
    assert splits.dev is not None  # the plan holds images out for such a run
    probe = placed(with_head(run, Frozen(inputs.evaluated(run))), inputs.device)
    assert isinstance(probe, Probe)  # its task says so
    size = evaluation_batch(inputs.device, inputs.plan.suite.training.batch_size)
    return probe, fit_on_dev(probe, splits.train, splits.dev, run.data, inputs.device, size)


def _metrics(inputs: Inputs, network: Network, run: RunSpec) -> dict[str, float]:
    batch_size = inputs.plan.suite.training.batch_size
    splits = inputs.data(run.data)
    metrics: dict[str, float] = {}
    for split, prefix in ((splits.evaluated, ""), (splits.dev if run.data.has_dev else None, DEV)):
        if split is not None:
            images = run.data.images(prefix)
            found = evaluate({"network": network}, split, run.data, inputs.device, "fp32", batch_size, images)
            metrics |= {f"{prefix}{name}": value for name, value in found["network"].items()}
    return metrics
