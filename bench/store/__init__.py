"""The store: the runs' folders, the only memory there is. Imports no torch."""

from bench.store.claims import ClaimLostError
from bench.store.documents import Failure, number_in
from bench.store.files import AGAIN, csv_text, write_whole
from bench.store.store import (
    ANSWERS,
    CHECKPOINT,
    EPOCHS,
    OUTPUTS,
    SOURCES,
    WEIGHTS,
    DiscardingStore,
    Store,
    weights_file,
)

__all__ = [
    "AGAIN",
    "ANSWERS",
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
    "number_in",
    "weights_file",
    "write_whole",
]
