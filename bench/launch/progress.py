"""Progress of a cohort: a live table on a terminal, a line an epoch elsewhere."""

import logging
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from bench.tasks import task_of

if TYPE_CHECKING:
    from bench.train.lane import Clock, Lane

logger = logging.getLogger(__name__)

REFRESH_S = 0.25  # how often a step redraws the live table


class Progress:
    """An observer that shows epoch, rate, time left, and loss and top-1 by lane."""

    def __init__(self, titles: Mapping[str, tuple[str, str]], console: Console) -> None:
        """Show on a console.

        Args:
            titles: (what trains together, lane) by run id, such as ("resnet20->resnet8", "KD").
            console: bars and tables only where it is a terminal.
        """
        self.titles = titles
        self.live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None
        self.lanes: Sequence[Lane] = ()
        self.clock: Clock | None = None
        self.rate = 0.0  # steps a second, of all lanes together
        self.lane_epoch_s = 0.0  # seconds that one lane's epoch takes
        self.redrawn = 0.0
        self.progress = ""

    def __enter__(self) -> "Progress":
        if self.live:
            self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.live:
            self.live.stop()

    def cohort(self, lanes: "Sequence[Lane]") -> None:
        """Start a cohort's table."""
        self.lanes = lanes
        self.clock = None
        self.rate = 0.0
        self.lane_epoch_s = 0.0
        self.progress = ""
        logger.info("%s: training %d together: %s", self._what(), len(lanes), ", ".join(map(self._title, lanes)))

    def step(self, lanes: "Sequence[Lane]", step: int, steps: int) -> None:
        """Show the step, a few times a second."""
        if self.live and time.monotonic() - self.redrawn > REFRESH_S:
            self.progress = f"step {step}/{steps}"
            self.clock = lanes[0].clock
            self._redraw()

    def epoch(self, lanes: "Sequence[Lane]", clock: "Clock", seconds: float, steps: int) -> None:
        """Show an epoch's end."""
        self.clock = clock
        self.rate = steps / seconds
        self.lane_epoch_s = seconds / len(lanes)
        if self.live:
            self._redraw()
            return
        sound = [lane for lane in lanes if lane.failure is None]
        name = _metric(lanes[0])
        scores = ", ".join(f"{self._title(lane)} {lane.rows[-1][name]:.1f}" for lane in sound if name in lane.rows[-1])
        losses = ", ".join(f"{self._title(lane)} {lane.rows[-1]['loss']:.3g}" for lane in sound)
        logger.info(
            "%s | %s | %.1f steps/s | %.1f s | %s | %s",
            self._what(),
            self._epoch(lanes[0]),
            self.rate,
            seconds,
            self._left(),
            f"{name} %: {scores}" if scores else f"loss: {losses}",
        )
        for lane in lanes:
            if lane.failure is not None:
                logger.warning(
                    "%s | %s %s: %s", self._what(), self._title(lane), lane.failure.status, lane.failure.reason
                )

    def _redraw(self) -> None:
        assert self.live is not None  # callers have looked
        running = next((lane for lane in self.lanes if lane.clock == self.clock), self.lanes[0])
        pace = f"{self.rate:.1f} steps/s  {self._left()}" if self.rate else ""  # known after an epoch
        caption = f"{self._epoch(running)}  {self.progress}  {pace}"
        table = Table(title=escape(self._what()), caption=escape(caption))
        metric = _metric(running)
        for name in ("lane", "epoch", "loss", f"{metric} %", "best %"):
            table.add_column(name, justify="left" if name == "lane" else "right")
        for lane in self.lanes:
            if lane.failure is not None:
                table.add_row(escape(self._title(lane)), lane.failure.status, escape(lane.failure.reason), "", "")
                continue
            scores = [row[metric] for row in lane.rows if metric in row]
            loss = f"{lane.rows[-1]['loss']:.3f}" if lane.rows else ""
            last = f"{scores[-1]:.2f}" if scores else ""
            best = f"{max(scores):.2f}" if scores else ""
            table.add_row(escape(self._title(lane)), str(lane.clock.epoch - 1), loss, last, best)
        self.live.update(table, refresh=True)
        self.redrawn = time.monotonic()

    def _what(self) -> str:
        together = dict.fromkeys(self.titles[lane.spec.id][0] for lane in self.lanes)
        return f"{' and '.join(together)} seed {self.lanes[0].spec.seed}"

    def _title(self, lane: "Lane") -> str:
        return self.titles[lane.spec.id][1]

    def _epoch(self, lane: "Lane") -> str:
        if self.clock is None:
            return ""
        if self.clock.stage:  # the main one
            return f"epoch {self.clock.epoch}/{lane.schedule.epochs}"
        return f"initial epoch {self.clock.epoch}/{lane.schedule.initial_epochs}"

    def _left(self) -> str:
        epochs = sum(lane.epochs_left for lane in self.lanes if lane.failure is None and not lane.done)
        seconds = epochs * self.lane_epoch_s
        return f"left {seconds / 60:.0f} min" if seconds > 120 else f"left {seconds:.0f} s"


def _metric(lane: "Lane") -> str:
    """Return the name of the first of what a lane is evaluated by; "" where it is not."""
    return next(iter(task_of(lane.spec).columns()), "")
