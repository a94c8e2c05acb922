"""Continues a lane from its checkpoint, unless that is damaged or what it was trained from has changed since."""

import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from bench.spec import NETWORK
from bench.store import CHECKPOINT, Store
from bench.train.lane import Lane
from bench.train.memory import is_out_of_memory
from bench.types import RequestError

logger = logging.getLogger(__name__)


def resume(lane: Lane, store: Store, accept_changed: bool) -> None:
    """Continue from the run's checkpoint, if it has one, and make its epochs file agree with it.

    A checkpoint that is damaged, or was trained from other weights or code, is set aside: the run starts anew.

    Raises:
        Exception: it cannot be read, or not with this memory, and stays where it is; or its state does not fit.
    """
    run_id = lane.spec.id
    try:
        content = store.checkpoint(run_id)
        state = None if content is None else lane.opened(content)
    except Exception as error:  # torch raises many kinds for a damaged file
        if _says_nothing_of_the_file(error):
            raise
        reason = " ".join(str(error).split())[:200]
        _start_anew(lane, store, f"{CHECKPOINT} is damaged ({reason})", ".broken")
        state = None
    if state is not None and (change := _changed(lane, state.get("made_from") or {}, accept_changed)):
        _start_anew(lane, store, change, ".stale")
        state = None
    if state is not None:
        try:
            lane.restore(state)
        except Exception as error:  # it is from other code
            if _says_nothing_of_the_file(error):
                raise
            aside = store.set_aside(run_id, CHECKPOINT, ".broken")
            reason = " ".join(str(error).split())[:200]
            raise ValueError(
                f"{CHECKPOINT} cannot be restored ({reason}) and is now {aside}; "
                "--retry-failed trains the run from its start"
            ) from error
    store.write_epochs(run_id, lane.rows)


def _says_nothing_of_the_file(error: Exception) -> bool:
    """Return whether a checkpoint may be sound although an exception was raised when it was read."""
    return isinstance(error, OSError | RequestError) or is_out_of_memory(error)


def _start_anew(lane: Lane, store: Store, reason: str, suffix: str) -> None:
    aside = store.set_aside(lane.spec.id, CHECKPOINT, suffix)
    if lane.group.rank == 0:
        logger.warning("run %s: %s: its checkpoint is now %s, and it starts anew", lane.spec.id, reason, aside)


def _changed(lane: Lane, before: Mapping[str, Any], accept_changed: bool) -> str | None:
    """Return what has changed since a checkpoint was written; None if nothing has, or it is accepted and recorded."""
    for run_id, digest in before.get("teachers_sha256", {}).items():
        if lane.made_from.get("teachers_sha256", {}).get(run_id, digest) != digest:
            return f"the weights of its teacher, run {run_id}, have changed since it began"
    if before.get("source_sha256") != lane.made_from.get("source_sha256", before.get("source_sha256")):
        return f"the weights of run {lane.spec.trained_by}, which it evaluates, have changed since it began"
    code = before.get("methods_sha256", {})
    changed = [name for name, digest in lane.made_from.get("methods_sha256", {}).items() if code.get(name) != digest]
    accepted = list(before.get("accepted", ()))
    if changed and code:
        if not accept_changed:
            what = changed[0] if changed[0].startswith(NETWORK) else f"{changed[0]}.py"
            return f"{what} has changed since it began (--accept-changed: no number moved)"
        accepted.append({"date": datetime.now(UTC).date().isoformat(), "methods_sha256": code})
    if accepted:
        lane.made_from["accepted"] = accepted
    return None
