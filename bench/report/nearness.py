"""Compares the answers of a run with those of its teacher. Imports no torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from bench.plan import Cell
from bench.plan.agreement import teacher_of
from bench.spec import STUDENT, RunSpec
from bench.store import ANSWERS, Store
from bench.store.answers import alike, compared, stored_answers
from bench.store.documents import FILES


@dataclass(frozen=True)
class Nearness:
    """The metrics that compare the answers of runs with those of their teachers, such as their agreement."""

    records: Mapping[str, Mapping[str, Any]]  # of the finished runs, by id
    teachers: Mapping[str, Sequence[RunSpec]]  # see `bench.plan.agreement.teachers_of`
    store: Store | None  # its answers are compared where a record has no metrics; None to compare none

    def of(self, run: RunSpec, cell: Cell) -> Mapping[str, float]:
        """Return these metrics for a cell's run; empty where they are not known."""
        teacher, record = teacher_of(run, cell, self.teachers), self.records.get(run.id, {})
        if teacher is None:
            return {}
        if (known := record.get("to_teacher", {}).get(teacher.id)) is not None:
            return known
        hashes = [(one.get(FILES) or {}).get(ANSWERS) for one in (record, self.records.get(teacher.id, {}))]
        if self.store is None or None in hashes:
            return {}
        return _compared(self.store.root, run.id, teacher.id, *hashes)


@lru_cache(10_000)  # tables are written after each cohort
def _compared(root: Path, run_id: str, teacher: str, *hashes: str) -> Mapping[str, float]:
    """Return the metrics that compare the answers of two runs, whose files have these hashes."""
    own, taught = (stored_answers(Store(root), one) for one in (run_id, teacher))
    return compared(own.logits[STUDENT], taught.logits[STUDENT]) if own and taught and alike(own, taught) else {}
