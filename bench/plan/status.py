"""The status of a plan's runs: done, open, or why they cannot be trained. Imports no torch."""

from collections.abc import Collection

from bench.plan.model import Plan
from bench.spec import RunSpec
from bench.store import Store

OPEN = ("waiting", "running")


def run_status(run: RunSpec, plan: Plan, store: Store, retried: Collection[str] = ()) -> tuple[str, str]:
    """Return (status, reason) of a run; one that needs a failed or diverged run has the status of that run.

    The failures of runs whose ids are in `retried` are ignored.
    """
    state = store.state(run.id)
    if state == "done":
        return state, ""
    if (failure := store.failure(run.id)) is not None:
        if run.id not in retried:
            named = "" if state == "inapplicable" else f"run {run.id}: "
            return state, f"{named}{failure.reason}"
        state = "waiting"
    for needed in run.needs:
        status, reason = run_status(plan.runs[needed], plan, store, retried)
        if status in ("failed", "diverged"):
            kind = "training" if needed == run.trained_by else "teacher"
            return status, f"its {kind} {plan.runs[needed].student.network} {status}: {reason}"
        if status == "inapplicable":
            return status, reason
    return state, "another process trains it" if state == "running" else ""


def is_open(run: RunSpec, plan: Plan, store: Store, retried: Collection[str] = ()) -> bool:
    """Return whether a run is neither done nor failed, and nothing that it needs has failed."""
    return run_status(run, plan, store, retried)[0] in OPEN
