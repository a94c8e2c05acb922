"""Output of `status` and `--dry-run`: the state of cells, jobs and cohorts. Imports no torch."""

import shlex
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from rich.cells import cell_len
from rich.console import RenderableType
from rich.table import Column, Table

from bench.launch.slurm_queue import Job
from bench.launch.work import Work
from bench.plan import Plan, work_units
from bench.plan.duration import epochs_of, initial_epochs, paces, training_images
from bench.plan.status import OPEN, open_runs, statuses
from bench.program import started_as
from bench.report.frame import Frame
from bench.report.layout import MISSING
from bench.spec import RunSpec, common_seed
from bench.store import Store
from bench.suite import command_word
from bench.terminal.markup import copyable, escape
from bench.text import duration

OUTSIDE = ("pair", "epochs", "reason")  # columns that are lines above and below a narrow table

ONE_EPOCH = ("--set=training.epochs=1", "--set=teacher_training.epochs=1")


def cells_tables(frame: Frame, store: Store, width: int) -> Iterator[RenderableType]:
    """Yield one row per cell: status, seeds done, primary metric, epochs reached, and reasons.

    A table that does not fit into the width is split into one per pair, with epochs and reasons as lines below it.
    """
    plan, results, begun = frame.plan, frame.primary, store.begun()
    unfinished = begun - {run_id for run_id, (status, _) in frame.statuses.items() if status in ("done", "stale")}
    reached = {run.id: _progress(run, plan, store) for run in plan.runs.values() if run.id in unfinished}
    metrics = {one.metric for one in results}
    several = len(metrics) > 1
    number = "%" if several else f"{metrics.pop()} %"
    columns = {
        "pair": [one.pair for one in results],
        "row": [one.label for one in results],
        "metric": [one.metric for one in results if several],
        "status": [one.status for one in results],
        "seeds": [f"{one.n}/{len(one.cell.runs)}" for one in results],
        number: [MISSING if one.mean is None else f"{one.mean:.2f}" for one in results],
        "epochs": [", ".join(filter(None, (reached.get(run.id) for run in one.cell.runs))) for one in results],
        "reason": [one.reason for one in results],
    }
    shown = {head: [escape(text) for text in texts] for head, texts in columns.items() if any(texts)}
    yield f"[bold]{escape(f'{plan.name}: {plan.suite.title}')}[/bold]"
    if sum(max(map(cell_len, [head, *texts])) + 3 for head, texts in shown.items()) < width:
        if not any("\n" in text for texts in shown.values() for text in texts):
            shown = {head: ["\n".join(texts)] for head, texts in shown.items()}  # rich draws one row in half the time
        yield _table(shown)
        return
    for pair in dict.fromkeys(one.pair for one in results):
        own = [place for place, one in enumerate(results) if one.pair == pair]
        yield f"\n{escape(pair)}"
        yield _table({head: [texts[place] for place in own] for head, texts in shown.items() if head not in OUTSIDE})
        for place in own:
            if notes := list(filter(None, (columns["epochs"][place], columns["reason"][place]))):
                yield escape(f"{columns['row'][place]}: {'; '.join(notes)}")


def _table(columns: Mapping[str, Sequence[str]]) -> Table:
    """Return a table of columns, given as markup by their heads."""
    numbers = [head for head in columns if head == "seeds" or head.endswith("%")]
    table = Table(*(Column(head, justify="right" if head in numbers else "left", overflow="fold") for head in columns))
    for row in zip(*columns.values(), strict=True):
        table.add_row(*row)
    return table


def _progress(run: RunSpec, plan: Plan, store: Store) -> str:
    """Return the epoch that an unfinished run has reached and, while it trains, its rate and the time left."""
    if not run.trains or store.record(run.id) is not None or not (rows := store.epochs(run.id)):
        return ""
    last, schedule = rows[-1], run.training
    if last["stage"] == "main":
        stage, epochs, later = "", schedule.epochs, 0
    else:
        stage, epochs, later = "initial ", initial_epochs(run), schedule.epochs
    reached = f"seed {plan.seed_of(run)}: {stage}{last['epoch']}/{epochs}"
    if store.state(run.id) != "running" or "wall_s" not in last:
        return reached
    left_s = (epochs - last["epoch"] + later) * last["wall_s"]
    return f"{reached} ({last['wall_s']:.1f} s per epoch, {duration(left_s)} left)"


