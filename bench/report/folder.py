"""A suite's folder in the results, and when a report goes elsewhere instead of replacing it. Imports no torch.

The report is in `<results>/<suite name>/`, with `suite.json`, which says what it shows. Below it are
`with_<changes>/`, the report of the suite as `--seeds` or `--set` changed it, and `unfinished/`, a report with fewer
finished runs than the one above it.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter

from bench.plan import Plan
from bench.plan.duration import COST
from bench.report.frame import Frame
from bench.store import Store, write_whole
from bench.store.files import count_in, read_as, read_csv, writing
from bench.text import file_name, short_hash
from bench.types import RequestError, StyleName

SUITE = "suite.json"
TABLES = ("table.csv", "table.md", "table.tex")
STATISTICS = ("statistics.csv", "statistics.md")
VARIANCE = "variance.csv"
TUNING = ("tuning.csv", "tuning.md")
PAGE, EPOCHS, CLASSES = "report.html", "epochs.csv", "classes.csv"
FIGURES, UNFINISHED = "figures", "unfinished"
PAPER: StyleName = "paper"  # and the name of the folder below `FIGURES`
FigureName = Annotated[str, Field(pattern=rf"^({PAPER}/)?[^/.][^/]*$")]  # no path out of the folder: files are moved
WITHOUT_EFFECT = {"slurm", "max_lanes", "threads", "workers", "tensorboard"}  # keys that change no run's identity


@dataclass(frozen=True)
class Shown:
    """What the report in a folder shows."""

    file: str  # the suite file, relative to the results
    sha256: str  # of the suite file
    changes: Sequence[str]  # of the suite file, from the command line
    finished: Sequence[str] = ()  # ids of finished runs
    figures: Sequence[FigureName] = ()  # of the figures' files, which this program may remove
    plugins: Sequence[str] = ()  # method files outside this project, with their paths as they were given
    inputs: str = ""  # digests of what the whole report was made of, and of its files; see `bench.report.current`
    outputs: str = ""


SHOWN = TypeAdapter(Shown)


def files_of(shown: Shown) -> list[str]:
    """Return the names of the files that a report may have written, below its folder."""
    figures = (f"{FIGURES}/{name}" for name in shown.figures)
    return [*TABLES, *STATISTICS, VARIANCE, *TUNING, PAGE, EPOCHS, CLASSES, *figures]


def is_of_paper(figure: str) -> bool:
    """Return whether a figure's file, by its name below `FIGURES`, is in the style for papers."""
    return figure.startswith(f"{PAPER}/")


def noted(folder: Path) -> Shown | None:
    """Return what suite.json says of the report in a folder; None if there is none."""
    return read_as(SHOWN, folder / SUITE)


def shown(folder: Path) -> Shown | None:
    """Return what the report in a folder shows; None if there is none, or an earlier version wrote it."""
    return noted(folder) if (folder / TABLES[0]).exists() else None


def note(
    plan: Plan,
    store: Store,
    finished: Sequence[str] | None = None,
    figures: Sequence[str] | None = None,
    inputs: str = "",
    outputs: str = "",
) -> None:
    """Write suite.json: which suite file the report of a plan is of, and what it shows.

    Arguments that are None keep their earlier values. Without the digests, the report does not count as up to date.
    """
    folder = store.suite_folder(plan.folder)
    now = _of(plan, store)
    known = noted(folder) or now
    now = replace(
        now,
        finished=known.finished if finished is None else finished,
        figures=known.figures if figures is None else figures,
        inputs=inputs,
        outputs=outputs,
    )
    write_whole(folder / SUITE, json.dumps(asdict(now), indent=1) + "\n")


