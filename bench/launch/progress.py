"""Shows the progress of a cohort: a live table on a terminal, otherwise one log line per epoch."""

import logging
import time
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from bench.tasks import task_of
from bench.text import printable
from bench.train.lane import Clock, Lane
from bench.train.loop import Observer

logger = logging.getLogger(__name__)

REFRESH_S = 0.25  # shortest time between two updates of the live table


class Progress(Observer):
    """An observer that shows epoch, rate, time left, and each lane's loss and primary metric."""

    def __init__(self, titles: Mapping[str, tuple[str, str]], console: Console) -> None:
        """Show (pair, row) by run id, such as ("resnet20->resnet8", "KD"); a terminal shows a table while in `live`."""
        self.titles = titles
        self.live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None
        self.redrawn = 0.0

    def cohort(self, lanes: Sequence[Lane]) -> None:
        """Start a cohort's table."""
        self.lanes = lanes
        self.clock: Clock | None = None
        self.rate = 0.0  # steps per second, of all lanes together
        self.lane_epoch_s = 0.0  # seconds that one lane's epoch takes
        self.progress = ""
        logger.info("%s: training %d together: %s", self._cohort(), len(lanes), ", ".join(map(self._title, lanes)))
        self._log_failures(lanes)

    def step(self, lanes: Sequence[Lane], step: int, steps: int) -> None:
        """Show the step, a few times per second."""
        if self.live and time.monotonic() - self.redrawn > REFRESH_S:
            self.progress = f"step {step}/{steps}"
            self.clock = lanes[0].clock
            self._redraw(self.live)

    def epoch(self, lanes: Sequence[Lane], clock: Clock, seconds: float, steps: int) -> None:
        """Show an epoch's end."""
        self.clock = clock
        self.rate = steps / seconds
        self.lane_epoch_s = seconds / len(lanes)
        if self.live:
            self._redraw(self.live)
            return
        cohort, metric = self._cohort(), _metric(lanes[0])
        rows = [(self._title(lane), lane.rows[-1]) for lane in lanes if lane.failure is None]
        scores = ", ".join(f"{title} {row[metric]:.1f}" for title, row in rows if metric in row)
        losses = ", ".join(f"{title} {row['loss']:.3g}" for title, row in rows)
        numbers = f"{metric} %: {scores}" if scores else f"loss: {losses}"
        pace = f"{self.rate:.1f} steps/s | {seconds:.1f} s | {self._left()}"
        logger.info("%s | %s | %s | %s", cohort, self._epoch(lanes[0]), pace, numbers)
        self._log_failures(lanes)

    def _redraw(self, live: Live) -> None:
        running = next((lane for lane in self.lanes if lane.clock == self.clock), self.lanes[0])
        pace = f"{self.rate:.1f} steps/s  {self._left()}" if self.rate else ""  # known after an epoch
        caption = f"{self._epoch(running)}  {self.progress}  {pace}"
        table = Table(title=escape(self._cohort()), caption=escape(caption))
        metric = _metric(running)
        for name in ("lane", "epoch", "loss", f"{metric} %", "best %"):
            table.add_column(name, justify="left" if name == "lane" else "right")
        for lane in self.lanes:
            if lane.failure is not None:
                table.add_row(
                    escape(self._title(lane)), lane.failure.status, escape(printable(lane.failure.reason)), "", ""
                )
                continue
            scores = [row[metric] for row in lane.rows if metric in row]
            loss = f"{lane.rows[-1]['loss']:.3f}" if lane.rows else ""
            last, best = (f"{scores[-1]:.2f}", f"{max(scores):.2f}") if scores else ("", "")
            table.add_row(escape(self._title(lane)), str(lane.clock.epoch - 1), loss, last, best)
        live.update(table, refresh=True)
        self.redrawn = time.monotonic()

    def _log_failures(self, lanes: Sequence[Lane]) -> None:
        for lane in lanes:
            if (failure := lane.failure) is not None:
                row = f"{self._cohort()} | {self._title(lane)}"
                logger.warning("%s %s: %s (run %s)", row, failure.status, failure.reason, lane.spec.id)

    def _cohort(self) -> str:
        pairs = dict.fromkeys(self.titles[lane.spec.id][0] for lane in self.lanes)
        return f"{' and '.join(pairs)} seed {self.lanes[0].spec.seed}"

    def _title(self, lane: Lane) -> str:
        return self.titles[lane.spec.id][1]

    def _epoch(self, lane: Lane) -> str:
        if self.clock is None:
            return ""
        if self.clock.stage:  # the main one
            return f"epoch {self.clock.epoch}/{lane.schedule.epochs}"
        return f"initial epoch {self.clock.epoch}/{lane.schedule.initial_epochs}"

    def _left(self) -> str:
        epochs = sum(lane.epochs_left for lane in self.lanes if lane.failure is None and not lane.done)
        seconds = epochs * self.lane_epoch_s
        return f"left {seconds / 60:.0f} min" if seconds > 120 else f"left {seconds:.0f} s"


def _metric(lane: Lane) -> str:
    """Return the name of a lane's primary metric; "" if it has none."""
    return next(iter(task_of(lane.spec).columns()), "")
