"""Computes what takes long in several processes."""

from collections.abc import Callable, Iterable
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_processes(work: Callable[[Item], Result], items: Iterable[Item], at_least: int) -> list[Result]:
    """Return the result of a module's function for each item, computed by as many processes as there are cores.

    Args:
        work: takes and returns what can be pickled.
        items: what it is called with.
        at_least: how many items are worth a process, which takes two seconds to start. Fewer than twice as many are
            computed here.
    """
    found = list(items)
    if len(found) < 2 * at_least:
        return [work(item) for item in found]
    from joblib import Parallel, cpu_count, delayed

    processes = min(cpu_count(), len(found) // at_least)
    return list(Parallel(n_jobs=processes)(delayed(work)(item) for item in found))
