"""Optimizers, learning rates and moving averages of weights, as a recipe states them."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from bench.schedule import Recipe, Schedule


def groups_of(modules: Sequence[nn.Module], lr: float, recipe: Recipe) -> list[dict[str, Any]]:
    """Return the parameter groups of modules: one, or two if norms and biases have no weight decay.

    timm's `param_groups_weight_decay` divides parameters in the same way.
    """
    named = [(name, p) for module in modules for name, p in module.named_parameters() if p.requires_grad]
    if not recipe.no_decay_on_norms:
        return [{"params": [p for _, p in named], "lr": lr}]
    free = {id(p) for module in modules for p in _named_by_timm(module)}
    free |= {id(p) for name, p in named if p.ndim <= 1 or name.endswith(".bias")}
    decayed = {"params": [p for _, p in named if id(p) not in free], "lr": lr}
    return [decayed, {"params": [p for _, p in named if id(p) in free], "lr": lr, "weight_decay": 0.0}]


def _named_by_timm(module: nn.Module) -> list[Tensor]:
    """Return the parameters that timm networks within a module exclude from weight decay, such as positions."""
    excluded: list[Tensor] = []
    for inner in module.modules():
        named: Any = getattr(inner, "no_weight_decay", None)
        names = named() if callable(named) else ()
        parameters = dict(inner.named_parameters())
        excluded += [parameters[name] for name in names if name in parameters]
    return excluded


def optimizer_of(groups: Sequence[Mapping[str, Any]], recipe: Recipe) -> Optimizer:
    """Return a new optimizer for parameter groups."""
    own, weight_decay = [dict(group) for group in groups], recipe.weight_decay
    if recipe.optimizer == "adamw":
        on_gpu = own[0]["params"][0].is_cuda  # there, the step's number is kept where a captured step can raise it
        return torch.optim.AdamW(own, weight_decay=weight_decay, capturable=on_gpu)
    if recipe.optimizer == "lamb":
        from timm.optim import Lamb  # an extra

        return Lamb(own, weight_decay=weight_decay)
    return torch.optim.SGD(own, momentum=recipe.momentum, weight_decay=weight_decay, nesterov=bool(recipe.nesterov))


def learning_rate(schedule: Schedule, epoch: int) -> float:
    """Return the learning rate of the main stage in an epoch, counted from 1.

    With steps, it is lower from epoch milestone + 1. With cosine, it is
    min_lr + (lr - min_lr) * (1 + cos(pi * (epoch - 1) / epochs)) / 2. During warm-up, it is
    warmup_lr + (lr - warmup_lr) * (epoch - 1) / warmup_epochs. timm's schedulers give the same rates, with
    `warmup_prefix=False`.
    """
    done = epoch - 1
    if schedule.warmup_epochs is not None and done < schedule.warmup_epochs:
        first = schedule.warmup_lr or 0.0
        return first + (schedule.lr - first) * done / schedule.warmup_epochs
    if schedule.schedule == "cosine":
        last = schedule.min_lr or 0.0
        return last + (schedule.lr - last) * (1 + math.cos(math.pi * done / schedule.epochs)) / 2
    passed = sum(epoch > milestone for milestone in schedule.milestones)
    return schedule.lr * schedule.lr_decay**passed


@torch.no_grad()
def average_into(average: nn.Module, network: nn.Module, decay: float) -> None:
    """Move an average of a network's weights and statistics one step: decay * average + (1 - decay) * network.

    The average begins as a copy of the initial network, as timm's `ModelEmaV2` does. Counters are copied.
    """
    for mean, value in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
        if mean.is_floating_point():
            mean.lerp_(value, 1 - decay)
        else:
            mean.copy_(value)
