"""A learner: one network in training, with its terms, optimizer and meter. A lane has one; in mutual learning, two."""

import math
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.models.base import Network
from bench.models.own import file_of
from bench.schedule import Schedule
from bench.tasks.objectives import Objective
from bench.train.features import together
from bench.train.meter import Meter
from bench.train.optimizers import average_into, groups_of, learning_rate, optimizer_of
from bench.train.precision import arithmetic, as_float32
from bench.train.process_group import Group
from bench.types import Batch, Features, InitialStage, Shapes
from methods._settings import kept_settings
from methods.base import Distiller

UNREACHED = "reaches no parameter of the student: it has no gradient"
INITIAL, MAIN = 0, 1  # stages, in the order in which they run


@dataclass(frozen=True)
class Teacher:
    """A trained network in eval mode, its parameters frozen."""

    network: Network
    shapes: Shapes

    @cached_property
    def is_users(self) -> bool:
        """Return whether the network is from a user's file."""
        return file_of(self.shapes.network) is not None

    def features(self, images: Tensor, preactivations: bool) -> Features:
        """Return the features of images (B, C, H, W), which are copied for a user's network: it may write into them."""
        with kept_settings(self.is_users):
            return self.network.features(images.clone() if self.is_users else images, preactivations)


@dataclass(frozen=True)
class Term:
    """One distiller's share of the loss.

    Attributes:
        name: the method's.
        weight: factor in the total loss.
        distiller: the method with its adapters.
        teacher: the run id of its teacher, or the name of the network that trains together with the student.
        warmup: number of epochs over which the weight rises; None for none.
        others: run ids of further teachers; the term's teacher then predicts the mean of all their probabilities.
    """

    name: str
    weight: float
    distiller: Distiller
    teacher: str
    warmup: int | None = None
    others: tuple[str, ...] = ()

    def weight_in(self, epoch: int) -> float:
        """Return the weight in an epoch of the main stage, counted from 1."""
        return self.weight if self.warmup is None else self.weight * min(epoch / self.warmup, 1)


