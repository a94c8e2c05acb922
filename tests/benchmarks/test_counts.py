"""The costs that `list methods` shows are those of the code."""

import pytest

from benchmarks.counts import costs
from methods.catalog import costs as stated
from methods.catalog import own_files


def test_every_method_has_a_cost():
    assert list(stated()) == [path.stem for path in own_files()], (
        "methods/costs.csv is out of date: run `make reference`"
    )


@pytest.mark.slow
def test_the_stated_costs_are_those_of_the_code():
    assert dict(costs(stated())) == stated()
