"""What one process is asked to train, in a form that can be sent to another process. Imports no torch."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.plan import Plan
from bench.spec import RunSpec
from bench.store import Store


def no_tables(plan: Plan, store: Store) -> None:
    """Write no tables."""


@dataclass(frozen=True)
class Work:
    """Runs to train, and settings that change results only by rounding.

    Attributes:
        runs: ids of the runs, including those that they need.
        results: the folder of the store.
        data: the folder of downloaded data sets.
        write_tables: writes the suite's tables when the store has new results; it is pickled by name.
        device: "cpu", "cuda", "cuda:N" or "auto", which the process that does the work resolves.
        plugins: method files outside the folder `methods`.
        keep_checkpoints: whether to keep checkpoints after a record is written.
        accept_changed: whether runs continue from checkpoints that other code of their methods has left.
        live: whether a terminal shows a live table instead of lines.
        poll_s: seconds between two checks of runs that another process trains.
        track: name of the tracker that the epochs are passed to; "" for none.
        shares: ids of the runs that train together, where several processes share the work; () for whole cohorts.
    """

    plan: Plan
    runs: tuple[str, ...]
    results: Path
    data: Path
    write_tables: Callable[[Plan, Store], object] = no_tables
    device: str = "auto"
    plugins: tuple[Path, ...] = ()
    keep_checkpoints: bool = False
    accept_changed: bool = False
    live: bool = True
    poll_s: float = 2.0
    track: str = ""
    shares: tuple[tuple[str, ...], ...] = ()

    @property
    def wanted(self) -> list[RunSpec]:
        """Return the specifications of the runs."""
        return [self.plan.runs[run_id] for run_id in self.runs]
