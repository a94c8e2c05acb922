"""From specifications to objects: networks, teachers, lanes; and whether a method can serve a pair at all."""

import logging
from collections.abc import Iterator, Mapping
from functools import cache
from inspect import signature

import torch

from bench.models import build, shapes
from bench.models.base import Network
from bench.models.heads import FineTuned, Frozen, Probe, Segmenter
from bench.spec import PEER, STUDENT, DataSpec, NetworkSpec, RunSpec, canonical, seed_from
from bench.train.lane import Lane, Teacher, Term
from bench.train.mutual import MutualLane
from bench.types import DataInfo, RequestError, Shapes
from methods import Method

logger = logging.getLogger(__name__)


def build_network(spec: NetworkSpec, data: DataSpec, seed: int = 0) -> Network:
    """Return a network for a data set, with initial weights that depend on (seed, network) alone."""
    torch.manual_seed(seed_from("init", seed, canonical(spec)))
    return _build(spec, data.classes, data.channels)


def placed(network: Network, device: torch.device) -> Network:
    """Return a network moved to a device, its weights laid out in memory as images are."""
    return network.to(device).to(memory_format=torch.channels_last)


def network_shapes(spec: NetworkSpec, data: DataSpec) -> Shapes:
    """Return the shapes of a network's features on a data set; no weights are made."""
    return _shapes(spec, data.classes, data.channels, data.size)


def teacher_shapes(teacher: RunSpec, data: DataSpec) -> Shapes:
    """Return the shapes of a teacher's features on the data that its student trains on, which it sees in its own view.

    Args:
        teacher: the run that trained it.
        data: the student's.
    """
    return network_shapes(teacher.student, teacher.data.model_copy(update={"size": data.size}))


def backbone_data(run: RunSpec) -> DataSpec:
    """Return data for which a network that is judged would be built as it was: with as many classes as it knows."""
    assert run.head is not None  # it is judged
    return run.data.model_copy(update={"classes": run.head.classes})


def _check_stage(run: RunSpec) -> None:
    found = network_shapes(run.student, backbone_data(run))
    if run.head is not None and run.head.stage is not None and run.head.stage >= len(found.stages):
        raise RequestError(
            f"evaluations: stages: {run.student.network} has no stage {run.head.stage}: it has {len(found.stages)}, "
            "counted from 0"
        )


@cache
def _shapes(spec: NetworkSpec, classes: int, channels: int, size: tuple[int, int]) -> Shapes:
    try:
        with torch.device("meta"):
            return shapes(_build(spec, classes, channels), spec.network, channels, *size)
    except (RuntimeError, AssertionError, ValueError) as error:
        raise RequestError(f"{spec.network} cannot take images of {size[0]}x{size[1]} pixels: {error}") from error


def _build(spec: NetworkSpec, classes: int, channels: int) -> Network:
    return build(
        spec.network,
        num_classes=classes,
        in_channels=channels,
        stages=spec.stages,
        classifier=spec.classifier,
        preactivations=spec.preactivations,
    )


def inapplicable(run: RunSpec, needed: Mapping[str, RunSpec], methods: Mapping[str, Method]) -> str | None:
    """Return why a run's methods cannot serve its pair, or its network not be judged; None if they can.

    Args:
        run: any run.
        needed: the specifications of the runs that it needs, by id.
        methods: by name.

    Raises:
        RequestError: a parameter has a value that cannot work with the pair, such as a layer that is not there.
    """
    if run.is_ensemble:
        return None
    if run.source is not None and needed[run.source].is_ensemble:
        return "several networks together have no features to judge"
    if run.head is not None:
        _check_stage(run)
        return None
    for student, teacher in _directions(run, needed):
        names = f"{teacher.network}->{student.network}"
        for term in run.terms:
            if run.peer is not None and methods[term.method].has_initial_stage:
                return f"{term.method} begins with a stage that needs a trained teacher: mutual learning has none"
            cls = methods[term.method].load()
            # a method whose answer depends on a parameter takes it by name, as FitNet does its layer
            named = signature(cls.inapplicable).parameters
            given = {name: value for name, value in term.parameters.items() if name in named}
            reason = cls.inapplicable(student, teacher, **given)
            if reason:
                return reason if run.peer is None else f"{names}: {reason}"
            n = 2 * run.data.classes  # stands in for data that is not read yet
            labels = None if run.task == "cross_modal" else torch.arange(n) % run.data.classes
            if labels is None and cls.needs_targets:
                return "it needs labels, and students of another modality see none"
            try:
                cls(student, teacher, DataInfo(n, run.data.classes, labels), **term.parameters)
            except ValueError as error:
                raise RequestError(f"method {term.method} on {names}: {error}") from None
            except Exception:
                logger.debug("%s cannot be built; its run will say so", term.method, exc_info=True)
    return None


