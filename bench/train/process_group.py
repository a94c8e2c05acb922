"""Process groups: the processes of one machine that train the same runs, each with its share of every batch.

Rank 0 launches the runs, evaluates them and writes the store. It starts the other processes, and they end with it. All
processes take the same decisions: an event in one process, such as an exception, is agreed on before it has any effect.
"""

import multiprocessing
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from bench.store import Failure
from bench.train.processes import Child, ProcessLostError, children, ended
from bench.types import RequestError

R = TypeVar("R")
TIMEOUT = timedelta(minutes=30)  # an exchange may take this long: rank 0 evaluates while the others wait
MAX_ENDING_S = 20.0  # a process that broke off an exchange ends within this time
FOLLOWED = 3  # exit status of a process that ends because another one has ended
IGNORED_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)  # rank 0 handles them


class LaneLostError(Exception):
    """A lane has failed in another process, so it fails here too."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.reason)
        self.failure = failure


class Group:
    """The collective operations of the processes that train the same runs, `size` of them, numbered by `rank` from 0.

    `all_reduce_mean` and `all_gather` begin with a meeting, and `agree_on_failure` is one. A process in which a lane
    fails reports the failure at its next meeting; the others, at any place in the lane's step, receive it there.
    All methods raise the error that `explain` returns when an exchange with the other processes breaks off. Only rank 0
    has one, since it knows the reason; the others raise `ProcessLostError`.
    """

    def __init__(self, rank: int = 0, size: int = 1, explain: Callable[[Exception], Exception] | None = None) -> None:
        self.rank, self.size, self.explain = rank, size, explain

    def all_reduce_mean(self, tensors: Sequence[Tensor], samples: int) -> int:
        """Replace means over this process's samples by means over all samples; return the number of all samples."""
        if self.size == 1:
            return samples
        met = self._meet(samples, sum(tensor.numel() for tensor in tensors))
        if len({values for _, values in met}) > 1:
            raise ValueError("not every process has a gradient for the same parameters, so they have no average")
        total = sum(of_process for of_process, _ in met)
        for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
            same_type = [tensor for tensor in tensors if tensor.dtype == dtype]
            joined = torch.cat([tensor.reshape(-1) for tensor in same_type]).mul_(samples / total)  # one exchange
            with self._exchange():
                dist.all_reduce(joined)
            means = joined.split([tensor.numel() for tensor in same_type])
            for tensor, mean in zip(same_type, means, strict=True):
                tensor.copy_(mean.view(tensor.shape))
        return total

    def all_gather(self, rows: Tensor) -> Tensor:
        """Return the rows (B, ...) of all processes in rank order, without gradients; B may differ between them."""
        if self.size == 1:
            return rows
        counts = [count for count, _ in self._meet(len(rows))]
        padded = rows.new_zeros(max(counts), *rows.shape[1:])  # all must send equal shapes
        padded[: len(rows)] = rows
        received = [torch.empty_like(padded) for _ in counts]
        with self._exchange():
            dist.all_gather(received, padded)
        return torch.cat([of_process[:count] for of_process, count in zip(received, counts, strict=True)])

    def agree_on_failure(self, failure: Failure | None) -> Failure | None:
        """Return the failure of the lowest rank that has one. Each part of a lane's step ends with this call."""
        if self.size == 1:
            return failure
        try:
            self._meet(failure=failure)
        except LaneLostError as error:
            return error.failure
        return None

    def run_on_rank0(self, function: Callable[[], R]) -> R:
        """Return the function's result on rank 0; the other processes wait for it."""
        box = [function() if self.rank == 0 else None]
        if self.size > 1:
            with self._exchange():
                dist.broadcast_object_list(box)
        return box[0]  # type: ignore[return-value]  # rank 0 has filled it

    def broadcast(self, tensors: Sequence[Tensor]) -> None:
        """Copy rank 0's values into the tensors of all processes."""
        if self.size > 1:
            with self._exchange():
                for tensor in tensors:
                    dist.broadcast(tensor, src=0)

    def _meet(self, samples: int = 0, values: int = 0, failure: Failure | None = None) -> list[tuple[int, int]]:
        """Return (samples, values) of every process; the exchange is between CPUs and waits for no device.

        Raises:
            LaneLostError: some process reports a failure.
        """
        own = torch.tensor([failure is not None, samples, values])
        received = [torch.empty_like(own) for _ in range(self.size)]
        with self._exchange():
            dist.all_gather(received, own)
        met = torch.stack(received).tolist()
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
        except RuntimeError as error:  # torch.distributed raises it for any fault in another process
            raise (self.explain(error) if self.explain else ProcessLostError(str(error))) from error


ALONE = Group()


@contextmanager
def process_group(size: int, member: Callable[[Group], None], device: torch.device) -> Iterator[Group]:
    """Start the other processes of a group, end them with the block, and yield rank 0's group.

    Args:
        size: number of processes; with one, none is started.
        member: called by each other process; it is pickled, and takes part in the same exchanges as the block.
        device: its type decides how tensors are exchanged.

    Raises:
        ProcessLostError: another process has died; the message says which one, and how.
        RequestError: the request is wrong in another process.
    """
    if size == 1:
        yield ALONE
        return
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    with tempfile.TemporaryDirectory(prefix="processes-") as folder:
        place = Path(folder, "place")
        targets = [partial(_take_part, rank, size, place, backend, member) for rank in range(1, size)]
        try:
            with children(targets, place.parent, IGNORED_SIGNALS) as others:
                try:
                    if not all(other.wait_until_started() for other in others):
                        raise _explanation(others, EOFError())
                    _join(0, size, place, backend)
                    yield Group(0, size, lambda error: _explanation(others, error))
                    for other in others:
                        other.process.join()
                    if any(other.process.exitcode for other in others):
                        raise _explanation(others, ChildProcessError())
                except BaseException:
                    if (everyone := dist.group.WORLD) is not None:
                        everyone.abort()  # an exchange that still waits will never be answered
                    raise
        finally:
            if dist.is_initialized():
                dist.destroy_process_group()


def _join(rank: int, size: int, place: Path, backend: str) -> None:
    store = dist.FileStore(str(place), size)
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=TIMEOUT)


def _explanation(others: Sequence[Child], error: Exception) -> Exception:
    """Return why an exchange broke off: how the process at fault has ended."""
    size = len(others) + 1
    for other in ended(others, MAX_ENDING_S):
        failure = other.failure()
        if isinstance(failure, RequestError):
            return failure
        if failure is not None and other.process.exitcode != FOLLOWED:
            rank = 1 + others.index(other)
            return ProcessLostError(f"process {rank} of {size} {failure}", failure.details)
    reason = " ".join(str(error).split())[:200]
    return ProcessLostError(f"the run's {size} processes do not reach each other: {reason}")


def _take_part(rank: int, size: int, place: Path, backend: str, member: Callable[[Group], None]) -> None:
    try:
        _join(rank, size, place, backend)
        member(Group(rank, size))
        dist.destroy_process_group()
    except ProcessLostError:
        first = multiprocessing.parent_process()
        if first is None or not first.is_alive():
            shutil.rmtree(place.parent, ignore_errors=True)  # the thread that waits for rank 0 may be too late
        os._exit(FOLLOWED)  # exit handlers may wait for a device that waits for other processes
