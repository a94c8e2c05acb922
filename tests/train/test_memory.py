"""What does not fit into memory is tried again in smaller batches; training's batch size is where it begins."""

import pytest
import torch

from bench.data.images import ResidentImages, Split
from bench.spec import DataSpec, NetworkSpec
from bench.train.evaluation import evaluate
from bench.train.memory import in_batches_that_fit
from bench.train.networks import build_network

CPU = torch.device("cpu")
DATA = DataSpec(name="digits", classes=10, channels=1, size=(32, 32), mean=(0.3,), std=(0.4,), augment="none")
FAULTS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
    RuntimeError("std::bad_alloc"),
]


class Narrow(torch.nn.Module):
    """Answers 0 for batches that are small enough, and records how large they were."""

    def __init__(self, most: int, fault: Exception) -> None:
        super().__init__()
        self.most, self.fault, self.sizes = most, fault, []

    def forward(self, images):
        self.sizes.append(len(images))
        if len(images) > self.most:
            raise self.fault
        return torch.zeros(len(images), 10)


@pytest.fixture
def split():
    return Split(ResidentImages(torch.zeros(40, 1, 32, 32, dtype=torch.uint8), CPU), torch.arange(40) % 10)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{type(fault).__name__}-{str(fault)[:10]}")
def test_an_evaluation_that_does_not_fit_is_repeated_with_half_the_batch(split, fault):
    network = Narrow(5, fault)
    found = evaluate({"own": network}, split, DATA, CPU, batch_size=16)
    assert found["own"]["top1"] == 10.0
    assert network.sizes == [16, 8, *[4] * 10]


def test_an_evaluation_takes_no_larger_batches_than_training_did(split):
    network = Narrow(4, MemoryError())
    evaluate({"own": network}, split, DATA, CPU, batch_size=4)
    assert set(network.sizes) == {4}


def test_what_does_not_fit_even_alone_is_the_error(split):
    with pytest.raises(MemoryError):
        evaluate({"own": Narrow(0, MemoryError())}, split, DATA, CPU)


def test_another_error_is_not_tried_again():
    tried = []

    def compute(batch_size):
        tried.append(batch_size)
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1"):
        in_batches_that_fit(compute, 8)
    assert tried == [8]


def test_the_metrics_do_not_depend_on_the_batches():
    images = torch.randint(0, 256, (60, 1, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    split = Split(ResidentImages(images, CPU), torch.arange(60) % 10)
    network = build_network(NetworkSpec(network="resnet8"), DATA, 0)
    first, *others = (evaluate({"own": network}, split, DATA, CPU, batch_size=size) for size in (64, 16, 3, 1))
    assert all(other == first for other in others)