def status_document(frame: Frame, store: Store, jobs: Sequence[Job]) -> dict[str, Any]:
    """Return the object that `status --json` prints.

    - `suite`, `title`, `file`: the suite's name, title and path
    - `cells`: per cell of the table `pair`, `teacher`, `student`, `method`, `label`, `evaluation`, `metric`, `n`
      (finished seeds), `mean` and `std` (percent, or null), `status` and `reason` as in `table.csv`, and `runs`
    - `runs`: per run `id`, `seed`, `order_seed` (that of batch order; equal unless the suite crosses seeds), `status`,
      `reason`, and `stage` and `epoch`, the last one reached, or null
    - `jobs`: per job of the cluster `id`, `state` ("" if it has left the queue), `reason`, `log` and `runs` (ids)
    """
    plan, begun = frame.plan, store.begun()

    def run_document(run: RunSpec) -> dict[str, Any]:
        status, reason = frame.statuses[run.id]
        rows = store.epochs(run.id) if run.trains and run.id in begun else []
        stage, epoch = (rows[-1]["stage"], rows[-1]["epoch"]) if rows else (None, None)
        state = {"status": status, "reason": reason, "stage": stage, "epoch": epoch}
        return {"id": run.id, "seed": run.seed, "order_seed": run.ordered_by, **state}

    cells = []
    for one in frame.primary:
        place = {key: getattr(one.cell, key) for key in ("pair", "teacher", "student", "method", "label", "evaluation")}
        result = {key: getattr(one, key) for key in ("metric", "n", "mean", "std", "status", "reason")}
        cells.append({**place, **result, "runs": [run_document(run) for run in one.cell.runs]})
    shown_jobs = [
        {"id": job.id, "state": job.state, "reason": job.reason, "log": str(job.log), "runs": job.runs} for job in jobs
    ]
    suite = {"suite": plan.name, "title": plan.suite.title, "file": str(plan.file)}
    return suite | {"cells": cells, "jobs": shown_jobs}


def job_lines(plan: Plan, store: Store, jobs: Sequence[Job]) -> Iterator[str]:
    """Yield one line per job of runs that are not done, followed by the end of its log if the job has failed."""
    titles = plan.titles
    latest = {run_id: job for job in jobs for run_id in job.runs}
    left = {run.id: run for run in open_runs((plan.runs[name] for name in latest if name in plan.runs), plan, store)}
    for job in dict.fromkeys(latest[run_id] for run_id in plan.runs if run_id in left):
        runs = [left[run_id] for run_id in job.runs if run_id in left and latest[run_id] == job]
        pairs = ", ".join(dict.fromkeys(titles[run.id][0] for run in runs))
        labels = ", ".join(dict.fromkeys(titles[run.id][1] for run in runs))
        title = escape(f"job {job.id}: {pairs} {common_seed(runs)}, {labels}")
        if job.state:
            reason = f" ({job.reason})" if job.reason else ""
            yield f"{title}: {job.state.lower()}{reason}"
        elif any(store.state(run.id) == "waiting" for run in runs):
            yield f"{title}: failed, its log {escape(str(job.log))} ends:"
            for line in job.log_tail or ["(nothing: it never started)"]:
                yield f"    {escape(line)}"


def submission_lines(work: Work, jobs: Sequence[Job]) -> Iterator[RenderableType]:
    """Yield one line per array of jobs that were submitted, where their logs are, and how to follow and cancel them."""
    arrays: dict[str, list[Job]] = {}
    for job in jobs:
        arrays.setdefault(job.array, []).append(job)
    for array, members in arrays.items():
        runs = sum(len(job.runs) for job in members)
        waits = ", after the jobs they depend on" if members[0].reason else ""
        what = f"{len(members)} task(s), {runs} run(s)" if runs else "chooses settings, and submits the next runs"
        yield f"job {array}: {what}{waits}"
    yield f"Logs: {escape(str(jobs[0].log.parent))}" if jobs else "Nothing to submit: all runs are in jobs already"
    plan, where = work.plan, [command_word(work.plan.file), "--results", str(work.results)]
    settings = [*(f"--set={change}" for change in plan.changes), *(f"--plugin={path}" for path in work.plugins)]
    yield copyable(f"status: {started_as()} status {shlex.join([*where, *settings])}")
    yield copyable(f"cancel: {started_as()} cancel {shlex.join(where)}")


def stale_lines(frame: Frame) -> Iterator[str]:
    """Yield one line per stale run: its id, place and reason."""
    titles = frame.plan.titles
    for run in frame.plan.runs.values():
        status, reason = frame.statuses[run.id]
        if status == "stale":
            yield escape(f"stale: run {run.id}, {' '.join(titles[run.id])} seed {frame.plan.seed_of(run)}: {reason}")