class Learner:
    """One network in training.

    Attributes:
        schedule: of the training; the two learners of a lane differ only in the learning rate.
        objective: the loss with labels, or None without labels.
        task_weight: weight of that loss.
        initial: the terms with an initial stage, and that stage.
        initial_modules: the distillers' modules that train in the initial stage.
        evaluated: the network that is evaluated and stored: the one that trains, or the moving average of its weights.
        optimizer: of the current stage.
        weights: of the terms in the current epoch.
        meter: of the current epoch.
    """

    def __init__(
        self,
        network: Network,
        terms: Sequence[Term],
        schedule: Schedule,
        objective: Objective | None,
        task_weight: float,
    ) -> None:
        self.network, self.terms, self.schedule = network, tuple(terms), schedule
        self.objective, self.task_weight = objective, task_weight
        self.device = next(network.parameters()).device
        self.meter = Meter([], self.device)
        self.evaluated = network if schedule.ema is None else deepcopy(network).requires_grad_(False)
        self.needs_preactivations = any(term.distiller.needs_preactivations for term in terms)
        self.needs_second_view = any(term.distiller.needs_second_view for term in terms)
        stages = ((term, term.distiller.initial_stage()) for term in terms)
        self.initial: list[tuple[Term, InitialStage]] = [(term, stage) for term, stage in stages if stage is not None]
        self.initial_modules = [module for _, stage in self.initial for module in stage.modules]
        self.has_initial_stage = bool(self.initial) and schedule.has_initial_stage
        self.enter(INITIAL if self.has_initial_stage else MAIN)

    @property
    def trains_network(self) -> bool:
        """Return whether the network itself trains in the current stage."""
        return self.stage == MAIN or any(stage.trains_student for _, stage in self.initial)

    @property
    def reads_second_view(self) -> bool:
        """Return whether the current stage reads a second view of each image."""
        return self.needs_second_view and self.stage == MAIN

    @property
    def teachers(self) -> set[str]:
        """Return the teachers whose features the current stage reads."""
        terms = [term for term, _ in self.initial] if self.stage == INITIAL else self.terms
        return {name for term in terms for name in (term.teacher, *term.others)}

    def enter(self, stage: int) -> None:
        """Start a stage with a new optimizer; the main stage freezes the modules that the initial one has trained."""
        self.stage = stage
        lr = self.schedule.lr
        trained: list[tuple[Sequence[nn.Module], float]] = []  # modules and their learning rate
        if stage == INITIAL:
            trained += [(initial.modules, initial.lr or lr) for _, initial in self.initial if initial.modules]
            if self.trains_network:
                trained.append((self.network.trunk(), lr))
        else:
            for module in self.initial_modules:
                module.requires_grad_(False)
            trained.append(([self.network, *(term.distiller for term in self.terms)], lr))
        groups = [group for modules, rate in trained for group in groups_of(modules, rate, self.schedule)]
        self.optimizer = optimizer_of(groups, self.schedule)

    def begin_epoch(self, epoch: int) -> None:
        """Set every module's mode, the learning rate and the terms' weights for an epoch, counted from 1."""
        initial = self.stage == INITIAL
        self.weights = [term.weight_in(epoch) for term in self.terms]
        self.network.train(not initial)
        for term in self.terms:
            term.distiller.train(not initial)
        for module in self.initial_modules:
            module.train(initial)
        if initial and self.trains_network:
            for module in self.network.trunk():
                module.train()
        if not initial:
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate(self.schedule, epoch)
            for term in self.terms:
                term.distiller.epoch = epoch

    def reset_meter(self) -> None:
        """Set the meter to zero; its names are those of the values that `losses` returns in the current stage."""
        names = ["loss"]
        if self.stage == MAIN:
            if self.objective is not None:
                names += ["ce", f"train_{self.objective.hit}"]
            for i, term in enumerate(self.terms):
                title = f"term{i}_{term.name}"
                names += [title, *(f"{title}_{observed}" for observed in term.distiller.observes)]
        if self.meter.names == names:
            self.meter.reset()  # in place: a captured step adds to its memory
        else:
            self.meter = Meter(names, self.device)

    def features(self, batch: Batch) -> Features | None:
        """Return the network's features, or None in an initial stage that does not train it."""
        if not self.trains_network:
            return None
        with arithmetic(self.schedule.precision, self.device):
            features = self.network.features(batch.images, self.needs_preactivations)
            if not self.reads_second_view:
                return features
            assert batch.second is not None  # the trainer has asked for it
            return replace(features, second=self.network.features(batch.second, self.needs_preactivations))

    def losses(
        self, features: Features | None, batch: Batch, teachers: Mapping[str, Features]
    ) -> tuple[Tensor, list[Tensor]]:
        """Return the total loss and the meter's other values; teachers' features are by the name in `Term.teacher`."""
        if self.stage == INITIAL:
            initial = [self._value(term, stage.loss, features, teachers, batch) for term, stage in self.initial]
            return torch.stack(initial).sum(), []
        assert features is not None  # the main stage trains the network
        logits = as_float32(features, maps=False).logits
        total = torch.zeros_like(logits[0, 0])
        values: list[Tensor] = []
        if self.objective is not None:
            assert batch.targets is not None  # the task has labels
            ce = self._label_loss(self.objective, logits, batch)
            if self.reads_second_view:
                assert features.second is not None  # `features` has filled it
                ce = ce + self._label_loss(self.objective, as_float32(features.second, maps=False).logits, batch)
            total = self.task_weight * ce
            values += [ce, self.objective.hits(logits, batch.targets)]
        for term, weight in zip(self.terms, self.weights, strict=True):
            value = self._value(term, term.distiller.loss, features, teachers, batch)
            if value is not None:
                total = total + weight * value
            values += [torch.zeros_like(total) if value is None else value, *term.distiller.observed()]
        if not total.requires_grad:
            raise ValueError("there are no labels to learn from, and no term has a loss in the main stage")
        return total, values

    def _label_loss(self, objective: Objective, logits: Tensor, batch: Batch) -> Tensor:
        """Return the loss of logits (B, K) with the labels of a batch, as the recipe states it: a scalar."""
        recipe = self.schedule
        if recipe.label_smoothing is None and recipe.loss is None and batch.soft_targets is None:
            assert batch.targets is not None  # the caller has asked
            return objective.loss(logits, batch.targets)
        return smoothed_loss(logits, batch, recipe.label_smoothing or 0.0, is_binary=recipe.loss is not None)

    def _value(
        self,
        term: Term,
        loss: Callable[[Any, Features, Batch], Any],
        student: Features | None,
        teachers: Mapping[str, Features],
        batch: Batch,
    ) -> Any:  # noqa: ANN401
        """Return one of a term's losses, computed in the precision that its method supports; see `check_loss`."""
        mixed = term.distiller.autocast
        own = None if student is None else as_float32(student, maps=not mixed)
        with arithmetic(self.schedule.precision, self.device, enabled=mixed):
            taught = [as_float32(teachers[name], maps=not mixed) for name in (term.teacher, *term.others)]
            value = loss(own, together(taught) if term.others else taught[0], batch)
        if value is not None or self.stage == INITIAL:
            check_loss(term.name, value)
        return value

    def update(self, values: Sequence[Tensor], samples: int, group: Group) -> None:
        """Take an optimizer step with the mean gradients of all processes and add a batch's means to the meter."""
        means = torch.stack([value.detach().double() for value in values])
        trained = [p for param_group in self.optimizer.param_groups for p in param_group["params"]]
        gradients = [p.grad for p in trained if p.grad is not None]
        samples = group.all_reduce_mean([*gradients, means], samples)
        if self.schedule.gradient_clip is not None:
            nn.utils.clip_grad_norm_(trained, self.schedule.gradient_clip)
        self.optimizer.step()
        if self.schedule.ema is not None:
            average_into(self.evaluated, self.network, self.schedule.ema)
        if self.stage == MAIN:
            for term in self.terms:
                term.distiller.after_step()
        self.meter.add(means, samples)

    def is_finite(self) -> bool:
        """Return whether the epoch's loss and every parameter are finite."""
        finite = torch.stack([p.detach().isfinite().all() for p in self.network.parameters()])
        return math.isfinite(self.meter.read()["loss"]) and bool(finite.all())

    def state(self) -> dict[str, Any]:
        """Return the state that `load` takes, without the meter."""
        average = {} if self.schedule.ema is None else {"average": self.evaluated.state_dict()}
        return {
            "student": self.network.state_dict(),
            "distillers": [term.distiller.state_dict() for term in self.terms],
            "optimizer": self.optimizer.state_dict(),
            **average,
        }

    def load_state(self, state: Mapping[str, Any], stage: int) -> None:
        """Load a state that was saved in a stage."""
        self.network.load_state_dict(state["student"])
        if self.schedule.ema is not None:
            self.evaluated.load_state_dict(state["average"])
        for term, saved in zip(self.terms, state["distillers"], strict=True):
            term.distiller.load_state_dict(saved)
        self.enter(stage)
        loaded = state["optimizer"]
        if "capturable" in self.optimizer.defaults:  # on a GPU alone, and the checkpoint may be from another device
            capturable = {"capturable": self.optimizer.defaults["capturable"]}
            loaded = loaded | {"param_groups": [group | capturable for group in loaded["param_groups"]]}
        self.optimizer.load_state_dict(loaded)


