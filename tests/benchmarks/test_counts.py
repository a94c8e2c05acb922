"""The costs that `list methods` shows are those of the code."""

from benchmarks.counts import costs
from methods.catalog import costs as stated
from methods.catalog import own_files
from tests.few import short_or_whole


def test_every_method_has_a_cost():
    assert list(stated()) == [path.stem for path in own_files()], (
        "methods/costs.csv is out of date: run `make reference`"
    )


def test_the_stated_costs_are_those_of_the_code():
    names = short_or_whole(["itrd", "simkd"], list(stated()))
    assert dict(costs(names)) == {name: stated()[name] for name in names}
