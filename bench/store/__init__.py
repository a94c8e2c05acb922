"""The store: the runs' folders, the only memory there is. Imports no torch."""

from bench.store.claims import DEAD_AFTER_S, Claim, ClaimLostError
from bench.store.files import csv_text, write_whole
from bench.store.store import (
    CHECKPOINT,
    CLAIM,
    EPOCHS,
    OUTPUTS,
    RECORD,
    SOURCES,
    WEIGHTS,
    DiscardingStore,
    Failure,
    Store,
    weights_file,
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
    "DiscardingStore",
    "Failure",
    "Store",
    "csv_text",
    "weights_file",
    "write_whole",
]
