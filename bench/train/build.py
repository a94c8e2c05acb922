"""Builds the lane of a run: student, methods, optimizer. Says why a method cannot serve a pair."""

import inspect
import logging
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bench.data.batches import batch_sizes
from bench.models.base import Network
from bench.models.heads import Frozen
from bench.models.own import users_network
from bench.models.quick import QuickDraws
from bench.models.reusing import Reusing
from bench.spec import PEER, STUDENT, NetworkSpec, RunSpec, seed_from
from bench.tasks import task_of
from bench.text import printable
from bench.train.lane import Lane
from bench.train.learner import Learner, MethodError, Teacher, Term
from bench.train.networks import backbone_data, build_network, network_shapes, placed, teacher_shapes, with_head
from bench.train.plugin_trial import try_out
from bench.types import DataInfo, RequestError, Shapes
from methods import Method
from methods._errors import described, ends_process
from methods._settings import kept_settings, seed_generators

logger = logging.getLogger(__name__)


def inapplicable(run: RunSpec, needed: Mapping[str, RunSpec], methods: Mapping[str, Method]) -> str | None:
    """Return why a run's methods cannot serve its pair, or its network cannot be evaluated; None if they can.

    `needed` has the specifications of the runs that it needs, by id.

    Raises:
        RequestError: a parameter has a value that cannot work with the pair, such as a layer that does not exist.
    """
    if run.is_ensemble:
        return None
    if task_of(run).is_evaluation:
        return _not_evaluable(run, needed)
    for student, teacher in _directions(run, needed):
        for term in run.terms:
            if reason := _unsuited(run, methods[term.method], term.parameters, student, teacher):
                return reason
        if run.student.reuses is not None:
            student = network_shapes(run.student, run.data)
        for term in run.terms:
            if reason := _unbuildable(run, methods[term.method], term.parameters, student, teacher):
                return reason
    return None


def _unsuited(
    run: RunSpec, method: Method, parameters: Mapping[str, Any], student: Shapes, teacher: Shapes
) -> str | None:
    """Return why a method does not suit a run's task, its teachers or its pair; None if it does."""
    is_mutual = task_of(run).trains_teachers
    if is_mutual and method.has_initial_stage:
        return f"{method.name} begins with a stage that needs a trained teacher: mutual learning has none"
    if is_mutual and method.reuses_classifier:
        return f"{method.name} reuses the classifier of a trained teacher: mutual learning has none"
    if len(run.teachers) > 1 and method.reuses_classifier:
        return f"{method.name} reuses the classifier of one teacher; this pair has {len(run.teachers)}"
    reason = _reason(method, parameters, student, teacher)
    return f"{teacher.network}->{student.network}: {reason}" if reason and is_mutual else reason


def _unbuildable(
    run: RunSpec, method: Method, parameters: Mapping[str, Any], student: Shapes, teacher: Shapes
) -> str | None:
    """Return why a run cannot give a method what it needs; None if it can, or if the run will say what is wrong.

    Raises:
        RequestError: a parameter cannot work with the pair, or a plug-in's loss cannot be trained.
    """
    task, name, names = task_of(run), method.name, f"{teacher.network}->{student.network}"
    cls, n = method.load(), 2 * run.data.classes  # stands in for data that is not read yet
    labels = None if task.objective is None else torch.arange(n) % run.data.classes
    if labels is None and cls.needs_targets:
        return "it needs labels, and students of another modality see none"
    if run.training.mixes and not cls.takes_mixed_images:
        return f"{name} needs images with one label each; mixup and cutmix mix them"
    data = DataInfo(n, run.data.classes, labels)
    try:
        with kept_settings(not method.is_own), QuickDraws() if method.is_own else nullcontext():
            distiller = cls(student, teacher, data, **parameters)
            if distiller.needs_second_view and run.training.mixes:
                return f"{name} needs a second view of each image; mixup and cutmix mix the first alone"
            if distiller.needs_second_view and not task.same_view:
                return f"{name} needs a second view of each image, which other modalities do not have"
            if not method.is_own:
                try_out(name, distiller, student, teacher, data, run.data)
    except MethodError as error:
        raise RequestError(f"{place_of(method)}: on {names}: {error}") from None
    except ValueError as error:
        text = error if method.is_own else described(error)
        raise RequestError(f"method {name} on {names}: {text}") from None
    except BaseException as error:
        if ends_process(error):
            raise
        logger.debug("%s cannot be built; its run will say so", name, exc_info=True)
    return None


def place_of(method: Method) -> str:
    """Return the file of a method and, if its loss is defined there, the line."""
    code = getattr(inspect.unwrap(method.load().loss), "__code__", None)
    if code is None or Path(code.co_filename).resolve() != method.path.resolve():
        return str(method.path)
    return f"{method.path}:{code.co_firstlineno}"


def _reason(method: Method, parameters: Mapping[str, Any], student: Shapes, teacher: Shapes) -> str | None:
    """Return why a method is inapplicable to a pair, in one line; None if it can be used.

    Raises:
        RequestError: the method raises an error, or returns something else.
    """
    try:
        with kept_settings(not method.is_own):
            cls = method.load()
            # a method whose answer depends on a parameter takes it by name, as FitNet does its layer
            named = inspect.signature(cls.inapplicable).parameters
            given = {name: value for name, value in parameters.items() if name in named}
            reason: object = cls.inapplicable(student, teacher, **given)
    except RequestError:
        raise
    except BaseException as error:
        if ends_process(error):
            raise
        raise RequestError(f"{method.path}: inapplicable() of {method.name}: {described(error)}") from error
    if reason is not None and not isinstance(reason, str):
        fault = f"it returns a {type(reason).__name__}; it returns the reason as text, or None"
        raise RequestError(f"{method.path}: inapplicable() of {method.name}: {fault}")
    return printable(" ".join(reason.split()), one_line=True) if reason else None


