"""Repeats an evaluation that does not fit into memory with smaller batches, on a GPU or a CPU."""

import logging
from collections.abc import Callable
from typing import TypeVar

import torch

R = TypeVar("R")
OUT_OF_MEMORY = (  # in messages of RuntimeErrors, which torch raises on a CPU
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
    "std::bad_alloc",
    "could not create a memory object",
    "CUDA out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
)

logger = logging.getLogger(__name__)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an exception says that memory does not suffice."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in OUT_OF_MEMORY)


def in_batches_that_fit(compute: Callable[[int], R], batch_size: int) -> R:
    """Return what `compute` returns for that batch size or, while memory does not suffice, for half of it.

    Raises:
        Exception: as `compute`, also if memory does not suffice for batches of one sample.
    """
    while True:
        try:
            return compute(batch_size)
        except Exception as error:
            if batch_size == 1 or not is_out_of_memory(error):
                raise
        # here, no traceback holds the tensors of the attempt any more
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        batch_size //= 2
        logger.warning("out of memory in an evaluation: trying again with batches of %d", batch_size)
