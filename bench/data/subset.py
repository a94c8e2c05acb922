"""Chooses the training images of a subset, and the dev images that are held out of it."""

import torch
from torch import Tensor

from bench.spec import DataSpec, seed_from


def divided(targets: Tensor, spec: DataSpec) -> tuple[Tensor, Tensor]:
    """Return the positions of the images that a run trains on, and those of its dev images, both ascending.

    The choice depends only on the labels and the data's name, never on a run's seed. A larger subset contains the
    smaller ones. Dev images are the last ones of a subset: the run's own, or the one that `spec.held_out` states.

    Args:
        targets: (n,) int64 class indices of the whole training split, all equal if the images have no classes.
        spec: of the data, with the subset.
    """
    nothing = torch.empty(0, dtype=torch.int64)
    if spec.train_per_class is None and spec.train_fraction is None and spec.held_out is None:
        return torch.arange(len(targets)), nothing
    generator = torch.Generator().manual_seed(seed_from("subset", spec.name, spec.fingerprint))
    trained, held_out = [nothing], [nothing]
    for label in range(spec.classes):
        members = torch.nonzero(targets == label).flatten()
        members = members[torch.randperm(len(members), generator=generator)]
        own = _subset_count(len(members), spec.train_per_class, spec.train_fraction)
        end = own
        if spec.held_out is not None and spec.held_out.is_of_another_subset:
            end = _subset_count(len(members), spec.held_out.of_per_class, spec.held_out.of_fraction)
        start = max(0, end - _dev_count(end, spec))
        trained += [members[: min(own, start)], members[end:own]]  # before and behind the dev images
        held_out.append(members[start:end])
    return torch.cat(trained).sort().values, torch.cat(held_out).sort().values


def _subset_count(of_class: int, per_class: int | None, fraction: float | None) -> int:
    """Return how many images of a class are in a subset: all of them without a number and a fraction."""
    return min(of_class, per_class or max(1, round(of_class * (fraction or 1.0))))


def _dev_count(kept_of_class: int, spec: DataSpec) -> int:
    """Return how many of the kept images of a class are dev images; a fraction leaves at least one to train on."""
    if spec.held_out is None:
        return 0
    if spec.held_out.per_class is not None:
        return spec.held_out.per_class
    return min(max(1, round(kept_of_class * (spec.held_out.fraction or 0.0))), kept_of_class - 1)
