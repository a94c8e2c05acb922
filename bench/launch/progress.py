"""Shows the progress of a suite: a bar and a live table on a terminal, otherwise one log line per epoch."""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, TaskProgressColumn, TextColumn
from rich.progress import Progress as Bar
from rich.table import Column, Table

from bench.plan.duration import Paces, epochs_of
from bench.spec import RunSpec
from bench.tasks import task_of
from bench.text import duration
from bench.train.lane import Clock, Lane
from bench.train.loop import Observer

logger = logging.getLogger(__name__)

REFRESH_S = 0.25  # shortest time between two updates of the display
ENOUGH = 0.1  # share of a first epoch after which the time of the rest is estimated


class Progress(Observer):
    """An observer that shows the cohort's epoch, rate, losses and metrics, and how much of the suite is done."""

    def __init__(self, titles: Mapping[str, tuple[str, str]], console: Console, paces: Paces) -> None:
        """Show progress, on a terminal only while `shown`.

        Args:
            titles: (pair, row) by run id, such as ("resnet20->resnet8", "KD").
            console: where to show it.
            paces: what is known of the time that runs take; what is measured is added.
        """
        self.titles, self.console, self.paces = titles, console, paces
        self.live = Live("Loading data and networks", console=console, auto_refresh=False, transient=True)
        self.lanes: Sequence[Lane] = ()
        self.waiting: dict[str, RunSpec] = {}  # open runs outside the cohort
        self.cohorts, self.begun = 0, 0  # numbers of cohorts, of all and of those that began here
        self.redrawn = 0.0
        self.bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TaskProgressColumn(),
            TextColumn("{task.fields[left]}"),
            console=console,
            expand=True,
        )
        self.task = self.bar.add_task("", total=None, left="")

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show the display on a terminal; at its end nothing of it is left."""
        if not self.console.is_terminal:
            yield
            return
        with self.live:
            try:
                yield
            finally:
                self.live.update("")  # what is higher than the terminal could not be removed

    def pending(self, runs: Sequence[RunSpec], cohorts: int) -> None:
        """Take the open runs as what is left of the suite."""
        self.lanes = ()
        self.waiting = {run.id: run for run in runs}
        self.cohorts = self.begun + cohorts
        self._redraw()

    def cohort(self, lanes: Sequence[Lane]) -> None:
        """Start a cohort's table."""
        self.lanes = lanes
        self.clock: Clock | None = None
        self.rate = 0.0  # steps per second, of all lanes together
        self.lane_epoch_s = 0.0  # seconds that one lane's epoch takes
        self.begun += 1
        for lane in lanes:
            self.waiting.pop(lane.spec.id, None)
        self._start_epoch()
        logger.info("%s: training %d together: %s", self._cohort(), len(lanes), ", ".join(map(self._title, lanes)))
        self._log_failures(lanes)
        self._redraw()

    def step(self, lanes: Sequence[Lane], step: int, steps: int) -> None:
        """Show the step, a few times per second."""
        now, ends = time.monotonic(), step == steps
        if self.live.is_started and (ends or now - self.redrawn > REFRESH_S):
            after = f", {'evaluating' if _metric(lanes[0]) else 'saving'}" if ends else ""
            self.progress = f"step {step}/{steps}{after}"
            self.share = step / steps
            self.clock = lanes[0].clock
            if self.share > ENOUGH:
                lane_epoch_s = (now - self.began) / self.share / len(lanes)
                self.paces.by_run |= {lane.spec.id: lane_epoch_s for lane in lanes}
            self._redraw()

    def epoch(self, lanes: Sequence[Lane], clock: Clock, seconds: float, steps: int) -> None:
        """Show an epoch's end."""
        self.clock = clock
        self.rate = steps / seconds
        self.lane_epoch_s = seconds / len(lanes)
        self.paces.measure([lane.spec for lane in lanes], seconds)
        self._start_epoch()
        if not self.live.is_started:
            self._log_epoch(lanes, seconds)
        self._log_failures(lanes)
        self._redraw()

    def _start_epoch(self) -> None:
        self.progress, self.share, self.began = "", 0.0, time.monotonic()

    def _log_epoch(self, lanes: Sequence[Lane], seconds: float) -> None:
        cohort, metric = self._cohort(), _metric(lanes[0])
        rows = [(self._title(lane), lane.rows[-1]) for lane in lanes if lane.failure is None]
        scores = ", ".join(f"{title} {row[metric]:.1f}" for title, row in rows if metric in row)
        losses = ", ".join(f"{title} {row['loss']:.3g}" for title, row in rows)
        numbers = f"{metric} %: {scores}" if scores else f"loss: {losses}"
        left_s = sum(lane.epochs_left for lane in self._active()) * self.lane_epoch_s
        pace = f"{self.rate:.1f} steps/s | {seconds:.1f} s | left {duration(left_s)}"
        logger.info("%s | %s | %s | %s", cohort, self._epoch(lanes[0]), pace, numbers)

    def _redraw(self) -> None:
        if self.live.is_started:
            # the bar is first: rows that do not fit into the terminal are left out
            self.live.update(Group(self._suite(), *(self._table() if self.lanes else [])), refresh=True)
            self.redrawn = time.monotonic()

    def _table(self) -> list[RenderableType]:
        """Return the state of the cohort, and a row per lane: epoch, loss and metric."""
        running = next((lane for lane in self.lanes if lane.clock == self.clock), self.lanes[0])
        pace = f"{self.rate:.1f} steps/s" if self.rate else ""  # known after an epoch
        state = ", ".join(filter(None, (self._epoch(running), pace, self.progress))) or "starting"
        metric = _metric(running)
        names = ("row", "epoch", "loss", f"{metric} %", "best %")
        table = Table(*(Column(name, justify="left" if name == "row" else "right", overflow="fold") for name in names))
        for lane in self.lanes:
            scores = [row[metric] for row in lane.rows if metric in row]
            loss = f"{lane.rows[-1]['loss']:.3f}" if lane.rows else ""
            last, best = (f"{scores[-1]:.2f}", f"{max(scores):.2f}") if scores else ("", "")
            reached = str(lane.clock.epoch - 1) if lane.failure is None else lane.failure.status
            table.add_row(escape(self._title(lane)), reached, loss, last, best)
        return [escape(f"{self._cohort()}: {state}"), table]

    def _suite(self) -> Bar:
        """Return the bar of the suite: its unit is one epoch of one run."""
        left = [(run, float(epochs_of(run))) for run in self.waiting.values() if run.trains]
        left += [
            (lane.spec, lane.epochs_left - (self.share if lane.clock == self.clock else 0.0)) for lane in self._active()
        ]
        seconds, unknown = self.paces.left(left)
        known = f"{'at least' if unknown else 'about'} {duration(seconds)} left" if seconds else ""
        epochs = sum(number for _, number in left)
        total = self.bar.tasks[0].total or epochs
        self.bar.update(
            self.task,
            description=f"cohort {self.begun if self.lanes else min(self.begun + 1, self.cohorts)} of {self.cohorts}",
            total=total,
            completed=max(0.0, total - epochs),
            left=known,
        )
        return self.bar

    def _active(self) -> list[Lane]:
        return [lane for lane in self.lanes if lane.failure is None and not lane.done]

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
        return f"initial epoch {self.clock.epoch}/{lane.initial_epochs}"


def _metric(lane: Lane) -> str:
    """Return the name of a lane's primary metric; "" if it has none."""
    return next(iter(task_of(lane.spec).columns()), "")
