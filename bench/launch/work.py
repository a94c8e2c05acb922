"""What one process is to do, in a form that can be handed to another process. Imports no torch."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.plan import Plan
from bench.spec import RunSpec
from bench.store import Store


@dataclass(frozen=True)
class Work:
    """Runs to train, and settings that change no result beyond rounding.

    Attributes:
        plan: the suite's.
        runs: ids of the runs, needs included.
        results: the store's folder.
        data: the folder of downloaded data sets.
        write_tables: writes the suite's tables whenever the store has something new for them; it is pickled by name.
        device: "cpu", "cuda", "cuda:N" or "auto", which is resolved where the work is done.
        plugins: method files kept elsewhere.
        keep_checkpoints: whether checkpoints stay when a record is written.
        live: whether a terminal shows a live table instead of lines.
        poll_s: seconds between two looks at runs that another process trains.
    """

    plan: Plan
    runs: tuple[str, ...]
    results: Path
    data: Path
    write_tables: Callable[[Plan, Store], object]
    device: str = "auto"
    plugins: tuple[Path, ...] = ()
    keep_checkpoints: bool = False
    live: bool = True
    poll_s: float = 2.0

    @property
    def wanted(self) -> list[RunSpec]:
        """Return the specifications of the runs."""
        return [self.plan.runs[run_id] for run_id in self.runs]