def _directions(run: RunSpec, needed: Mapping[str, RunSpec]) -> Iterator[tuple[Shapes, Shapes]]:
    """Yield the shapes of a student and of its teacher, for each pair of them that a run has."""
    student = network_shapes(run.student, run.data)
    for teacher in run.teachers:
        yield student, teacher_shapes(needed[teacher], run.data)
    if run.peer is not None:
        peer = network_shapes(run.peer, run.data)
        yield from [(student, peer), (peer, student)]


def build_lane(
    spec: RunSpec,
    teachers: Mapping[str, Teacher],
    data: DataInfo,
    methods: Mapping[str, Method],
    device: torch.device,
    judged: Network | Frozen | None = None,
) -> Lane:
    """Return a run's lane at its start: the student from (seed, network), each adapter from (seed, method).

    Args:
        spec: the run; its schedule is not None.
        teachers: by run id, all that the run names.
        data: the training set, as methods see it.
        methods: by name.
        device: where everything lives.
        judged: the network whose features are judged, of a run with a head; frozen for a probe.
    """
    assert spec.schedule is not None  # a checkpoint does not train
    if spec.peer is not None:
        return _mutual_lane(spec, spec.peer, data, methods, device)
    student = build_network(spec.student, spec.data, spec.seed) if judged is None else _headed(spec, judged)
    student = placed(student, device)
    heard = {name: teachers[name].shapes for name in spec.teachers}
    return Lane(spec, student, _terms(spec, spec.student, heard, data, methods, device), spec.schedule)


def _mutual_lane(
    spec: RunSpec, other: NetworkSpec, data: DataInfo, methods: Mapping[str, Method], device: torch.device
) -> MutualLane:
    """Return the lane of a student and its peer, which begin as each would alone, but for two that would be equal."""
    assert spec.schedule is not None  # both train
    peer_seed = spec.seed if other != spec.student else seed_from(PEER, spec.seed)
    student = placed(build_network(spec.student, spec.data, spec.seed), device)
    peer = placed(build_network(other, spec.data, peer_seed), device)
    terms = _terms(spec, spec.student, {PEER: network_shapes(other, spec.data)}, data, methods, device)
    heard = {STUDENT: network_shapes(spec.student, spec.data)}
    peer_terms = _terms(spec, other, heard, data, methods, device, first=1)
    peer_schedule = spec.schedule.model_copy(update={"lr": spec.peer_lr or spec.schedule.lr})
    return MutualLane(spec, student, terms, spec.schedule, peer=Lane(spec, peer, peer_terms, peer_schedule))


def _terms(
    spec: RunSpec,
    student: NetworkSpec,
    teachers: Mapping[str, Shapes],
    data: DataInfo,
    methods: Mapping[str, Method],
    device: torch.device,
    first: int = 0,
) -> tuple[Term, ...]:
    """Return a run's terms of a student with each of its teachers.

    Args:
        spec: the run.
        student: the network that learns.
        teachers: those it listens to, by name.
        data: the training set, as methods see it.
        methods: by name.
        device: where the adapters live.
        first: the first teacher's place; adapters are drawn from (seed, method, place).
    """
    share = 1 / len(teachers) if spec.combine == "mean" and teachers else 1.0
    terms = []
    for place, (name, teacher) in enumerate(teachers.items(), start=first):
        for term in spec.terms:
            cls = methods[term.method].load()
            if cls.needs_targets and data.targets is None:
                raise ValueError(f"{term.method} needs labels, and the data has none")
            torch.manual_seed(seed_from("adapters", spec.seed, term.method, place))
            distiller = cls(network_shapes(student, spec.data), teacher, data, **term.parameters)
            terms.append(Term(term.method, term.weight * share, distiller.to(device), name))
    return tuple(terms)


def _headed(spec: RunSpec, judged: Network | Frozen) -> Network:
    """Return a network with a new head, whose initial weights depend on (seed, head) alone."""
    assert spec.head is not None  # it is judged
    torch.manual_seed(seed_from("head", spec.seed, spec.task, canonical(spec.head)))
    found, classes = network_shapes(spec.student, backbone_data(spec)), spec.data.classes
    if isinstance(judged, Frozen):
        return Probe(judged, found, classes, spec.head.stage, spec.head.most_values)
    return {"finetune": FineTuned, "segmentation": Segmenter}[spec.task](judged, found, classes)