def plan_tables(
    plan: Plan,
    store: Store,
    wanted: Sequence[RunSpec],
    reasons: Mapping[str, str],
    retried: Collection[str],
    device: str,
    in_jobs: Collection[str] | None = None,
) -> Iterator[Any]:
    """Yield the output of `--dry-run`: cohorts in the order of training, inapplicable rows, counts, and the time.

    With `in_jobs`, the ids of the runs that jobs on a cluster train already, it also has the number of jobs to submit.
    """
    titles = plan.titles
    states = {run_id: status for run_id, (status, _) in statuses(wanted, plan, store, retried).items()}
    to_train = [run for run in wanted if run.id not in reasons and states[run.id] in OPEN]
    for number, cohort in enumerate(work_units(to_train, plan.suite.max_lanes), start=1):
        needs = sorted(needed for needed in cohort.needs if states.get(needed) != "done")
        after = f", after {', '.join(needs)}" if needs else ""
        yield f"[bold]cohort {number}[/bold], {common_seed(cohort.runs)}{after}"
        table = Table.grid(padding=(0, 2))
        table.add_column(no_wrap=True)
        for run in cohort.runs:
            initial = f"{initial_epochs(run)} + " if run.trains and run.training.has_initial_stage else ""
            epochs = f"{initial}{run.training.epochs} epochs" if run.trains else "evaluate"
            crossed = [f"seed {plan.seed_of(run)}"] if plan.suite.crossed else []
            table.add_row(f"  {run.id}", epochs, *map(escape, titles[run.id]), *crossed)
        yield table
    for reason in dict.fromkeys(reasons.values()):
        rows = dict.fromkeys(" ".join(titles[run_id]) for run_id, why in reasons.items() if why == reason)
        yield f"inapplicable: {escape(', '.join(rows))}: {escape(reason)}"
    shown = {run.id for run in to_train} | set(reasons)
    ended = Counter(status for run_id, status in states.items() if run_id not in shown)
    counts = ", ".join(f"{count} {status}" for status, count in ended.items())
    others = f"; {counts}" if counts else ""
    yield f"{len(to_train)} run(s) to train, {len(reasons)} inapplicable{others}"
    awaited = [cell for cell in plan.cells if cell.awaits and states.keys() & _ids(cell.wanted)]
    final = [run for cell in awaited for run in cell.runs]
    later = [run for cell in awaited if cell.choice for run in cell.choice.later]
    if final:
        tried = len(plan.trial_ids & _ids(to_train))
        rungs = f"up to {len(later)} run(s) train in later rungs, and then " if later else ""
        yield (
            f"{tried} of them are trials; when these have ended, {rungs}{len(final)} run(s) train with the chosen "
            "settings. An estimated time includes these"
        )
    if in_jobs is not None:
        submitted = [run for run in to_train if run.id in retried or run.id not in in_jobs]
        jobs = len(work_units(submitted, plan.suite.max_lanes))
        chooses = bool(jobs and plan.awaited)
        choice = ", and one that chooses settings" if chooses else ""
        yield f"{jobs + chooses} job(s) to submit, one per cohort{choice}"
    yield from _time(plan, store, [run for run in to_train if run.trains], [*later, *final], retried, device)


def _ids(runs: Sequence[RunSpec]) -> set[str]:
    return {run.id for run in runs}


def _time(
    plan: Plan, store: Store, runs: Sequence[RunSpec], later: Sequence[RunSpec], retried: Collection[str], device: str
) -> Iterator[RenderableType]:
    """Yield how long runs will train and, unless that is known of all of them, how to measure it.

    `later` are runs whose settings are not chosen yet: they take as long as with the row's own settings.
    """
    if not runs:
        return
    known, begun = paces(plan, store, device), store.begun() - set(retried)
    left = [(run, epochs_of(run) - (len(store.epochs(run.id)) if run.id in begun else 0)) for run in runs]
    left += [(run, epochs_of(run)) for run in later]
    seconds, unknown = known.left(left)
    if seconds:
        part = f", for {len(left) - unknown} of {len(left)} runs" if unknown else ""
        yield escape(f"time: about {duration(seconds)} {known.source}{part}")
    if unknown:
        yield "To measure the others:" if seconds else "time: unknown. To measure it:"
        words = [command_word(plan.file), "--results", str(store.root), *plan.options]
        is_counted = all(training_images(run.data) is not None for run in runs)
        words = ["cost", *words] if is_counted else [*words, *ONE_EPOCH]
        yield copyable(f"  {started_as()} {shlex.join(words)}")
