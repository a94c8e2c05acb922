"""Rehearses runs for `--dry-run`: one step of each, of any method, on a few random images."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor, nn

from bench.data.mixing import draw_mix, mixed
from bench.models.base import Network
from bench.models.heads import Frozen
from bench.models.own import users_network
from bench.models.quick import QuickDraws
from bench.schedule import MIN_SAMPLES
from bench.spec import STUDENT, DataSpec, NetworkSpec, RunSpec
from bench.tasks import Evaluation, task_of
from bench.train.build import build_lane, learner_of, place_of
from bench.train.epoch import teacher_features
from bench.train.features import detached, mapped
from bench.train.isolation import lent
from bench.train.lane import Lane, SharedDataError, failure_of
from bench.train.learner import INITIAL, Teacher
from bench.train.networks import backbone_data, build_network, network_shapes, placed
from bench.train.precision import arithmetic, set_products
from bench.types import Batch, DataInfo, Features, RequestError
from methods import Method

FEW = MIN_SAMPLES  # images
MANY = 64  # images: what fails with few is tried again with as many as it trains on, at most with these
SEED = 0
NAMED = 3  # parameters that a message names


class Rehearsal:
    """Tries runs of the same data and teachers; each teacher is built once, and its features are computed once.

    The teachers have random weights: what a step needs of them is only that their features are finite.
    """

    def __init__(
        self,
        data: DataSpec,
        teachers: Mapping[str, RunSpec],
        device: torch.device,
        students: dict[tuple[object, ...], Features],
    ) -> None:
        """Prepare to try runs.

        Args:
            data: that they train on.
            teachers: the runs of their teachers, by id.
            device: where to try them.
            students: the features of students that other rehearsals have computed; this one adds its own.
        """
        self.data, self.device, self._teachers = data, device, teachers
        self.seen = next((teacher.data for teacher in teachers.values()), data)
        self._features: dict[tuple[object, ...], Mapping[str, Features]] = {}  # of the teachers, by kind of batch
        self._students = students  # by network, data and kind of batch

    def serves(self, run: RunSpec) -> bool:
        """Return whether a run has these teachers and this data."""
        return run.data.key == self.data.key and set(run.teachers) == self._teachers.keys()

    def fault(self, run: RunSpec, methods: Mapping[str, Method]) -> str | None:
        """Return why a run that trains would fail, in one line; None if its steps work.

        It has one step of each stage. A loss must be a finite scalar, no image and no other network may be written
        into, and a gradient must reach every parameter that a method trains; `try_out` asks for one to the student.
        """
        reason = self._fault(run, methods, FEW)
        many = min(run.training.batch_size, MANY)
        if reason is not None and many > FEW:  # the few images may be its cause
            reason = self._fault(run, methods, many)
        if reason is None:
            return None
        plugins = {term.method: methods[term.method] for term in run.terms if not methods[term.method].is_own}
        places = [place_of(method) for method in plugins.values() if f"{method.path.name}:" not in reason]
        return f"{reason} ({', '.join(places)})" if places else reason

    @cached_property
    def teachers(self) -> dict[str, Teacher]:
        """Return the teachers by run id; a user's network may raise any exception."""
        images = self._images(FEW).teacher_images
        return {name: stand_in(one.student, one.data, images, SEED) for name, one in self._teachers.items()}

    def _fault(self, run: RunSpec, methods: Mapping[str, Method], n: int) -> str | None:
        set_products(run.training.precision)
        try:
            with QuickDraws() if _is_own(run, methods) else nullcontext():
                lane = self._lane(run, methods, n)
            trained = {  # by name; the main stage freezes some
                f"{term.name}: {name}": parameter
                for learner in lane.learners.values()
                for term in learner.terms
                for name, parameter in term.distiller.named_parameters()
                if parameter.requires_grad
            }
            if lane.clock.stage == INITIAL:
                self._step(lane, n)
                lane.advance()
            self._step(lane, n)
        except _FailedError as failed:
            return str(failed)
        except (RequestError, SharedDataError) as error:
            return " ".join(str(error).split())
        except BaseException as error:
            return failure_of(error, "while it was built").reason
        if unreached := [name for name, parameter in trained.items() if parameter.grad is None]:
            names = ", ".join(unreached[:NAMED]) + (", ..." if len(unreached) > NAMED else "")
            return f"no gradient reaches {names}: use it in a loss, or set requires_grad to False"
        return None

    def _lane(self, run: RunSpec, methods: Mapping[str, Method], n: int) -> Lane:
        # momentum and decay would take time and memory, most of all for large adapters, and cannot fail in one step
        changes: dict[str, object] = {"momentum": 0.0, "nesterov": None, "weight_decay": 0.0}
        if run.training.has_initial_stage:
            changes |= {"initial_epochs": 1, "initial_steps": None}
        run = run.but(schedule=run.training.model_copy(update=changes))
        task = task_of(run)
        evaluated: Network | Frozen | None = None
        if isinstance(task, Evaluation):
            network = placed(build_network(run.student, backbone_data(run), run.seed), self.device)
            evaluated = Frozen(network) if task.freezes else network
        samples = max(n, 2 * run.data.classes)  # stands in for data that is not read
        has_classes = task.objective is not None and task.objective.labels == "image"
        targets = torch.arange(samples, device=self.device) % run.data.classes if has_classes else None
        data = DataInfo(samples, run.data.classes, targets)
        recorded = self._recorded(run, methods, n)
        if recorded is None:
            return build_lane(run, self.teachers, data, methods, self.device, evaluated)
        shapes = {name: teacher.shapes for name, teacher in self.teachers.items()}
        learner = learner_of(run, run.student, recorded, shapes, data, methods, self.device)
        if n == FEW:  # faster; a method that fails is tried again with more images, and with its weights as in training
            for term in learner.terms:
                _as_maps(term.distiller)
        return Lane(run, {STUDENT: learner})

    def _recorded(self, run: RunSpec, methods: Mapping[str, Method], n: int) -> "Recorded | None":
        """Return what stands in for the student, whose own passes take most of the time; None if it must train itself.

        A plug-in's student and a user's network train themselves: what they write into or change is noticed in steps.
        """
        if not run.terms or run.student.reuses or task_of(run).trains_teachers or not _is_own(run, methods):
            return None
        key = (run.student, run.data, run.training.precision, n)
        known = self._students.get(key)
        if known is None:
            network = placed(build_network(run.student, run.data, run.seed), self.device)
            with arithmetic(run.training.precision, self.device):
                features = network.features(self._images(n).images, preactivations=True)
            features.logits.float().sum().backward()  # raises if the network cannot train
            known = detached(features)
            if n == FEW:  # many take memory
                self._students[key] = known
        if not any(methods[term.method].load().needs_preactivations for term in run.terms):
            known = replace(known, preactivations=(), norms=())  # as in training
        return Recorded(known)

    def _step(self, lane: Lane, n: int) -> None:
        """Train a lane for one step of its stage; raise a `_FailedError` if it fails."""
        with lane.isolated():
            lane.begin_epoch()
        batch = self._batch(lane, n)
        recipe = lane.spec.training
        key = (n, lane.learner.needs_preactivations, lane.reads_second_view, recipe.mixup, recipe.cutmix)
        if lane.teachers and key not in self._features:
            self._features[key] = teacher_features(self.teachers, [lane], batch)
        features = self._features.get(key, {})
        if lane.failure is None:
            plain = _without_onednn() if isinstance(lane.student, Recorded) else nullcontext()
            with lane.isolated(), lent(lane, [lane], self.teachers, batch, features) as (own_batch, taught), plain:
                lane.step(own_batch, taught, 0)
        if lane.failure is None:
            with lane.isolated():
                lane.check_finite()
        if lane.failure is not None:
            raise _FailedError(lane.failure.reason)

    def _batch(self, lane: Lane, n: int) -> Batch:
        """Return n random images with labels, mixed if the lane's recipe mixes images."""
        batch, objective, data = self._images(n), lane.learner.objective, self.data
        if lane.reads_second_view:
            batch = replace(batch, second=batch.images.flip(3), teacher_second=batch.teacher_images.flip(3))
        if objective is not None and objective.labels == "pixel":
            batch = replace(batch, targets=torch.zeros(n, *data.size, dtype=torch.int64, device=self.device))
        elif objective is not None:
            batch = replace(batch, targets=torch.arange(n, device=self.device) % data.classes)
        if lane.schedule.mixes:
            batch = mixed(batch, draw_mix(lane.schedule, data.size, SEED), data.classes)
        return batch

    def _images(self, n: int) -> Batch:
        """Return n random images without labels, in the views of student and teachers."""
        generator = torch.Generator().manual_seed(SEED)

        def draw(data: DataSpec) -> Tensor:
            images = torch.randn(n, data.channels, *self.data.size, generator=generator)
            return images.to(self.device, memory_format=torch.channels_last)

        images = draw(self.data)
        seen = images if self.data.has_view_of(self.seen) else draw(self.seen)
        return Batch(images, seen, None, torch.arange(n, device=self.device))


