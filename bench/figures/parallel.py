"""Calls a function with many arguments in several processes, for figures that take long."""

import gc
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
_task: tuple[Callable[[Any], Any], Sequence[Any]]  # of a forked process: the function, and what it is called with


@contextmanager
def in_processes(work: Callable[[Item], Result], items: Iterable[Item], is_long: bool) -> Iterator[Iterator[Result]]:
    """Yield the results of a module's function for each item, in their order.

    Other processes begin at once, so that the caller can do something else before it asks for results. Forked ones end
    with the block; those of joblib wait some minutes for more work.

    Args:
        work: takes and returns what can be pickled.
        items: what it is called with.
        is_long: whether that is worth as many processes as there are cores.
    """
    given = list(items)
    if not is_long or len(given) < 2:
        yield map(work, given)
        return
    from joblib import Parallel, cpu_count, delayed

    processes = min(cpu_count(), len(given))
    if not can_fork():
        yield Parallel(n_jobs=processes, batch_size=1, return_as="generator")(delayed(work)(item) for item in given)
        return
    # a process of joblib's takes two seconds to import what a forked one has
    forked = ProcessPoolExecutor(processes, multiprocessing.get_context("fork"), _begin, (work, given))
    try:
        yield forked.map(_result, range(len(given)))
    finally:
        forked.shutdown(cancel_futures=True)


def can_fork() -> bool:
    """Return whether this process has no other Python thread, for whose locks a fork would wait for ever.

    Threads of OpenMP are not counted: a forked process uses one.
    """
    return sys.platform == "linux" and threading.active_count() == 1


def _begin(work: Callable[[Any], Any], items: Sequence[Any]) -> None:
    """Prepare a forked process."""
    from threadpoolctl import threadpool_limits

    global _task
    _task = work, items
    gc.freeze()  # what the parent has read is not searched for garbage
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends this process at once; the parent says so
    threadpool_limits(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None  # only forked processes call this
    parent.join()
    os._exit(1)


def _result(number: int) -> Any:  # noqa: ANN401
    work, items = _task
    return work(items[number])