def in_own_folder(plan: Plan, store: Store) -> Plan:
    """Return a plan with the folder of its report.

    That is the suite's folder or, for a plan with changes if another report is there, one below it.

    Raises:
        RequestError: another suite file of the same name has its report there.
    """
    own, folder = _of(plan, store), store.suite_folder(plan.name)
    present = shown(folder)
    if present and present.file != own.file and present.sha256 != own.sha256:
        raise RequestError(
            f"{plan.file}: the results of another suite file of this name, {present.file}, are in {folder}. Rename the "
            f"suite file, move that folder, or name another folder of results with --results"
        )
    is_there = present is not None or (folder / TABLES[0]).exists()
    if is_there and own.changes and (present is None or present.changes != own.changes):
        return replace(plan, subfolder=_named(own.changes))
    return plan


def placed(frame: Frame) -> Frame:
    """Return results with the folder of their report, chosen so that no report with more finished runs is replaced.

    If the suite's own folder has a report of the changed suite, that report moves to the folder of its changes.
    """
    plan, store = in_own_folder(frame.plan, frame.store), frame.store
    folder = store.suite_folder(plan.folder)
    present = shown(folder)
    if present and present.changes and not _of(plan, store).changes:
        _move(folder, folder / _named(present.changes), present)
        return replace(frame, plan=plan)
    before, now = _counts(frame, folder, present)
    if now >= before:
        return replace(frame, plan=plan)
    reason = (
        f"{folder}: its report shows {before} finished run(s), this one would show {now}, so it does not replace it. "
        "To replace it, move that folder away; to keep it, rename the suite file or use --results"
    )
    return replace(frame, plan=replace(plan, subfolder=str(Path(plan.subfolder, UNFINISHED))), aside=reason)


def _of(plan: Plan, store: Store) -> Shown:
    file = os.path.relpath(plan.absolute, store.root.resolve())  # holds when both move
    changes = [change for change in plan.changes if change.partition("=")[0].partition(".")[0] not in WITHOUT_EFFECT]
    return Shown(file, hashlib.sha256(plan.text.encode()).hexdigest(), changes, plugins=plan.plugins)


def _named(changes: Sequence[str]) -> str:
    text = f"with_{','.join(changes)}"
    return text if re.fullmatch(r"[\w.,=-]{1,80}", text, re.ASCII) else f"{file_name(text, 71)}-{short_hash(text)}"


def _counts(frame: Frame, folder: Path, present: Shown | None) -> tuple[int, int]:
    """Return the number of finished runs in the present report of a folder, and in a new one.

    The new report also counts finished runs that failed or are trained again, but that the store knows.
    """
    statuses = {run_id: status for run_id, (status, _) in frame.statuses.items()}
    done = {run_id for run_id, status in statuses.items() if status in ("done", "stale")}
    if present is not None:  # it may show runs that are trained again, or have failed since
        waits = {run_id for run_id in present.finished if statuses.get(run_id, "waiting") == "waiting"}
        known = {run_id for run_id in present.finished if run_id not in waits or frame.store.is_put_aside(run_id)}
        return len(present.finished), len(done | known)
    before = finished_seeds(cells_of_table(folder))
    return before, sum(run.id in done for one in frame.primary for run in one.cell.runs)


def cells_of_table(folder: Path) -> list[dict[str, str]]:
    """Return the rows of table.csv in a folder that have its first metric: one per cell; none without the file.

    Raises:
        RequestError: it cannot be read.
    """
    rows = read_csv(folder / TABLES[0])
    return [row for row in rows if row.get("metric") == rows[0].get("metric")]


def finished_seeds(cells: Iterable[Mapping[str, str]]) -> int:
    """Return the number of finished seeds of all cells of a table."""
    return sum(count_in(cell, "n") for cell in cells)


def _move(folder: Path, to: Path, present: Shown) -> None:
    names = (*files_of(present), COST, SUITE)
    with writing(to):  # what stands in the way is named before anything moves
        for name in names:
            (to / name).parent.mkdir(parents=True, exist_ok=True)
        for name in names:
            with suppress(FileNotFoundError):
                (folder / name).replace(to / name)
