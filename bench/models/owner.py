"""Guesses which known network a checkpoint was saved from, for the message when its weights do not fit."""

import re
from collections.abc import Iterator, Mapping, Sequence, Set
from functools import cache
from itertools import groupby

from torch import Tensor

from bench.models import NETWORKS, build
from bench.models.quick import without_content
from bench.models.torchvision_stages import TORCHVISION

NEAR = 0.5  # share of names with shapes above which two networks are called near
RELATED = 0.05  # share of names above which all networks of a family are looked at

State = Mapping[str, Tensor]
Weights = frozenset[tuple[str, tuple[int, ...]]]  # names with shapes


def owner_of(states: Sequence[State]) -> str | None:
    """Return a sentence on the known network that weights belong to, or are nearest to; None if none is near.

    Known are the networks of this project and torchvision's classifiers, built for the checkpoint's number of classes.
    Nearness is the number of names with shapes that both have, divided by the number that either has (Jaccard's
    index).

    Args:
        states: the same weights, with and without prefixes of wrappers.
    """
    given = [_weights(state) for state in states]
    classes = ([len(tensor) for tensor in states[0].values() if tensor.ndim == 2] or [1000])[-1]
    nearest, name = 0.0, ""
    for family in _families():
        first = {key for key, _ in _weights_of(family[0], classes)}
        if all(_share({key for key, _ in theirs}, first) < RELATED for theirs in given):
            continue
        for known in family:
            near = max(_share(theirs, _weights_of(known, classes)) for theirs in given)
            if near == 1:
                return f"its names and shapes are those of {known}"
            nearest, name = max((nearest, name), (near, known))
    return f"the nearest known network is {name}: {nearest:.0%} of names and shapes agree" if nearest > NEAR else None


def _share(one: Set[object], other: Set[object]) -> float:
    return len(one & other) / max(1, len(one | other))


def _families() -> Iterator[list[str]]:
    """Yield the names of known networks, those that begin with the same letters together."""
    import torchvision  # takes a second

    theirs = sorted(torchvision.models.list_models(torchvision.models))
    without_values = [name for name in theirs if not name.startswith("regnet")]  # they need values to be built
    for prefix, names in (("", sorted(NETWORKS)), (TORCHVISION, without_values)):
        for _, family in groupby(names, key=lambda name: re.split(r"[\d_]", name)[0]):
            yield [f"{prefix}{name}" for name in family]


@cache
def _weights_of(name: str, classes: int) -> Weights:
    """Return the names and shapes of a known network, which is built without values."""
    import torchvision

    with without_content():
        if not name.startswith(TORCHVISION):
            return _weights(build(name, num_classes=classes).state_dict())
        theirs = name.removeprefix(TORCHVISION)
        extra = {"init_weights": False} if theirs in ("googlenet", "inception_v3") else {}
        network = torchvision.models.get_model(theirs, num_classes=classes, **extra)
    return _weights(network.state_dict())


def _weights(state: State) -> Weights:
    """Return names with shapes, without the counters of batch norm, which old files lack."""
    return frozenset((name, tuple(tensor.shape)) for name, tensor in state.items() if tensor.ndim)
