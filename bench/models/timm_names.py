"""The names of timm's networks, and what a plan needs to know of one. Imports torch only when asked."""

from functools import cache
from importlib.util import find_spec

from bench.types import RequestError

TIMM = "timm."  # begins the names of its networks
INSTALL = "pip install 'distillation-bench[timm]'"


def check_installed(name: str) -> None:
    """Raise a `RequestError` if the package timm is missing, which the network `name` is from."""
    if find_spec("timm") is None:
        raise RequestError(f"network {name!r} needs the package timm, which is not installed: {INSTALL}")


@cache
def stages_of(name: str) -> tuple[int, ...]:
    """Return the indices of a network's stages where a suite names none; see `timm_network.stage_indices`.

    Args:
        name: `timm.NAME`.

    Raises:
        RequestError: timm is missing, or has no such network.
    """
    check_installed(name)
    from bench.models.quick import without_content
    from bench.models.timm_network import timm_network

    with without_content():
        return tuple(timm_network(name.removeprefix(TIMM), num_classes=2).indices)


def tag_of(name: str, weights: str | None = None) -> str:
    """Return the tag of weights that timm publishes for a network: `weights`, or its default if None.

    Raises:
        RequestError: timm is missing, or publishes no such weights.
    """
    check_installed(name)
    from bench.models.timm_network import known_tag

    return known_tag(name.removeprefix(TIMM), weights)


def check_classes(name: str, tag: str, classes: int) -> None:
    """Raise a `RequestError` if published weights are for another number of classes than the data has, if it has any.

    Args:
        name: `timm.NAME`.
        tag: of the weights.
        classes: of the data; 0 for none.
    """
    import timm

    published = timm.get_pretrained_cfg(f"{name.removeprefix(TIMM).partition('.')[0]}.{tag}")
    theirs = published.num_classes if published else 0
    if classes and theirs and classes != theirs:
        raise RequestError(
            f"weights: {tag} has {theirs} classes, the data {classes}: give a checkpoint trained on this data, "
            "or leave 'weights' and 'pretrained' out to train the network here"
        )