class MethodError(ValueError):
    """A term's loss cannot be added to the total loss and trained, or its state cannot be stored."""


def check_loss(name: str, value: object) -> None:
    """Raise a `MethodError` unless a term's loss is a real scalar that requires a gradient."""
    fault = ""
    if not isinstance(value, Tensor):
        fault = f"is a {type(value).__name__}, not a tensor"
    elif value.shape:
        fault = f"has the shape {tuple(value.shape)}, not that of a scalar: take its mean or sum"
    elif not value.is_floating_point():
        fault = f"has the type {value.dtype}, not that of a real number"
    elif not value.requires_grad:
        fault = UNREACHED
    if fault:
        raise MethodError(f"term {name}: its loss {fault}")


def smoothed_loss(logits: Tensor, batch: Batch, smoothing: float, is_binary: bool) -> Tensor:
    """Return the loss with smoothed labels y = (1 - smoothing) * label + smoothing / K, a mean over the batch.

    Labels are the batch's soft ones, where it has some. The loss is cross-entropy, -sum_k y_k log p_k, or, if
    `is_binary`, the cross-entropy of y_k with the sigmoid of each logit, a mean over the K classes, as timm's
    `SoftTargetCrossEntropy` and `BinaryCrossEntropy`.

    Args:
        logits: (B, K).
        batch: with labels of B images.
        smoothing: in [0, 1).
        is_binary: which loss.
    """
    labels = batch.soft_targets
    if labels is None:
        assert batch.targets is not None  # the caller has asked
        labels = F.one_hot(batch.targets, logits.shape[1]).to(logits.dtype)
    labels = (1 - smoothing) * labels.to(logits.dtype) + smoothing / logits.shape[1]
    if is_binary:
        return F.binary_cross_entropy_with_logits(logits, labels)
    return F.cross_entropy(logits, labels)
