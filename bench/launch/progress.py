"""Shows the progress of a suite: a bar and a live table on a terminal, otherwise one log line per epoch.

`Progress` observes the cohorts of a process and describes them as a `View`, which can be passed to another process;
`Display` shows the views of all processes that train a suite.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, TaskProgressColumn, TextColumn
from rich.progress import Progress as Bar
from rich.table import Column, Table

from bench.plan.duration import Paces, epochs_of
from bench.spec import RunSpec, common_seed
from bench.tasks import task_of
from bench.text import duration
from bench.train.lane import Clock, Lane
from bench.train.loop import Observer

logger = logging.getLogger(__name__)

REFRESH_S = 0.25  # shortest time between two updates of the display
ENOUGH = 0.1  # share of a first epoch after which the time of the rest is estimated


@dataclass(frozen=True)
class View:
    """What the display shows of one process.

    Attributes:
        begun: number of cohorts that the process has begun.
        pending: ids of the open runs, before the process begins a cohort; None at other times.
        cohorts: the number of their cohorts, those that other processes train included.
        heading: the cohort and where it is; "" while none trains.
        metric: the primary one, in percent; "" if there is none.
        rows: of the cohort's table, one per lane: row, epoch, loss, metric and best metric.
        left: epochs that remain, by the ids of the lanes' runs.
        timed: ids of runs that train an epoch together.
        epoch_s: seconds that it takes.
        measured: whether the epoch has ended; else its time is an estimate.
    """

    begun: int = 0
    pending: tuple[str, ...] | None = None
    cohorts: int = 0
    heading: str = ""
    metric: str = ""
    rows: tuple[tuple[str, ...], ...] = ()
    left: Mapping[str, float] = field(default_factory=dict)
    timed: tuple[str, ...] = ()
    epoch_s: float = 0.0
    measured: bool = False


class Display:
    """A bar of the suite and a table of each cohort that trains, on a terminal only, while `shown`."""

    def __init__(self, runs: Mapping[str, RunSpec], console: Console, paces: Paces) -> None:
        """Prepare a display.

        Args:
            runs: those of the plan, by id.
            console: where to show it.
            paces: what is known of the time that runs take; what is measured is added.
        """
        self.runs, self.console, self.paces = runs, console, paces
        self.live = Live("Loading data and networks", console=console, auto_refresh=False, transient=True)
        self.views: dict[int, View] = {}  # by the number of the process
        self.open: Sequence[str] = ()  # ids of the runs that were open when a process last looked
        self.cohorts = 0  # of these and of those that have begun
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

    def update(self, view: View) -> None:
        """Show the view of the only process."""
        self.take(view)
        self.redraw()

    def take(self, view: View, process: int = 0) -> None:
        """Take the view of a process; `redraw` shows it."""
        self.views[process] = view
        if view.pending is not None:
            self.open = view.pending
            self.cohorts = self._begun() + view.cohorts - self._training()
        if view.measured:
            self.paces.measure([self.runs[run_id] for run_id in view.timed], view.epoch_s)
        else:
            self.paces.by_run |= dict.fromkeys(view.timed, view.epoch_s / max(1, len(view.timed)))

    def drop(self, process: int) -> None:
        """Forget the cohort of a process that has ended."""
        if process in self.views:
            self.views[process] = View(begun=self.views[process].begun)

    def redraw(self) -> None:
        """Show what was taken."""
        if self.live.is_started and self.views:
            # the bar is first: rows that do not fit into the terminal are left out
            tables = [part for view in self.views.values() if view.heading for part in _table(view)]
            self.live.update(Group(self._suite(), *tables), refresh=True)

    def _suite(self) -> Bar:
        """Return the bar of the suite: its unit is one epoch of one run."""
        known = {run_id: epochs for view in self.views.values() for run_id, epochs in view.left.items()}
        runs = [self.runs[run_id] for run_id in self.open]
        left = [(run, known.get(run.id, float(epochs_of(run)))) for run in runs if run.trains]
        seconds, unknown = self.paces.left(left)
        says = f"{'at least' if unknown else 'about'} {duration(seconds / len(self.views))} left" if seconds else ""
        epochs = sum(number for _, number in left)
        total = self.bar.tasks[0].total or epochs
        number = self._begun() if self._training() else min(self._begun() + 1, self.cohorts)
        self.bar.update(
            self.task,
            description=f"cohort {number} of {self.cohorts}",
            total=total,
            completed=max(0.0, total - epochs),
            left=says,
        )
        return self.bar

    def _begun(self) -> int:
        return sum(view.begun for view in self.views.values())

    def _training(self) -> int:
        return sum(bool(view.heading) for view in self.views.values())


class Progress(Observer):
    """An observer that describes a cohort as a view: its epoch, rate, losses and metrics."""

    def __init__(self, titles: Mapping[str, tuple[str, str]], show: Callable[[View], None] | None = None) -> None:
        """Observe the cohorts of a process.

        Args:
            titles: (pair, row) by run id, such as ("resnet20->resnet8", "KD").
            show: is called with each new view; without it, each epoch is a log line.
        """
        self.titles, self.show = titles, show
        self.lanes: Sequence[Lane] = ()
        self.begun = 0  # number of cohorts
        self.shown_at = 0.0

    def pending(self, runs: Sequence[RunSpec], cohorts: int) -> None:
        """Take the open runs as what is left of the suite."""
        self.lanes = ()
        self._show(View(pending=tuple(run.id for run in runs), cohorts=cohorts))

    def cohort(self, lanes: Sequence[Lane]) -> None:
        """Start a cohort's table."""
        self.lanes = lanes
        self.clock: Clock | None = None
        self.rate = 0.0  # steps per second, of all lanes together
        self.begun += 1
        self._start_epoch()
        logger.info("%s: training %d together: %s", self._cohort(), len(lanes), ", ".join(map(self._title, lanes)))
        self._log_failures(lanes)
        self._show(self._view())

    def step(self, lanes: Sequence[Lane], step: int, steps: int) -> None:
        """Show the step, a few times per second."""
        now, ends = time.monotonic(), step == steps
        if self.show is not None and (ends or now - self.shown_at > REFRESH_S):
            after = f", {'evaluating' if _metric(lanes[0]) else 'saving'}" if ends else ""
            self.progress = f"step {step}/{steps}{after}"
            self.share = step / steps
            self.clock = lanes[0].clock
            timed = _ids(lanes) if self.share > ENOUGH else ()
            self._show(replace(self._view(), timed=timed, epoch_s=(now - self.began) / self.share))

    def epoch(self, lanes: Sequence[Lane], clock: Clock, seconds: float, steps: int) -> None:
        """Show an epoch's end."""
        self.clock = clock
        self.rate = steps / seconds
        self._start_epoch()
        if self.show is None:
            self._log_epoch(lanes, seconds)
        self._log_failures(lanes)
        self._show(replace(self._view(), timed=_ids(lanes), epoch_s=seconds, measured=True))

    def _start_epoch(self) -> None:
        self.progress, self.share, self.began = "", 0.0, time.monotonic()

    def _show(self, view: View) -> None:
        if self.show is not None:
            self.show(replace(view, begun=self.begun))
            self.shown_at = time.monotonic()

    def _view(self) -> View:
        """Return the state of the cohort, and a row per lane: epoch, loss and metric."""
        running = next((lane for lane in self.lanes if lane.clock == self.clock), self.lanes[0])
        pace = f"{self.rate:.1f} steps/s" if self.rate else ""  # known after an epoch
        state = ", ".join(filter(None, (self._epoch(running), pace, self.progress))) or "starting"
        metric = _metric(running)
        rows = []
        for lane in self.lanes:
            scores = [row[metric] for row in lane.rows if metric in row]
            loss = f"{lane.rows[-1]['loss']:.3f}" if lane.rows else ""
            last, best = (f"{scores[-1]:.2f}", f"{max(scores):.2f}") if scores else ("", "")
            reached = str(lane.clock.epoch - 1) if lane.failure is None else lane.failure.status
            rows.append((self._title(lane), reached, loss, last, best))
        left = dict.fromkeys(_ids(self.lanes), 0.0)
        for lane in self._active():
            left[lane.spec.id] = lane.epochs_left - (self.share if lane.clock == self.clock else 0.0)
        return View(heading=f"{self._cohort()}: {state}", metric=metric, rows=tuple(rows), left=left)

    def _log_epoch(self, lanes: Sequence[Lane], seconds: float) -> None:
        cohort, metric = self._cohort(), _metric(lanes[0])
        rows = [(self._title(lane), lane.rows[-1]) for lane in lanes if lane.failure is None]
        scores = ", ".join(f"{title} {row[metric]:.1f}" for title, row in rows if metric in row)
        losses = ", ".join(f"{title} {row['loss']:.3g}" for title, row in rows)
        numbers = f"{metric} %: {scores}" if scores else f"loss: {losses}"
        left_s = sum(lane.epochs_left for lane in self._active()) * seconds / len(lanes)
        pace = f"{self.rate:.1f} steps/s | {seconds:.1f} s | left {duration(left_s)}"
        logger.info("%s | %s | %s | %s", cohort, self._epoch(lanes[0]), pace, numbers)

    def _active(self) -> list[Lane]:
        return [lane for lane in self.lanes if lane.failure is None and not lane.done]

    def _log_failures(self, lanes: Sequence[Lane]) -> None:
        for lane in lanes:
            if (failure := lane.failure) is not None:
                row = f"{self._cohort()} | {self._title(lane)}"
                logger.warning("%s %s: %s (run %s)", row, failure.status, failure.reason, lane.spec.id)

    def _cohort(self) -> str:
        pairs = dict.fromkeys(self.titles[lane.spec.id][0] for lane in self.lanes)
        return f"{' and '.join(pairs)} {common_seed([lane.spec for lane in self.lanes])}"

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


def _ids(lanes: Sequence[Lane]) -> tuple[str, ...]:
    return tuple(lane.spec.id for lane in lanes)


def _table(view: View) -> list[RenderableType]:
    """Return the state of a process's cohort and the table of its lanes."""
    names = ("row", "epoch", "loss", f"{view.metric} %", "best %")
    table = Table(*(Column(name, justify="left" if name == "row" else "right", overflow="fold") for name in names))
    for title, *numbers in view.rows:
        table.add_row(escape(title), *numbers)
    return [escape(view.heading), table]
