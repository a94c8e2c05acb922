"""Whether a report is up to date, so that it need not be written again. Imports no torch."""

import hashlib
import json
from pathlib import Path

from bench.program import code_hash
from bench.report.folder import COST, PAPER, files_of, is_of_paper, note, noted
from bench.report.frame import Frame
from bench.store import ANSWERS, EPOCHS, OUTPUTS, Store
from bench.types import StyleName

CODE = ("*.py", "*.js", "*.css", "*.j2")  # of this program, from which a report is made, too


def is_current(frame: Frame, store: Store, style: StyleName) -> bool:
    """Return whether the report in its folder was made of exactly this, and nobody has changed its files since."""
    present = noted(store.suite_folder(frame.plan.folder))
    if present is None or (style == PAPER and not any(map(is_of_paper, present.figures))):
        return False
    if not present.inputs or present.inputs != inputs(frame, store):
        return False
    return present.outputs == outputs(frame, store)


def mark_current(frame: Frame, store: Store, made_of: str) -> None:
    """Note that the report is what is made of these inputs."""
    note(frame.plan, store, inputs=made_of, outputs=outputs(frame, store))


def inputs(frame: Frame, store: Store) -> str:
    """Return a digest of all that a report is made of: plan, results, epochs, outputs, costs, and this program.

    Large files are known by the hashes in their run's record, which are checked when they are read.
    """
    plan = frame.plan
    begun = sorted(store.begun() & plan.runs.keys())
    parts = [
        code_hash(*CODE),
        plan.text,
        plan.folder,
        *plan.changes,
        *map(str, plan.plugins),
        json.dumps(dict(plan.sources), sort_keys=True, default=str),
        json.dumps([sorted(frame.statuses.items()), sorted(frame.records.items())], sort_keys=True),
        *(_of_file(store.folder(run_id) / EPOCHS) for run_id in begun),
        *(_size(store.folder(run_id) / name) for run_id in begun for name in (OUTPUTS, ANSWERS)),
        _of_file(plan.absolute),
        _of_file(store.suite_folder(plan.folder) / COST),
    ]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def outputs(frame: Frame, store: Store) -> str:
    """Return a digest of the files of the report that is there."""
    folder = store.suite_folder(frame.plan.folder)
    present = noted(folder)
    files = files_of(present) if present else []
    return hashlib.sha256("\0".join(f"{name} {_of_file(folder / name)}" for name in files).encode()).hexdigest()


def _of_file(path: Path) -> str:
    """Return a file's hash; "" if it cannot be read."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ""


def _size(path: Path) -> str:
    try:
        return str(path.stat().st_size)
    except OSError:
        return ""