def _is_own(run: RunSpec, methods: Mapping[str, Method]) -> bool:
    """Return whether all code of a run is the project's own."""
    return users_network(run.network_names) is None and all(methods[term.method].is_own for term in run.terms)


class Recorded(Network):
    """A network that gives the same features for every batch; they are its parameters, so that losses reach them."""

    def __init__(self, features: Features) -> None:
        super().__init__()
        self.tensors = nn.ParameterList()

        def hold(tensor: Tensor) -> Tensor:
            self.tensors.append(nn.Parameter(tensor.clone()))
            return self.tensors[-1]

        self.recorded = mapped(features, hold)

    def features(self, x: Tensor, preactivations: bool = False) -> Features:
        """Return the features."""
        return mapped(self.recorded, Tensor.clone)

    def trunk(self) -> list[nn.Module]:
        """Return the network itself."""
        return [self]


def _as_maps(adapters: nn.Module) -> None:
    """Let the weights of convolutions have the memory format of the maps, or each pass copies them into it.

    Nothing is copied here: the same random numbers are read in another order.
    """
    for parameter in adapters.parameters():
        if parameter.dim() == 4 and parameter.is_contiguous():
            before, after, height, width = parameter.shape
            parameter.data = parameter.data.view(before, height, width, after).permute(0, 3, 1, 2)


@contextmanager
def _without_onednn() -> Iterator[None]:
    """Convolve in the block without oneDNN, which copies weights: with few images, that takes most of the time."""
    before = torch.backends.mkldnn.enabled
    torch.backends.mkldnn.enabled = False  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.backends.mkldnn.enabled = before


class _FailedError(Exception):
    """A step has failed; the text says why."""


def stand_in(network: NetworkSpec, data: DataSpec, images: Tensor, seed: int) -> Teacher:
    """Return a teacher with random weights and the batch norm statistics of some images, so that its maps are finite.

    Args:
        network: the teacher's.
        data: that it is trained on.
        images: (B, C, H, W), its view of its students' images.
        seed: of its weights.
    """
    with QuickDraws():
        teacher = placed(build_network(network, data, seed), images.device).train()
    for module in teacher.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = None  # one pass sets the statistics
    with torch.no_grad():
        teacher.features(images)
    shapes = network_shapes(network, data.model_copy(update={"size": tuple(images.shape[2:])}))
    return Teacher(teacher.eval().requires_grad_(False), shapes)
