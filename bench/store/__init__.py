"""The store: the runs' folders, the only memory there is. Imports no torch."""

from bench.store.claims import ClaimLostError
from bench.store.files import csv_text, write_whole
from bench.store.store import (
    CHECKPOINT,
    EPOCHS,
    OUTPUTS,
    SOURCES,
    WEIGHTS,
    DiscardingStore,
    Failure,
    Store,
    weights_file,
)

__all__ = [
    "CHECKPOINT",
    "EPOCHS",
    "OUTPUTS",
    "SOURCES",
    "WEIGHTS",
    "ClaimLostError",
    "DiscardingStore",
    "Failure",
    "Store",
    "csv_text",
    "weights_file",
    "write_whole",
]
