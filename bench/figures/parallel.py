"""Calls a function with many arguments in several processes, for figures that take long."""

from collections.abc import Callable, Iterable
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_processes(work: Callable[[Item], Result], items: Iterable[Item], is_long: bool) -> list[Result]:
    """Return the result of a module's function for each item, in their order.

    Args:
        work: takes and returns what can be pickled.
        items: what it is called with.
        is_long: whether that is worth as many processes as there are cores, each of which takes two seconds to start.
    """
    given = list(items)
    if not is_long or len(given) < 2:
        return [work(item) for item in given]
    from joblib import Parallel, cpu_count, delayed

    return list(Parallel(n_jobs=min(cpu_count(), len(given)), batch_size=1)(delayed(work)(item) for item in given))
