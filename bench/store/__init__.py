"""The store: the folders of the runs, the only memory there is. Imports no torch."""

from bench.store.store import (
    CHECKPOINT,
    CLAIM,
    DEAD_AFTER_S,
    EPOCHS,
    OUTPUTS,
    RECORD,
    SOURCES,
    WEIGHTS,
    Claim,
    ClaimLostError,
    Failure,
    ReadStore,
    Store,
    weights_file,
    write_whole,
)

__all__ = [
    "CHECKPOINT",
    "CLAIM",
    "DEAD_AFTER_S",
    "EPOCHS",
    "OUTPUTS",
    "RECORD",
    "SOURCES",
    "WEIGHTS",
    "Claim",
    "ClaimLostError",
    "Failure",
    "ReadStore",
    "Store",
    "weights_file",
    "write_whole",
]
