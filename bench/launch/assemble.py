"""Assembles each cohort before it trains: lanes with their teachers and data."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from bench.data.batches import TrainingData
from bench.data.images import Split
from bench.launch.inputs import Inputs
from bench.launch.provenance import provenance, weights_hash
from bench.models.base import Network
from bench.models.heads import Frozen
from bench.plan.code import code_of_run, used_code
from bench.spec import NetworkSpec, RunSpec
from bench.tasks import Evaluation, task_of
from bench.train.build import build_lane
from bench.train.lane import failure_of
from bench.train.loop import Cohort
from bench.train.networks import backbone_data
from bench.train.process_group import Group
from bench.types import RequestError
from methods import Code

logger = logging.getLogger(__name__)

FrozenNetworks = dict[tuple[str | int, NetworkSpec, int], Frozen]  # by source or seed, network, number of its classes


def assemble(runs: Sequence[RunSpec], inputs: Inputs, group: Group) -> Cohort:
    """Return a cohort with one lane per run; if a lane cannot be built, its run fails and the others train."""
    plan, store, data = inputs.plan, inputs.store, runs[0].data
    names = list(dict.fromkeys(name for run in runs for name in run.teachers))
    teachers = {name: inputs.teacher(plan.runs[name], data) for name in names}
    hashes = {name: weights_hash(store, name) for run in runs for name in run.needs}
    splits = inputs.data(data)
    train = splits.train
    if task_of(runs[0]).objective is None:
        train = Split(train.images, None)  # hides labels that the data set may have
    teacher_data = plan.runs[names[0]].data if names else data
    training = TrainingData(data, train, inputs.device, teacher_data, group.size, group.rank, runs[0].schedule)
    frozen: FrozenNetworks = {}
    lanes = []
    for run in runs:
        failure = None
        try:
            evaluated = _evaluated(run, inputs, frozen)
            lane = build_lane(run, teachers, training.info, inputs.methods, inputs.device, evaluated)
            _check_code(run, inputs)
            lane.join(group)
        except BaseException as error:  # an error in a method fails only its own run
            failure = failure_of(error, "while it was built")
        failure = group.agree_on_failure(failure)
        if failure is not None:
            store.fail(run.id, failure)
            logger.warning("failed: %s (run %s)", failure.reason, run.id)
        else:
            lane.made_from = made_from(run, inputs, hashes)
            lanes.append(lane)
    facts = provenance(inputs.device, plan.suite.threads)
    return Cohort(
        lanes=lanes,
        teachers=teachers,
        train=training,
        test=splits.evaluated,
        dev=splits.dev if data.has_dev else None,
        seed=runs[0].ordered_by,
        record=lambda lane: facts | lane.made_from,
        accept_changed=inputs.work.accept_changed,
        keep_checkpoints=inputs.work.keep_checkpoints,
        at_risk_s=60 * plan.suite.slurm.checkpoint_minutes,
        group=group,
    )


def made_from(run: RunSpec, inputs: Inputs, hashes: Mapping[str, str]) -> dict[str, Any]:
    """Return what a run is trained from, as records and checkpoints name it; `hashes` are of weights, by run id."""
    source = {"source_sha256": hashes[run.trained_by]} if run.trained_by in hashes else {}
    return source | {
        "teachers_sha256": {name: hashes[name] for name in run.teachers},
        "methods_sha256": {name: code.sha256 for name, code in _current(run, inputs).items()},
    }


def _check_code(run: RunSpec, inputs: Inputs) -> None:
    """Raise a `RequestError` if this process has imported other code for a run than the plan has read."""
    for name, code in _current(run, inputs).items():
        if code.sha256 != inputs.plan.code[name].sha256:
            raise RequestError(f"{code.path}: has changed since the suite was planned. Start again")


def _current(run: RunSpec, inputs: Inputs) -> dict[str, Code]:
    """Return the code of a run in this process."""
    return code_of_run(run, used_code([run], inputs.methods))


def _evaluated(run: RunSpec, inputs: Inputs, frozen: FrozenNetworks) -> Network | Frozen | None:
    """Return the network that a run evaluates; evaluations that freeze the same network share its forward pass."""
    task = task_of(run)
    if not isinstance(task, Evaluation):
        return None
    if not task.freezes:
        return inputs.evaluated(run)
    key = (run.source or run.seed, run.student, backbone_data(run).classes)
    if key not in frozen:
        frozen[key] = Frozen(inputs.evaluated(run))
    return frozen[key]
