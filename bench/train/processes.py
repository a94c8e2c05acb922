"""Several processes of one machine that train the same runs, each with its share of every batch.

The first one, number 0, launches the runs, evaluates them and writes the store. It starts the others, and they end with
it. All take the same decisions: whatever a process meets alone, an exception above all, is agreed on before it counts.
"""

import multiprocessing
import os
import shutil
import signal
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from bench.store import Failure
from bench.types import RequestError

R = TypeVar("R")
TIMEOUT = timedelta(minutes=30)  # a process that is silent for so long, as while the first evaluates, has stopped
GRACE_S = 20.0  # a process that has broken off has said why, or ended, by then
FOLLOWED = 3  # exit status of a process that ends because another one has
NOT_ITS_OWN = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)  # the first process's to answer


class LaneLostError(Exception):
    """A lane has failed in another process, and so it has here."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.reason)
        self.failure = failure


class ProcessLostError(Exception):
    """One of the processes has died or does not answer: none of them can go on."""

    def __init__(self, reason: str, details: str = "") -> None:
        super().__init__(reason)
        self.details = details


class Group:
    """The processes of some runs, as one of them sees them; here it is the only one.

    Attributes:
        rank: the process's number, from 0.
        size: how many there are.
    """

    rank, size = 0, 1

    def average(self, tensors: Sequence[Tensor], samples: int) -> int:
        """Replace means over each process's samples by those over all samples; return the number of the latter.

        Args:
            tensors: of the same shapes in every process.
            samples: that this process's means are over.
        """
        return samples

    def gather(self, rows: Tensor) -> Tensor:
        """Return the rows (B, ...) of all processes in their order; their numbers may differ. Nothing flows back."""
        return rows

    def settle(self, failure: Failure | None) -> Failure | None:
        """Return the failure of the first process that has one: it is everyone's. Each part of a lane ends with it.

        Raises:
            ProcessLostError: a process does not answer, here as in all other methods.
        """
        return failure

    def first(self, found: Callable[[], R]) -> R:
        """Return what is found by the first process, alone; the others wait for it."""
        return found()

    def copy_first(self, tensors: Sequence[Tensor]) -> None:
        """Give all processes the first one's values."""


ALONE = Group()


