"""One process's share of a plan, in a form that can be handed to another process."""

import logging
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console

from bench.launch.launcher import Launcher, Settings, choose_device
from bench.launch.progress import Progress
from bench.plan import Plan
from bench.report.epochs import write_events
from bench.report.tables import write_tables
from bench.store import Store
from methods import catalog


@dataclass(frozen=True)
class Work:
    """Runs to train, and all that it takes; a call trains what of them the store lacks, and writes the tables.

    Attributes:
        plan: the suite's.
        runs: ids of those runs, needs included.
        results: the store's folder.
        plugins: method files kept elsewhere.
        device: as `choose_device` takes it; it is chosen where the work is done.
        data: where torchvision's data sets lie.
        keep_checkpoints: whether checkpoints stay when a record stands.
        live: whether a terminal shows a live table rather than lines.
    """

    plan: Plan
    runs: tuple[str, ...]
    results: Path
    plugins: tuple[Path, ...]
    device: str
    data: Path
    keep_checkpoints: bool = False
    live: bool = True

    def __call__(self, retried: Collection[str] = ()) -> None:
        """Train; `retried` are ids of runs whose failure is forgotten."""
        logging.basicConfig(level=logging.INFO, format="%(message)s")
        store, device = Store(self.results), choose_device(self.device)
        if device.index is not None:
            torch.cuda.set_device(device)
        suite = self.plan.suite
        minutes = suite.slurm.checkpoint_minutes
        settings = Settings(device, self.data, suite.threads, suite.workers, self.keep_checkpoints, minutes)
        launcher = Launcher(self.plan, store, catalog(self.plugins), settings)
        wanted = [self.plan.runs[run_id] for run_id in self.runs]
        with Progress(self.plan.titles, Console(stderr=True, force_terminal=None if self.live else False)) as progress:
            launcher.run(wanted, progress, lambda: self._write_tables(store), retried)

    def _write_tables(self, store: Store) -> None:
        with store.locked("tables"):  # or another process's, made before the latest records, may be written last
            write_tables(self.plan, store)
            write_events(self.plan, store)
