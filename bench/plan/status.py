"""The status of runs: done, open, stale because code or a teacher has changed, or refused. Imports no torch.

A finished run is stale if the code of its methods has changed since, or the weights of the runs that it needed, or if a
run that it needs is stale itself. Its numbers are shown nowhere.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

from bench.plan.model import Plan
from bench.spec import RunSpec
from bench.store import Store
from methods import Code

OPEN = ("waiting", "running")
Statuses = dict[str, tuple[str, str]]  # status and reason by run id


class Change(NamedTuple):
    """What has changed since a run was trained."""

    what: str
    remedy: str
    of_method: bool  # else, of weights
    of_own: bool  # whether the method is the project's own

    @property
    def reason(self) -> str:
        """Return why the run is stale, and what to do."""
        return f"{self.what}: {self.remedy}"


def statuses(runs: Iterable[RunSpec], plan: Plan, store: Store, retried: Collection[str] = ()) -> Statuses:
    """Return (status, reason) of runs by id; every file is read once.

    A run that needs a failed, diverged or stale run has the status of that run. The earlier results and the failures of
    runs whose ids are in `retried` are ignored.
    """
    look = _Look(plan, store, retried)
    return {run.id: look.status(run) for run in runs}


def open_runs(runs: Iterable[RunSpec], plan: Plan, store: Store, retried: Collection[str] = ()) -> list[RunSpec]:
    """Return the runs that are neither done nor failed, and nothing that they need has failed."""
    runs = list(runs)
    status_of = statuses(runs, plan, store, retried)
    return [run for run in runs if status_of[run.id][0] in OPEN]


def run_status(run: RunSpec, plan: Plan, store: Store, retried: Collection[str] = ()) -> tuple[str, str]:
    """Return (status, reason) of a run, as `statuses` does."""
    return _Look(plan, store, retried).status(run)


def to_train_again(runs: Iterable[RunSpec], plan: Plan, store: Store, everything: bool = False) -> list[str]:
    """Return the ids of the stale runs that train again: those of plug-ins, or `everything`, and what needs them.

    `runs` are in the plan's order.
    """
    again: dict[str, None] = {}
    for run in runs:
        if (record := store.record(run.id)) is not None:
            change = changed(run, record, plan.code, store)
            if again.keys() & set(run.needs) or (change and (everything or (change.of_method and not change.of_own))):
                again[run.id] = None
    return list(again)


def changed(run: RunSpec, record: Mapping[str, Any], methods: Mapping[str, Code], store: Store) -> Change | None:
    """Return what has changed since a finished run was trained, or None; what its record does not name has not."""
    for name, digest in record.get("methods_sha256", {}).items():
        code = methods.get(name)
        if code is not None and not code.made(digest):
            remedy = "raise version= in its @register" if code.is_own else "the next run trains it again"
            remedy = f"{remedy}; or --accept-changed, if no number moved"
            return Change(f"{code.path.name} has changed since", remedy, of_method=True, of_own=code.is_own)
    weights = {**record.get("teachers_sha256", {}), run.trained_by: record.get("source_sha256")}
    for needed in run.needs:
        current = store.weights_sha256(needed)
        if current is not None and weights.get(needed, current) != current:
            what = f"the weights of run {needed}, which it needs, have changed since"
            return Change(what, "--retry-failed trains it again", of_method=False, of_own=False)
    return None


class _Look:
    """One look at the store: what it says of a plan's runs."""

    def __init__(self, plan: Plan, store: Store, retried: Collection[str]) -> None:
        self.plan, self.store, self.retried = plan, store, retried
        self.begun = store.begun()  # only these may have files
        self.known: Statuses = {}

    def status(self, run: RunSpec) -> tuple[str, str]:
        """Return (status, reason) of a run, which is looked up once."""
        if run.id not in self.known:
            self.known[run.id] = self._status(run)
        return self.known[run.id]

    def _status(self, run: RunSpec) -> tuple[str, str]:
        is_begun = run.id in self.begun and run.id not in self.retried
        record = self.store.record(run.id) if is_begun else None
        state: str = "waiting"
        if record is not None:
            state = "done"
            if (change := changed(run, record, self.plan.code, self.store)) is not None:
                return "stale", change.reason
        elif is_begun:
            state = self.store.state(run.id)
            if (failure := self.store.failure(run.id)) is not None:
                return state, failure.reason if state == "inapplicable" else f"{failure.reason} (run {run.id})"
        for needed in run.needs:
            status, reason = self.status(self.plan.runs[needed])
            kind = "training" if needed == run.trained_by else "teacher"
            if status == "stale" or (status in ("failed", "diverged") and state != "done"):
                return status, f"its {kind} {self.plan.runs[needed].student.network} {status}: {reason}"
            if status == "inapplicable" and state != "done":
                return status, reason
        return state, "another process trains it" if state == "running" else ""