class Together(Group):
    """One of several processes.

    `average` and `gather` are preceded by a meeting, as `settle` is one: a process in which a lane has failed comes to
    its next meeting with the failure, so the others, wherever in the lane they are, hear of it and wait for nothing.
    """

    def __init__(self, rank: int, size: int, explain: Callable[[Exception], Exception]) -> None:
        """Join the others.

        Args:
            rank: the process's number.
            size: how many there are.
            explain: returns what to raise when an exchange with the others breaks off.
        """
        self.rank, self.size, self.explain = rank, size, explain

    def average(self, tensors: Sequence[Tensor], samples: int) -> int:  # noqa: D102
        met = self._meet(samples, sum(tensor.numel() for tensor in tensors))
        if len({values for _, values in met}) > 1:
            raise ValueError("not every process has a gradient for the same parameters, so they have no average")
        whole = sum(of_process for of_process, _ in met)
        for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
            alike = [tensor for tensor in tensors if tensor.dtype == dtype]
            joined = torch.cat([tensor.reshape(-1) for tensor in alike]).mul_(samples / whole)  # one exchange for all
            with self._exchange():
                dist.all_reduce(joined)
            means = joined.split([tensor.numel() for tensor in alike])
            for tensor, mean in zip(alike, means, strict=True):
                tensor.copy_(mean.view(tensor.shape))
        return whole

    def gather(self, rows: Tensor) -> Tensor:  # noqa: D102
        counts = [count for count, _ in self._meet(len(rows))]
        padded = rows.new_zeros(max(counts), *rows.shape[1:])  # all must send equally many
        padded[: len(rows)] = rows
        found = [torch.empty_like(padded) for _ in counts]
        with self._exchange():
            dist.all_gather(found, padded)
        return torch.cat([of_process[:count] for of_process, count in zip(found, counts, strict=True)])

    def settle(self, failure: Failure | None) -> Failure | None:  # noqa: D102
        try:
            self._meet(failure=failure)
        except LaneLostError as error:
            return error.failure
        return None

    def first(self, found: Callable[[], R]) -> R:  # noqa: D102
        box = [found() if self.rank == 0 else None]
        with self._exchange():
            dist.broadcast_object_list(box)
        return box[0]  # type: ignore[return-value]  # the first process has filled it

    def copy_first(self, tensors: Sequence[Tensor]) -> None:  # noqa: D102
        with self._exchange():
            for tensor in tensors:
                dist.broadcast(tensor, src=0)

    def _meet(self, samples: int = 0, values: int = 0, failure: Failure | None = None) -> list[tuple[int, int]]:
        """Return (samples, values) of every process; no device is waited for, and none waits.

        Raises:
            LaneLostError: some process has come with a failure.
        """
        own = torch.tensor([failure is not None, samples, values])
        found = [torch.empty_like(own) for _ in range(self.size)]
        with self._exchange():
            dist.all_gather(found, own)
        met = torch.stack(found).tolist()
        if any(failed for failed, *_ in met):
            failures: list[Failure | None] = [None] * self.size
            with self._exchange():
                dist.all_gather_object(failures, failure)
            raise LaneLostError(next(one for one in failures if one is not None))
        return [(of_process, count) for _, of_process, count in met]

    @contextmanager
    def _exchange(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # of torch.distributed, whatever has happened to the others
            raise self.explain(error) from error


@dataclass(frozen=True)
class Other:
    """A process beside the first, as that one sees it.

    Attributes:
        rank: its number.
        process: itself.
        said: what it says: (True, "", "") once it is up; or, when it ends, whether the request is at fault, why it
            ends, and the traceback.
    """

    rank: int
    process: SpawnProcess
    said: Connection

    def last_words(self) -> tuple[bool, str, str] | None:
        """Return what it said as it ended, or None."""
        with suppress(EOFError, OSError):
            if self.said.poll():
                return self.said.recv()
        return None


@contextmanager
def started(size: int, part: Callable[[Group], None], device: torch.device) -> Iterator[Group]:
    """Start what makes up `size` processes with this one, and end it; yield the group, as its first process sees it.

    Args:
        size: how many; with one, none is started.
        part: what each of the others does, such that it can be pickled; it exchanges what the body exchanges.
        device: whose kind decides how tensors are exchanged.

    Raises:
        ProcessLostError: another process has died; the message says which, and how.
        RequestError: another process has found the request wrong.
    """
    if size == 1:
        yield ALONE
        return
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    spawn = multiprocessing.get_context("spawn")  # a GPU cannot be used after a fork
    others: list[Other] = []
    with tempfile.TemporaryDirectory(prefix="processes-") as folder:
        place = Path(folder, "place")
        try:
            for rank in range(1, size):
                ours, theirs = spawn.Pipe(duplex=False)
                process = spawn.Process(target=_be_another, args=(rank, size, place, backend, part, theirs))
                process.start()
                theirs.close()  # so that this end sees when the process has closed it
                others.append(Other(rank, process, ours))
            for other in others:
                try:
                    other.said.recv()
                except EOFError as error:
                    raise _explanation(others, error) from None
            _join(0, size, place, backend)
            yield Together(0, size, lambda error: _explanation(others, error))
            for other in others:
                other.process.join()
            if any(other.process.exitcode for other in others):
                raise _explanation(others, ChildProcessError())
        except BaseException:
            everyone = dist.group.WORLD
            if everyone is not None:
                everyone.abort()  # what an exchange still waits for will never come
            raise
        finally:
            for other in others:
                other.process.kill()  # those that have ended do not mind
                other.process.join()
                other.said.close()
            if dist.is_initialized():
                dist.destroy_process_group()


def _join(rank: int, size: int, place: Path, backend: str) -> None:
    """Meet the others at a file that none but they know."""
    store = dist.FileStore(str(place), size)
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=TIMEOUT)


def _explanation(others: Sequence[Other], error: Exception) -> Exception:
    """Return why an exchange has broken off: what has become of the process that is at fault."""
    size = len(others) + 1
    deadline = time.monotonic() + GRACE_S
    left = list(others)
    while left:
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            break
        ended = wait([other.process.sentinel for other in left], remaining)
        for other in [one for one in left if one.process.sentinel in ended]:
            left.remove(other)
            other.process.join()
            which = f"process {other.rank} of {size}"
            words = other.last_words()
            if words is not None:
                requested, reason, details = words
                if requested:
                    return RequestError(reason)
                return ProcessLostError(f"{which} has ended: {reason}", details)
            status = other.process.exitcode
            if status not in (0, FOLLOWED):
                how = f"signal {-status}" if status is not None and status < 0 else f"exit status {status}"
                return ProcessLostError(f"{which} has died ({how})")
    reason = " ".join(str(error).split())[:200]
    return ProcessLostError(f"the run's {size} processes do not reach each other: {reason}")


def _be_another(
    rank: int, size: int, place: Path, backend: str, part: Callable[[Group], None], say: Connection
) -> None:
    """Do a part beside the first process, as long as that one lives."""
    for number in NOT_ITS_OWN:
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, args=(place,), daemon=True).start()
    say.send((True, "", ""))
    try:
        _join(rank, size, place, backend)
        part(Together(rank, size, lambda error: ProcessLostError(str(error))))
        dist.destroy_process_group()
    except ProcessLostError:
        first = multiprocessing.parent_process()
        if first is None or not first.is_alive():
            shutil.rmtree(place.parent, ignore_errors=True)  # the thread below may come too late
        os._exit(FOLLOWED)  # without the interpreter's farewell, which may wait for a device that waits for the others
    except RequestError as error:
        say.send((True, str(error), ""))
        os._exit(1)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        say.send((False, reason, "".join(traceback.format_exception(error))))
        os._exit(1)


def _end_with_parent(place: Path) -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None  # only a process that was started calls this
    parent.join()
    shutil.rmtree(place.parent, ignore_errors=True)  # which a parent that was killed has left
    os._exit(1)
