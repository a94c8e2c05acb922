"""From specifications to objects: networks, teachers, lanes; and whether a method can serve a pair at all."""

import logging
from collections.abc import Mapping
from functools import cache
from inspect import signature

import torch

from bench.lane import Lane, Teacher, Term
from bench.models import build, shapes
from bench.models.base import Network
from bench.models.heads import FineTuned, Frozen, Probe, Segmenter
from bench.spec import DataSpec, NetworkSpec, RunSpec, canonical, seed_from
from bench.types import DataInfo, RequestError, Shapes
from methods.catalog import Method

logger = logging.getLogger(__name__)


def build_network(spec: NetworkSpec, data: DataSpec, seed: int = 0) -> Network:
    """Return a network for a data set, with initial weights that depend on (seed, network) alone."""
    torch.manual_seed(seed_from("init", seed, canonical(spec)))
    return _build(spec, data.classes, data.channels)


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
    student = network_shapes(run.student, run.data)
    for teacher_id in run.teachers:
        teacher = teacher_shapes(needed[teacher_id], run.data)
        for term in run.terms:
            cls = methods[term.method].load()
            # a method whose answer depends on a parameter takes it by name, as FitNet does its layer
            named = term.parameters.keys() & signature(cls.inapplicable).parameters
            if reason := cls.inapplicable(student, teacher, **{name: term.parameters[name] for name in named}):
                return reason
            n = 2 * run.data.classes  # stands in for data that is not read yet
            labels = None if run.task == "cross_modal" else torch.arange(n) % run.data.classes
            if labels is None and cls.needs_targets:
                return "it needs labels, and students of another modality see none"
            try:
                cls(student, teacher, DataInfo(n, run.data.classes, labels), **term.parameters)
            except ValueError as error:
                names = f"{teacher.network}->{student.network}"
                raise RequestError(f"method {term.method} on {names}: {error}") from None
            except Exception:
                logger.debug("%s cannot be built; its run will say so", term.method, exc_info=True)
    return None


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
    student = build_network(spec.student, spec.data, spec.seed) if judged is None else _headed(spec, judged)
    student = student.to(device).to(memory_format=torch.channels_last)
    share = 1 / len(spec.teachers) if spec.combine == "mean" and spec.teachers else 1.0
    terms = []
    for place, teacher in enumerate(spec.teachers):
        for term in spec.terms:
            cls = methods[term.method].load()
            if cls.needs_targets and data.targets is None:
                raise ValueError(f"{term.method} needs labels, and the data has none")
            torch.manual_seed(seed_from("adapters", spec.seed, term.method, place))
            distiller = cls(network_shapes(spec.student, spec.data), teachers[teacher].shapes, data, **term.parameters)
            terms.append(Term(term.method, term.weight * share, distiller.to(device), teacher))
    return Lane(spec, student, tuple(terms), spec.schedule)


def _headed(spec: RunSpec, judged: Network | Frozen) -> Network:
    """Return a network with a new head, whose initial weights depend on (seed, head) alone."""
    assert spec.head is not None  # it is judged
    torch.manual_seed(seed_from("head", spec.seed, spec.task, canonical(spec.head)))
    found, classes = network_shapes(spec.student, backbone_data(spec)), spec.data.classes
    if isinstance(judged, Frozen):
        return Probe(judged, found, classes, spec.head.stage, spec.head.most_values)
    return {"finetune": FineTuned, "segmentation": Segmenter}[spec.task](judged, found, classes)
