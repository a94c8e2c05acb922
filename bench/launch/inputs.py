"""Loads the data, teachers and finished networks that a process needs for its cohorts, each of them once."""

import torch
from safetensors import SafetensorError
from safetensors.torch import load

from bench.data.images import Splits, load_all
from bench.launch.preparation import choose_device
from bench.launch.work import Work
from bench.models import NETWORKS
from bench.models.base import Network
from bench.models.own import add_networks
from bench.models.weights import copy_weights
from bench.spec import STUDENT, DataSpec, RunSpec
from bench.store import AGAIN, Store, weights_file
from bench.train.learner import Teacher
from bench.train.networks import backbone_data, build_network, given_network, placed, teacher_shapes
from bench.types import RequestError
from methods import catalog


def stored_network(run: RunSpec, store: Store, name: str = STUDENT) -> Network:
    """Return one of the networks that a finished run has left, on the CPU.

    Raises:
        RequestError: its weights cannot be read, or are not those that the run's record names.
    """
    network = given_network(run if name == STUDENT else run.but(student=run.peer_network))
    content = store.weights(run.id, name)
    try:
        copy_weights(network, load(content))
    except (SafetensorError, RuntimeError) as error:
        path = store.folder(run.id) / weights_file(name)
        raise RequestError(f"{path}: the network's weights cannot be read ({error}). {AGAIN}") from error
    return network


class Inputs:
    """Loads data sets, each once, and networks, to the device of a work."""

    def __init__(self, work: Work, store: Store) -> None:
        self.work, self.plan, self.store = work, work.plan, store
        self.methods = catalog(work.plugins)
        add_networks(work.plugins, NETWORKS)
        self.device = choose_device(work.device)
        if self.device.index is not None:
            torch.cuda.set_device(self.device)
        self._splits: dict[str, Splits] = {}

    def data(self, spec: DataSpec) -> Splits:
        """Return the splits of a data set that runs read."""
        if spec.key not in self._splits:
            self._splits[spec.key] = load_all(spec, self.work.data, self.device, self.plan.suite.workers)
        return self._splits[spec.key]

    def network(self, run: RunSpec) -> Network:
        """Return the network that a run has trained or taken from a checkpoint.

        Raises:
            RequestError: its weights cannot be read.
        """
        return placed(stored_network(run, self.store), self.device)

    def teacher(self, run: RunSpec, data: DataSpec) -> Teacher:
        """Return the network of a run as a teacher of students that train on the given data."""
        return Teacher(self.network(run).eval().requires_grad_(False), teacher_shapes(run, data))

    def evaluated(self, run: RunSpec) -> Network:
        """Return the network to which an evaluation adds a head: a trained one, or one initialised with the seed."""
        trained = self.plan.trained(run)
        if trained.id != run.id:
            return self.network(trained)
        return placed(build_network(run.student, backbone_data(run), run.seed), self.device)
