"""Resident memory of a step, as the system counts it."""

import os
import threading
from collections.abc import Callable
from pathlib import Path


def resident_peak(step: Callable[[], object]) -> int:
    """Return by how many bytes resident memory rises during a step; torch does not count holes in the heap."""
    before = peak = _resident()
    ended = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not ended.wait(5e-4):
            peak = max(peak, _resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        step()
        return max(peak, _resident()) - before
    finally:
        ended.set()
        watcher.join()


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
