"""From a cohort's runs to lanes that are ready to train, with their teachers and data."""

from collections.abc import Sequence
from typing import Any

from bench.data.batches import TrainingData
from bench.data.images import Split
from bench.launch.inputs import Inputs
from bench.launch.provenance import provenance, sha256_of
from bench.models.base import Network
from bench.models.heads import Frozen
from bench.spec import NetworkSpec, RunSpec
from bench.store import WEIGHTS
from bench.tasks import Evaluation, task_of
from bench.train.build import build_lane
from bench.train.group import Group
from bench.train.lane import Lane, failure_of
from bench.train.loop import Cohort

FrozenNetworks = dict[tuple[str | None, NetworkSpec, int], Frozen]  # by source, network and number of its classes


def assemble(runs: Sequence[RunSpec], inputs: Inputs, group: Group) -> Cohort:
    """Return a cohort with a lane per run; a run whose lane cannot be built fails instead."""
    plan, store, data = inputs.plan, inputs.store, runs[0].data
    names = list(dict.fromkeys(name for run in runs for name in run.teachers))
    teachers = {name: inputs.teacher(plan.runs[name], data) for name in names}
    needed = {name for run in runs for name in run.needs}
    hashes = {name: sha256_of(store.folder(name) / WEIGHTS) for name in needed}
    train, test = inputs.data(data)
    if task_of(runs[0]).objective is None:
        train = Split(train.images, None)  # the data set may have labels; these runs do not see them
    teacher_data = plan.runs[names[0]].data if names else data
    training = TrainingData(data, train, inputs.device, teacher_data, group.size, group.rank)
    frozen: FrozenNetworks = {}
    lanes = []
    for run in runs:
        failure = None
        try:
            judged = _judged(run, inputs, frozen)
            lane = build_lane(run, teachers, training.info, inputs.methods, inputs.device, judged)
        except Exception as error:  # a method's mistake fails its own run, not the cohort
            failure = failure_of(error, "while it was built")
        failure = group.agree_on_failure(failure)
        if failure is not None:
            store.fail(run.id, failure)
        else:
            lane.join(group)
            lanes.append(lane)
    facts = provenance(inputs.device, plan.suite.threads)

    def record(lane: Lane) -> dict[str, Any]:
        source = lane.spec.source
        return {
            **facts,
            **({} if source is None else {"source_sha256": hashes[source]}),
            "teachers_sha256": {name: hashes[name] for name in lane.spec.teachers},
            "methods_sha256": {term.method: inputs.methods[term.method].sha256 for term in lane.spec.terms},
        }

    return Cohort(
        lanes=lanes,
        teachers=teachers,
        train=training,
        test=test,
        seed=runs[0].seed,
        record=record,
        keep_checkpoints=inputs.work.keep_checkpoints,
        within_epoch_s=60 * plan.suite.slurm.checkpoint_minutes,
        group=group,
    )


def _judged(run: RunSpec, inputs: Inputs, frozen: FrozenNetworks) -> Network | Frozen | None:
    """Return the network that an evaluation judges; evaluations that freeze the same network share its forward pass."""
    task = task_of(run)
    if not isinstance(task, Evaluation):
        return None
    if not task.freezes:
        return inputs.judged(run)
    assert run.head is not None  # evaluations have one
    key = (run.source, run.student, run.head.classes)
    if key not in frozen:
        frozen[key] = Frozen(inputs.judged(run))
    return frozen[key]
