"""Where a plan's runs stand: done, open, or why they will never be. Imports no torch."""

from collections.abc import Collection

from bench.plan.model import Plan
from bench.spec import RunSpec
from bench.store import Store

OPEN = ("waiting", "running")


def run_status(run: RunSpec, plan: Plan, store: Store, retried: Collection[str] = ()) -> tuple[str, str]:
    """Return (status, reason) of a run; one that needs a run which failed or diverged can never start: so did it.

    Args:
        run: one of the plan's.
        plan: which knows what the run needs.
        store: which knows how far each has come.
        retried: ids of runs whose failure is to be forgotten.
    """
    state = store.state(run.id)
    if state == "done":
        return state, ""
    if (failure := store.failure(run.id)) is not None:
        if run.id not in retried:
            return state, failure.reason
        state = "waiting"
    for needed in run.needs:
        status, reason = run_status(plan.runs[needed], plan, store, retried)
        if status in ("failed", "diverged"):
            kind = "training" if needed == run.source else "teacher"
            return status, f"its {kind} {plan.runs[needed].student.network} {status}: {reason}"
        if status == "inapplicable":
            return status, reason
    return state, "another process trains it" if state == "running" else ""


def is_open(run: RunSpec, plan: Plan, store: Store, retried: Collection[str] = ()) -> bool:
    """Return whether a run is still to be trained, and can be: nothing that it needs has failed for good."""
    return run_status(run, plan, store, retried)[0] in OPEN