def _not_evaluable(run: RunSpec, needed: Mapping[str, RunSpec]) -> str | None:
    """Return why a network has no features to evaluate, or None if it has some."""
    assert run.head is not None  # an evaluation has one
    if any(source.is_ensemble for source in needed.values()):
        return "several networks together have no features to evaluate"
    stage, count = run.head.stage, len(network_shapes(run.student, backbone_data(run)).stages)
    if stage is not None and stage >= count:
        has = f"{run.student.network} has no stage {stage}: it has {count}, counted from 0"
        raise RequestError(f"evaluations: stages: {has}")
    return None


def _directions(run: RunSpec, needed: Mapping[str, RunSpec]) -> Iterator[tuple[Shapes, Shapes]]:
    """Yield the shapes of the student, with its own classifier, and of the teacher, for each pair in a run."""
    student = network_shapes(run.student.alone, run.data)
    for teacher in run.teachers:
        yield student, teacher_shapes(needed[teacher], run.data)
    if task_of(run).trains_teachers:
        peer = network_shapes(run.peer_network, run.data)
        yield from [(student, peer), (peer, student)]


def build_lane(
    spec: RunSpec,
    teachers: Mapping[str, Teacher],
    data: DataInfo,
    methods: Mapping[str, Method],
    device: torch.device,
    evaluated: Network | Frozen | None = None,
) -> Lane:
    """Return a run's lane at its start: the student from (seed, network), each adapter from (seed, method).

    Args:
        spec: a run that trains.
        teachers: by run id, all that the run names.
        data: the training set, as methods see it.
        methods: by name.
        device: of networks and methods.
        evaluated: for an evaluation, the network whose features it reads; frozen if the task freezes it.
    """
    schedule = spec.training
    epoch_steps = len(batch_sizes(data.n, schedule.batch_size, schedule.processes or 1))
    has_users_network = users_network(spec.network_names) is not None
    has_plugin = has_users_network or any(not methods[term.method].is_own for term in spec.terms)
    lane_of = partial(Lane, spec, has_plugin=has_plugin, has_users_network=has_users_network, epoch_steps=epoch_steps)
    with kept_settings(has_plugin):
        if not task_of(spec).trains_teachers:
            student = with_head(spec, evaluated) if evaluated else build_network(spec.student, spec.data, spec.seed)
            shapes = {name: teachers[name].shapes for name in spec.teachers}
            if spec.teachers and isinstance(student, Reusing):
                classifier = teachers[spec.teachers[0]].network.linear_classifier()
                assert classifier is not None  # `inapplicable` has asked
                student.take(classifier)
            learners = {STUDENT: learner_of(spec, spec.student, student, shapes, data, methods, device)}
            return lane_of(learners)
        # each network has the initial weights that it has alone, unless both would be equal
        peer = spec.peer_network
        peer_seed = spec.seed if peer != spec.student else seed_from(PEER, spec.seed)
        student = build_network(spec.student, spec.data, spec.seed)
        peer_network = build_network(peer, spec.data, peer_seed)
        peers, students = {PEER: network_shapes(peer, spec.data)}, {STUDENT: network_shapes(spec.student, spec.data)}
        learners = {
            STUDENT: learner_of(spec, spec.student, student, peers, data, methods, device),
            PEER: learner_of(spec, peer, peer_network, students, data, methods, device, first=1, lr=spec.peer_lr),
        }
        return lane_of(learners)


def learner_of(
    spec: RunSpec,
    own: NetworkSpec,
    network: Network,
    teachers: Mapping[str, Shapes],
    data: DataInfo,
    methods: Mapping[str, Method],
    device: torch.device,
    first: int = 0,
    lr: float | None = None,
) -> Learner:
    """Return the learner of a run's network, with each of its terms for each of its teachers, given by name.

    Adapters are drawn from (seed, method, teacher's place); `first` is the first teacher's place.
    """
    share = 1 / len(teachers) if spec.combine == "mean" and teachers else 1.0
    terms: list[Term] = []
    others: tuple[str, ...] = ()
    if spec.combine == "probabilities":
        name, *further = teachers
        teachers, others = {name: teachers[name]}, tuple(further)
    for place, (name, teacher) in enumerate(teachers.items(), start=first):
        for term in spec.terms:
            cls = methods[term.method].load()
            if cls.needs_targets and data.targets is None:
                raise ValueError(f"{term.method} needs labels, and the data has none")
            shapes = network_shapes(own, spec.data)  # before the generators are seeded: a user's network may draw
            seed_generators(seed_from("adapters", spec.seed, term.method, place))
            distiller = cls(shapes, teacher, data, **term.parameters)
            terms.append(Term(term.method, term.weight * share, distiller.to(device), name, term.warmup, others))
    schedule = spec.training.model_copy(update={"lr": lr or spec.training.lr})
    return Learner(placed(network, device), terms, schedule, task_of(spec).objective, spec.task_weight)
