"""Builds networks from specifications: initial weights, shapes of features, heads."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch

from bench.models import build, library, shapes
from bench.models.base import Network
from bench.models.heads import Frozen
from bench.models.own import file_of
from bench.models.quick import without_content
from bench.models.reusing import Reusing
from bench.models.torchvision_stages import TORCHVISION
from bench.spec import DataSpec, NetworkSpec, RunSpec, canonical, seed_from
from bench.tasks import EVALUATIONS
from bench.types import RequestError, Shapes
from methods._errors import described, ends_process, place
from methods._settings import kept_settings, seed_generators


def build_network(spec: NetworkSpec, data: DataSpec, seed: int = 0) -> Network:
    """Return a network for a data set, with initial weights that depend only on (seed, network)."""
    seed_generators(seed_from("init", seed, canonical(spec.alone)))
    return _build(spec, data.classes, data.channels, data.size)


def given_network(run: RunSpec) -> Network:
    """Return the network of a run, to which its finished or given weights are copied."""
    network = build_network(run.student, run.data)
    if run.checkpoint is not None and library(run.student.network) == TORCHVISION:
        from bench.models.torchvision_network import set_input

        set_input(network, run.student.network.removeprefix(TORCHVISION), run.checkpoint)
    return network


def placed(network: Network, device: torch.device) -> Network:
    """Return a network on a device, in the memory layout of the images."""
    return network.to(device).to(memory_format=torch.channels_last)


def network_shapes(spec: NetworkSpec, data: DataSpec) -> Shapes:
    """Return the shapes of a network's features on a data set, computed without weights.

    Raises:
        RequestError: the network cannot take images of that size.
    """
    return _shapes(spec, data.classes, data.channels, data.size)


def teacher_shapes(teacher: RunSpec, data: DataSpec) -> Shapes:
    """Return the shapes of the features of a run's network on a student's data, in the teacher's view."""
    return network_shapes(teacher.student, teacher.data.model_copy(update={"size": data.size}))


def backbone_data(run: RunSpec) -> DataSpec:
    """Return the data of an evaluation with the number of classes on which its network was trained."""
    assert run.head is not None  # only evaluations have a backbone
    return run.data.model_copy(update={"classes": run.head.classes})


def with_head(run: RunSpec, network: Network | Frozen) -> Network:
    """Return a network with the new head of an evaluation, whose initial weights depend only on (seed, head)."""
    assert run.head is not None  # an evaluation has one
    backbone = network_shapes(run.student, backbone_data(run))
    seed_generators(seed_from("head", run.seed, run.task, canonical(run.head)))
    return EVALUATIONS[run.task].headed(network, backbone, run.data.classes, run.head)


@cache
def _shapes(spec: NetworkSpec, classes: int, channels: int, size: tuple[int, int]) -> Shapes:
    # some networks are initialised on the CPU even so, and must not move the generator on
    with (
        refused(spec.network, f"cannot take images of {size[0]}x{size[1]} pixels"),
        torch.random.fork_rng(devices=[]),
        without_content(),
    ):
        return shapes(_build(spec, classes, channels, size), spec.network, channels, *size)


@contextmanager
def refused(network: str, what: str) -> Iterator[None]:
    """Turn an exception into a `RequestError` that names the network and `what` it cannot do.

    A user's network may also exit, and what it changes of the process's settings is set back and counts as an error.
    """
    file = file_of(network)
    try:
        with kept_settings(file is not None):
            yield
    except RequestError:
        raise
    except BaseException as error:
        if ends_process(error) or not (file or isinstance(error, Exception)):
            raise
        why = f"{described(error)} ({place(error, file[:1]) or file[0]})" if file else error
        raise RequestError(f"{network} {what}: {why}") from error


def _build(spec: NetworkSpec, classes: int, channels: int, size: tuple[int, int]) -> Network:
    modules = spec.model_dump(exclude={"network", "reuses", "factor"})
    network = build(spec.network, num_classes=classes, in_channels=channels, image_size=size, **modules)
    if spec.reuses is None or spec.factor is None:
        return network
    # the projector is drawn after the network, which so has the same weights as without it
    own, teacher = (_shapes(one, classes, channels, size) for one in (spec.alone, spec.reuses))
    return Reusing(network, own, teacher, spec.factor)
