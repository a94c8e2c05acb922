import pytest
import torch
from scipy import stats

from methods._draws import new_seed, numbers, splitmix64

CPU = torch.device("cpu")


def test_the_generator_gives_the_numbers_of_its_authors_code():
    # the first of seed 0 in splitmix64.c, by S. Vigna
    expected = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert [number % 2**64 for number in splitmix64(0, 0, 3, CPU).tolist()] == expected
    assert splitmix64(0, 1, 2, CPU).tolist() == splitmix64(0, 0, 3, CPU).tolist()[1:]


def test_numbers_are_uniform():
    counts = (numbers(1, (100, 500), CPU) // 2**59).flatten().bincount(minlength=16)
    assert stats.chisquare(counts).pvalue > 1e-3


def test_seeds_follow_torchs_generator():
    torch.manual_seed(1)
    first = new_seed()
    assert new_seed() != first
    torch.manual_seed(1)
    assert new_seed() == first


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_draws_the_numbers_of_the_cpu():
    drawn = [numbers(-5, (100, 7), torch.device(name)).cpu() for name in ("cpu", "cuda")]
    assert drawn[0].equal(drawn[1])
