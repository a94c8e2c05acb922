"""Whether a report is up to date, so that it need not be written again. Imports no torch."""

import hashlib
import json
from pathlib import Path

from bench.plan.duration import COST
from bench.program import code_hash
from bench.reading import read_bytes
from bench.report.folder import PAPER, files_of, is_of_paper, note, noted
from bench.report.frame import Frame
from bench.store import ANSWERS, EPOCHS, OUTPUTS
from bench.types import RequestError, StyleName

CODE = ("*.py", "*.js", "*.css", "*.j2")  # files of this program; a report depends on them too


def is_current(frame: Frame, style: StyleName) -> bool:
    """Return whether the report in the folder was made from these results, and its files have not changed since."""
    present = noted(frame.folder)
    if present is None or (style == PAPER and not any(map(is_of_paper, present.figures))):
        return False
    if not present.inputs or present.inputs != inputs(frame):
        return False
    return present.outputs == outputs(frame)


def mark_current(frame: Frame, made_of: str) -> None:
    """Record that the report was made from inputs with this digest."""
    note(frame.plan, frame.store, inputs=made_of, outputs=outputs(frame))


def inputs(frame: Frame) -> str:
    """Return a digest of what a report is made from: plan, results, epochs, outputs, costs, and this program.

    Of large files, only the size counts: their run's record has their hashes, which are checked when they are read.
    """
    plan, store = frame.plan, frame.store
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
        _of_file(frame.folder / COST),
    ]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def outputs(frame: Frame) -> str:
    """Return a digest of the files of the present report."""
    present = noted(frame.folder)
    files = files_of(present) if present else []
    return hashlib.sha256("\0".join(f"{name} {_of_file(frame.folder / name)}" for name in files).encode()).hexdigest()


def _of_file(path: Path) -> str:
    """Return a file's hash; "" if it cannot be read."""
    try:
        return hashlib.sha256(read_bytes(path)).hexdigest()
    except (OSError, RequestError):
        return ""


def _size(path: Path) -> str:
    try:
        return str(path.stat().st_size)
    except OSError:
        return ""
