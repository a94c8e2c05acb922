import pytest

from bench.types import Batch, Features
from tests.methods import samples


@pytest.fixture
def student() -> Features:
    return samples.features(samples.STUDENT, seed=1, trains=True)


@pytest.fixture
def teacher() -> Features:
    return samples.features(samples.TEACHER, seed=2)


@pytest.fixture
def batch() -> Batch:
    return samples.batch([3, 14, 15, 9, 26, 5])
